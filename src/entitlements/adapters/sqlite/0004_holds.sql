-- Credits set aside before work: a row for each credit type of a hold, naming the grants that back it.

CREATE TABLE holds (
    subject_type   TEXT NOT NULL,
    subject_id     TEXT NOT NULL,
    credit_type    TEXT NOT NULL,
    id             TEXT NOT NULL,
    user_id        TEXT NOT NULL,
    org_id         TEXT,
    requirements   TEXT, -- units by metric, as JSON; none: taken for credits
    taken          INTEGER NOT NULL CHECK (taken BETWEEN 0 AND 1000000000000000),
    held           INTEGER NOT NULL,
    charged        INTEGER NOT NULL,
    returned       INTEGER NOT NULL,
    backing        TEXT NOT NULL, -- [[grant, what is still held of it], ...]
    status         TEXT NOT NULL CHECK (status IN ('open', 'settled', 'released', 'lapsed')),
    expires_at     INTEGER NOT NULL,
    settled        TEXT NOT NULL, -- units by metric so far, as JSON
    closing        TEXT, -- what closed it, and its answer, as JSON
    correlation_id TEXT NOT NULL,
    policy_version TEXT NOT NULL,
    actor          TEXT NOT NULL,
    client         TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    closed_at      INTEGER,
    PRIMARY KEY (subject_type, subject_id, credit_type, id),
    CHECK (held >= 0 AND charged >= 0 AND returned >= 0 AND held + charged + returned = taken),
    CHECK (status = 'open' OR held = 0),
    CHECK ((held = 0) = (backing = '[]')),
    CHECK ((status = 'open') = (closed_at IS NULL)),
    CHECK (expires_at > created_at)
) STRICT, WITHOUT ROWID;

CREATE INDEX holds_id ON holds (id);
CREATE INDEX holds_due ON holds (subject_type, subject_id, credit_type, expires_at, id) WHERE status = 'open';

ALTER TABLE credit_operations ADD COLUMN hold_id TEXT;
ALTER TABLE credit_operations ADD COLUMN counted INTEGER CHECK (counted >= 0);
