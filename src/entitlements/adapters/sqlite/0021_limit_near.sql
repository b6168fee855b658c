-- Limits that are near, the last event of each window: events without an operation.

CREATE TABLE limit_near (
    subject_type TEXT NOT NULL CHECK (subject_type IN ('org', 'user')),
    subject_id   TEXT NOT NULL,
    metric       TEXT NOT NULL,
    window_s     INTEGER NOT NULL CHECK (window_s > 0),
    event_id     TEXT NOT NULL,
    event_type   TEXT NOT NULL,
    key          TEXT NOT NULL,
    payload      TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    again_at     INTEGER NOT NULL, -- a window after created_at: before, no other event
    published_at INTEGER,
    PRIMARY KEY (subject_type, subject_id, metric, window_s)
) STRICT, WITHOUT ROWID;

CREATE INDEX limit_near_over ON limit_near (again_at);
CREATE INDEX limit_near_unpublished ON limit_near (created_at) WHERE published_at IS NULL;
