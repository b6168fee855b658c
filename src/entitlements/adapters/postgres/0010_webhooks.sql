-- Signed webhooks: where events go, and a row for each event and endpoint that wants it.

CREATE TABLE webhook_endpoints (
    id               uuid PRIMARY KEY,
    url              text NOT NULL,
    events           text[] NOT NULL CHECK (cardinality(events) > 0), -- event types, in which * stands for anything
    description      text,
    secrets          text NOT NULL, -- as JSON, newest first: [{"text", "until"}, ...]
    active           boolean NOT NULL,
    disabled_because text,
    failing_since    timestamptz,
    created_at       timestamptz NOT NULL,
    created_by       text NOT NULL,
    deleted_at       timestamptz, -- the row outlives its deliveries
    CHECK (deleted_at IS NULL OR NOT active)
);

CREATE UNIQUE INDEX webhook_endpoints_url ON webhook_endpoints (url) WHERE deleted_at IS NULL;

CREATE TABLE webhook_deliveries (
    endpoint_id uuid NOT NULL,
    event_id    uuid NOT NULL,
    event_type  text NOT NULL,
    payload     text NOT NULL,
    state       text NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts    integer NOT NULL,
    next_at     timestamptz NOT NULL,
    give_up_at  timestamptz NOT NULL,
    last_status smallint,
    last_error  text,
    created_at  timestamptz NOT NULL,
    ended_at    timestamptz,
    PRIMARY KEY (endpoint_id, event_id),
    CHECK ((state = 'pending') = (ended_at IS NULL))
) WITH (fillfactor = 80);

CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint_id, next_at) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_failed ON webhook_deliveries (endpoint_id, event_id) WHERE state = 'failed';
CREATE INDEX webhook_deliveries_ended ON webhook_deliveries (ended_at) WHERE ended_at IS NOT NULL;
