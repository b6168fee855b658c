-- Limits that were exceeded, once for each subject, metric and minute: events without an operation.

CREATE TABLE limit_exceeded (
    subject_type TEXT NOT NULL CHECK (subject_type IN ('org', 'user')),
    subject_id   TEXT NOT NULL,
    metric       TEXT NOT NULL,
    minute       INTEGER NOT NULL CHECK (minute > 0), -- since 1970
    event_id     TEXT NOT NULL,
    event_type   TEXT NOT NULL,
    key          TEXT NOT NULL,
    payload      TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    published_at INTEGER,
    PRIMARY KEY (subject_type, subject_id, metric, minute)
) STRICT, WITHOUT ROWID;

CREATE INDEX limit_exceeded_created ON limit_exceeded (created_at);
CREATE INDEX limit_exceeded_unpublished ON limit_exceeded (created_at) WHERE published_at IS NULL;
