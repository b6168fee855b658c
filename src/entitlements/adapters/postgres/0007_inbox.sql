-- What comes in by events: what was made of each report, who belongs where, and what could not be read.

CREATE TABLE consumption_records (
    id             uuid NOT NULL,
    user_id        text COLLATE "C" NOT NULL, -- empty: the use is an org's alone
    event_id       text COLLATE "C" NOT NULL,
    event_type     text NOT NULL,
    source_service text NOT NULL,
    org_id         text COLLATE "C",
    resource_type  text NOT NULL,
    units          bigint NOT NULL CHECK (units BETWEEN 0 AND 1000000000000000),
    service_name   text,
    processing_id  text,
    batch_id       text,
    hold_id        uuid,
    outcome        text NOT NULL
        CHECK (outcome IN ('charged', 'free', 'failed', 'duplicate', 'conflict', 'settled')),
    operation_id   uuid, -- of a duplicate or conflict: the one it repeats
    credits        bigint NOT NULL CHECK (credits >= 0),
    owed           bigint NOT NULL CHECK (owed >= 0),
    reason         text,
    correlation_id text NOT NULL,
    trace_id       text,
    reported_at    timestamptz,
    consumed_at    timestamptz,
    recorded_at    timestamptz NOT NULL,
    PRIMARY KEY (user_id, event_id),
    CHECK (user_id <> '' OR org_id IS NOT NULL),
    CHECK (outcome NOT IN ('charged', 'failed', 'settled') OR operation_id IS NOT NULL)
);

CREATE UNIQUE INDEX consumption_records_id ON consumption_records (id);
CREATE INDEX consumption_records_conflicts ON consumption_records (id) WHERE outcome = 'conflict';

CREATE TABLE org_members (
    org_id      text COLLATE "C" NOT NULL CHECK (org_id <> ''),
    user_id     text COLLATE "C" NOT NULL CHECK (user_id <> ''),
    monthly_cap bigint CHECK (monthly_cap >= 0), -- none: as much as the org has
    joined_at   timestamptz NOT NULL,
    PRIMARY KEY (org_id, user_id)
);

CREATE INDEX org_members_user ON org_members (user_id);

CREATE TABLE dead_letters (
    id        uuid PRIMARY KEY,
    topic     text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    position  bigint NOT NULL, -- the record's offset
    key       bytea,
    value     bytea,
    headers   text NOT NULL, -- [[name, base64 or null], ...]
    reason    text NOT NULL CHECK (reason IN ('malformed', 'unpriceable', 'failed')),
    detail    text NOT NULL,
    died_at   timestamptz NOT NULL,
    state     text NOT NULL CHECK (state IN ('open', 'replayed', 'dropped')),
    closed_at timestamptz,
    UNIQUE (topic, partition, position),
    CHECK ((state = 'open') = (closed_at IS NULL))
);

CREATE INDEX dead_letters_open ON dead_letters (id) WHERE state = 'open';
