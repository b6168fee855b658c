-- What a wallet owes is summed from this index alone, and its oldest debts with a price are found by it.
CREATE INDEX debts_owing ON debts (subject_type, subject_id, credit_type, created_at, operation_id) INCLUDE (owed)
    WHERE closed_by IS NULL AND owed IS NOT NULL;
