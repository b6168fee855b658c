-- Who ships which events. A lease is given by a row of its own, so that it can be checked under a lock.

CREATE TABLE relays (
    name       TEXT PRIMARY KEY NOT NULL,
    sink       TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE relay_leases (
    bucket        INTEGER PRIMARY KEY CHECK (bucket BETWEEN 0 AND 63),
    holder        TEXT,
    epoch         INTEGER NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    sink          TEXT, -- where its events went last
    expires_at    INTEGER,
    cleaned_until INTEGER, -- no event that was deleted is younger
    CHECK ((holder IS NULL) = (expires_at IS NULL))
) STRICT;

WITH RECURSIVE buckets (bucket) AS (VALUES (0) UNION ALL SELECT bucket + 1 FROM buckets WHERE bucket < 63)
INSERT INTO relay_leases (bucket) SELECT bucket FROM buckets;

ALTER TABLE event_outbox ADD COLUMN park_reason TEXT;

-- What waits, in the order in which it goes: for the relay, for the backlog, and to find what went. New events
-- come in at the end of their bucket.
CREATE INDEX event_outbox_unsent ON event_outbox (bucket, created_at, seq, n)
    WHERE published_at IS NULL AND parked_at IS NULL;
DROP INDEX event_outbox_waiting;
CREATE INDEX event_outbox_parked ON event_outbox (parked_at, event_id) WHERE parked_at IS NOT NULL;
CREATE INDEX event_outbox_published ON event_outbox (published_at) WHERE published_at IS NOT NULL;
