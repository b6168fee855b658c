-- Calls of lifecycle handlers that are still to be made, in the order of each subscription's versions.
CREATE TABLE lifecycle_calls (
    subscription_id TEXT NOT NULL,
    version         INTEGER NOT NULL,
    handler         TEXT NOT NULL CHECK (handler <> ''),
    change          TEXT NOT NULL CHECK (change IN ('activated', 'changed', 'past_due', 'cancelled', 'expired')),
    subject_type    TEXT NOT NULL CHECK (subject_type IN ('org', 'user')),
    subject_id      TEXT NOT NULL,
    plan_id         TEXT NOT NULL,
    old_plan_id     TEXT NOT NULL,
    at              INTEGER NOT NULL, -- when the change took effect
    operation_id    TEXT NOT NULL,
    correlation_id  TEXT NOT NULL,
    created_at      INTEGER NOT NULL,
    attempts        INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_at         INTEGER NOT NULL, -- of the next attempt, or the end of this one's lease
    last_error      TEXT,
    PRIMARY KEY (subscription_id, version)
) STRICT, WITHOUT ROWID;

CREATE INDEX lifecycle_calls_due ON lifecycle_calls (next_at);
