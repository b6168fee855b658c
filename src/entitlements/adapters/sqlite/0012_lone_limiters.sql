-- Processes that count limits in their own memory, so that each finds the others.
CREATE TABLE lone_limiters (
    name       TEXT PRIMARY KEY,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
