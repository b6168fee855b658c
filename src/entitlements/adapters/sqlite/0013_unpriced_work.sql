-- Work of a metric that no policy knows is a debt without a price. A column's NOT NULL cannot be dropped: the table is
-- made again.
CREATE TABLE debts_now (
    subject_type TEXT NOT NULL,
    subject_id   TEXT NOT NULL,
    credit_type  TEXT NOT NULL,
    operation_id TEXT NOT NULL,
    owed         INTEGER CHECK (owed > 0), -- null: without a price
    metric       TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    closed_by    TEXT,
    PRIMARY KEY (subject_type, subject_id, credit_type, operation_id)
) STRICT, WITHOUT ROWID;

INSERT INTO debts_now (subject_type, subject_id, credit_type, operation_id, owed, metric, created_at, closed_by)
SELECT subject_type, subject_id, credit_type, operation_id, owed, metric, created_at, closed_by FROM debts;
DROP TABLE debts;
ALTER TABLE debts_now RENAME TO debts;

CREATE UNIQUE INDEX debts_operation ON debts (operation_id);
CREATE INDEX debts_open ON debts (created_at, operation_id) WHERE closed_by IS NULL;
CREATE INDEX debts_open_of ON debts (subject_type, subject_id, credit_type, created_at, operation_id)
    WHERE closed_by IS NULL;
CREATE INDEX debts_closed ON debts (created_at, operation_id) WHERE closed_by IS NOT NULL;
CREATE INDEX debts_unpriced ON debts (metric, created_at, operation_id) WHERE closed_by IS NULL AND owed IS NULL;

-- What was filed before, and charged to nobody.
INSERT INTO debts (subject_type, subject_id, credit_type, operation_id, metric, created_at)
SELECT subject_type, subject_id, credit_type, id, coalesce(metric, credit_type), created_at
FROM credit_operations
WHERE operation_status = 'failed' AND kind = 'consume' AND reason = 'policy_denied' AND owed = 0
ON CONFLICT DO NOTHING;
