-- Named statements of the relay.

-- fragment: unpublished
published_at IS NULL AND parked_at IS NULL

-- fragment: place
bucket = ? AND created_at = ? AND seq = ? AND n = ? AND event_id = ? AND {{unpublished}}

-- name: relay_is_alive
INSERT INTO relays (name, sink, expires_at) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET sink = excluded.sink, expires_at = excluded.expires_at;

-- name: relays_gone
-- ?2 here, ?6 below: a lease that ends later was written before the clock was set back.
DELETE FROM relays WHERE expires_at <= ?1 OR expires_at > ?2;

-- name: relays_alive
SELECT sink, count(*) FROM relays WHERE expires_at > ? GROUP BY sink;

-- name: renew_leases
-- An expired lease is renewed too, unless another relay has claimed it.
UPDATE relay_leases SET expires_at = ?2 WHERE holder = ?1 RETURNING bucket, epoch;

-- name: give_back_leases
UPDATE relay_leases SET holder = NULL, expires_at = NULL WHERE holder = ? AND bucket = ?;

-- name: claim_leases
-- ?4: the sink if it sends events out of the process. Other sinks cannot claim the buckets of one.
UPDATE relay_leases SET holder = ?1, sink = ?4, epoch = epoch + 1, expires_at = ?3
WHERE bucket IN (
    SELECT bucket FROM relay_leases
    WHERE (holder IS NULL OR expires_at <= ?2 OR expires_at > ?6) AND (sink IS NULL OR ?4 IS NOT NULL)
    ORDER BY bucket LIMIT ?5
)
RETURNING bucket, epoch;

-- name: leave
DELETE FROM relays WHERE name = ?;

-- name: waiting
SELECT {{waiting_columns}} FROM event_outbox INDEXED BY event_outbox_unsent
WHERE bucket = ? AND {{unpublished}} AND key NOT IN (SELECT value FROM json_each(?))
ORDER BY created_at, seq, n LIMIT ?;

-- name: hold_leases
-- The file's lock keeps them held until the transaction ends.
SELECT bucket FROM relay_leases WHERE holder = ? AND bucket = ? AND epoch = ?;

-- name: mark_published
UPDATE event_outbox INDEXED BY event_outbox_unsent SET published_at = ? WHERE {{place}};

-- name: delete_published
DELETE FROM event_outbox INDEXED BY event_outbox_unsent WHERE {{place}};

-- name: note_cleaned
UPDATE relay_leases SET cleaned_until = max(coalesce(cleaned_until, ?2), ?2) WHERE bucket = ?1;

-- name: park
UPDATE event_outbox INDEXED BY event_outbox_unsent SET parked_at = ?, park_reason = ?, attempts = ? WHERE {{place}};

-- name: discard_unsubscribed
UPDATE event_outbox SET published_at = ?
WHERE rowid IN (
    SELECT rowid FROM event_outbox INDEXED BY event_outbox_unsent WHERE bucket = ? AND {{unpublished}}
    ORDER BY created_at, seq, n LIMIT ?
)
RETURNING event_id, event_type, payload;

-- name: clean
DELETE FROM event_outbox
WHERE rowid IN (SELECT rowid FROM event_outbox WHERE published_at <= ? ORDER BY published_at LIMIT ?)
RETURNING created_at;

-- name: backlog
-- The first event of each bucket is where the bucket begins in the index.
SELECT
    (SELECT count(*) FROM (SELECT 1 FROM event_outbox WHERE {{unpublished}} LIMIT {{backlog_max}})) AS events,
    (SELECT min((SELECT created_at FROM event_outbox AS e WHERE e.bucket = l.bucket AND {{unpublished}}
                 ORDER BY created_at LIMIT 1))
     FROM relay_leases AS l) AS oldest_at,
    (SELECT count(*) FROM (SELECT 1 FROM event_outbox WHERE parked_at IS NOT NULL LIMIT {{backlog_max}})) AS parked;

-- name: leases
SELECT {{lease_columns}} FROM relay_leases ORDER BY bucket;

-- name: parked
SELECT {{parked_columns}} FROM event_outbox WHERE parked_at IS NOT NULL AND (parked_at, event_id) > (?, ?)
ORDER BY parked_at, event_id LIMIT ?;

-- name: retry
UPDATE event_outbox SET parked_at = NULL, attempts = 0 WHERE parked_at IS NOT NULL AND (?1 IS NULL OR event_id = ?1);

-- name: release_sink
UPDATE relay_leases SET sink = NULL WHERE sink IS NOT NULL;
