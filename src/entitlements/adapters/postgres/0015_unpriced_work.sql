-- Work of a metric that no policy knows is a debt without a price. Programs of the version before read the column and
-- never write null into it.
ALTER TABLE debts ALTER COLUMN owed DROP NOT NULL;

CREATE INDEX debts_unpriced ON debts (metric, created_at, operation_id) WHERE closed_by IS NULL AND owed IS NULL;

-- What was filed before, and charged to nobody.
INSERT INTO debts (subject_type, subject_id, credit_type, operation_id, metric, created_at)
SELECT subject_type, subject_id, credit_type, id, coalesce(metric, credit_type), created_at
FROM credit_operations
WHERE operation_status = 'failed' AND kind = 'consume' AND reason = 'policy_denied' AND owed = 0
ON CONFLICT DO NOTHING;
