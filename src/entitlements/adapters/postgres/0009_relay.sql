-- Who ships which events. A lease is given by a row of its own, so that it can be checked under a lock.

CREATE TABLE relays (
    name       text COLLATE "C" PRIMARY KEY,
    sink       text NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE TABLE relay_leases (
    bucket        smallint PRIMARY KEY CHECK (bucket BETWEEN 0 AND 63),
    holder        text COLLATE "C",
    epoch         bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    sink          text, -- where its events went last
    expires_at    timestamptz,
    cleaned_until timestamptz, -- no event that was deleted is younger
    CHECK ((holder IS NULL) = (expires_at IS NULL))
) WITH (fillfactor = 50);

INSERT INTO relay_leases (bucket) SELECT generate_series(0, 63);

ALTER TABLE event_outbox ADD COLUMN park_reason text;

-- What waits, in the order in which it goes: for the relay, for the backlog, and to find what went. New events
-- come in at the end of their bucket.
CREATE INDEX event_outbox_unsent ON event_outbox (bucket, created_at, seq, n)
    WHERE published_at IS NULL AND parked_at IS NULL;
DROP INDEX event_outbox_waiting;
CREATE INDEX event_outbox_parked ON event_outbox (parked_at, event_id) WHERE parked_at IS NOT NULL;
CREATE INDEX event_outbox_published ON event_outbox (published_at) WHERE published_at IS NOT NULL;

-- Every event is written twice and deleted: the room is given back before the table has grown by much.
ALTER TABLE event_outbox SET (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 1
);
