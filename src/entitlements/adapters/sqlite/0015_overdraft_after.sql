-- What a wallet owed right after an operation that changed its overdraft. By these operations a reversal learns which
-- grants have repaid what was overdrawn; of those of earlier programs nothing is known.
ALTER TABLE credit_operations ADD COLUMN overdraft_after INTEGER CHECK (overdraft_after >= 0);

CREATE INDEX credit_operations_repaid ON credit_operations (subject_type, subject_id, credit_type, seq)
    WHERE overdraft_after IS NOT NULL AND kind <> 'consume';
