-- Signed webhooks: where events go, and a row for each event and endpoint that wants it.

CREATE TABLE webhook_endpoints (
    id               TEXT PRIMARY KEY,
    url              TEXT NOT NULL,
    events           TEXT NOT NULL, -- as JSON: event types, in which * stands for anything
    description      TEXT,
    secrets          TEXT NOT NULL, -- as JSON, newest first: [{"text", "until"}, ...]
    active           INTEGER NOT NULL CHECK (active IN (0, 1)),
    disabled_because TEXT,
    failing_since    INTEGER,
    created_at       INTEGER NOT NULL,
    created_by       TEXT NOT NULL,
    deleted_at       INTEGER, -- the row outlives its deliveries
    CHECK (deleted_at IS NULL OR NOT active)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX webhook_endpoints_url ON webhook_endpoints (url) WHERE deleted_at IS NULL;

CREATE TABLE webhook_deliveries (
    endpoint_id TEXT NOT NULL,
    event_id    TEXT NOT NULL,
    event_type  TEXT NOT NULL,
    payload     TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts    INTEGER NOT NULL,
    next_at     INTEGER NOT NULL,
    give_up_at  INTEGER NOT NULL,
    last_status INTEGER,
    last_error  TEXT,
    created_at  INTEGER NOT NULL,
    ended_at    INTEGER,
    PRIMARY KEY (endpoint_id, event_id),
    CHECK ((state = 'pending') = (ended_at IS NULL))
) STRICT;

CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint_id, next_at) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_failed ON webhook_deliveries (endpoint_id, event_id) WHERE state = 'failed';
CREATE INDEX webhook_deliveries_ended ON webhook_deliveries (ended_at) WHERE ended_at IS NOT NULL;
