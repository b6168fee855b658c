-- The history of an older service, to be read only: its operations are no lines of the ledger and move no balance.
-- An id is unique within the older service, whose times order the listing.
CREATE TABLE imported_operations (
    subject_type     TEXT NOT NULL CHECK (subject_type IN ('org', 'user')),
    subject_id       TEXT NOT NULL CHECK (subject_id <> ''),
    id               TEXT NOT NULL CHECK (id <> ''),
    credit_type      TEXT NOT NULL,
    metric           TEXT NOT NULL,
    amount           INTEGER NOT NULL,
    batch_id         TEXT,
    consumed_from    TEXT,
    correlation_id   TEXT,
    operation_status TEXT NOT NULL,
    created_at       INTEGER NOT NULL,
    PRIMARY KEY (subject_type, subject_id, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX imported_operations_of ON imported_operations (subject_type, subject_id, created_at, id);
CREATE INDEX imported_operations_time ON imported_operations (created_at, id);
CREATE INDEX imported_operations_correlated ON imported_operations (correlation_id, created_at, id)
    WHERE correlation_id IS NOT NULL;
