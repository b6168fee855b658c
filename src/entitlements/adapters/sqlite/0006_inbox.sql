-- What comes in by events: what was made of each report, who belongs where, and what could not be read.

CREATE TABLE consumption_records (
    id             TEXT NOT NULL,
    user_id        TEXT NOT NULL, -- empty: the use is an org's alone
    event_id       TEXT NOT NULL,
    event_type     TEXT NOT NULL,
    source_service TEXT NOT NULL,
    org_id         TEXT,
    resource_type  TEXT NOT NULL,
    units          INTEGER NOT NULL CHECK (units BETWEEN 0 AND 1000000000000000),
    service_name   TEXT,
    processing_id  TEXT,
    batch_id       TEXT,
    hold_id        TEXT,
    outcome        TEXT NOT NULL
        CHECK (outcome IN ('charged', 'free', 'failed', 'duplicate', 'conflict', 'settled')),
    operation_id   TEXT, -- of a duplicate or conflict: the one it repeats
    credits        INTEGER NOT NULL CHECK (credits >= 0),
    owed           INTEGER NOT NULL CHECK (owed >= 0),
    reason         TEXT,
    correlation_id TEXT NOT NULL,
    trace_id       TEXT,
    reported_at    INTEGER,
    consumed_at    INTEGER,
    recorded_at    INTEGER NOT NULL,
    PRIMARY KEY (user_id, event_id),
    CHECK (user_id <> '' OR org_id IS NOT NULL),
    CHECK (outcome NOT IN ('charged', 'failed', 'settled') OR operation_id IS NOT NULL)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX consumption_records_id ON consumption_records (id);
CREATE INDEX consumption_records_conflicts ON consumption_records (id) WHERE outcome = 'conflict';

CREATE TABLE org_members (
    org_id      TEXT NOT NULL CHECK (org_id <> ''),
    user_id     TEXT NOT NULL CHECK (user_id <> ''),
    monthly_cap INTEGER CHECK (monthly_cap >= 0), -- none: as much as the org has
    joined_at   INTEGER NOT NULL,
    PRIMARY KEY (org_id, user_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX org_members_user ON org_members (user_id);

CREATE TABLE dead_letters (
    id        TEXT NOT NULL PRIMARY KEY,
    topic     TEXT NOT NULL,
    partition INTEGER NOT NULL,
    position  INTEGER NOT NULL, -- the record's offset
    key       BLOB,
    value     BLOB,
    headers   TEXT NOT NULL, -- [[name, base64 or null], ...]
    reason    TEXT NOT NULL CHECK (reason IN ('malformed', 'unpriceable', 'failed')),
    detail    TEXT NOT NULL,
    died_at   INTEGER NOT NULL,
    state     TEXT NOT NULL CHECK (state IN ('open', 'replayed', 'dropped')),
    closed_at INTEGER,
    UNIQUE (topic, partition, position),
    CHECK ((state = 'open') = (closed_at IS NULL))
) STRICT;

CREATE INDEX dead_letters_open ON dead_letters (id) WHERE state = 'open';
