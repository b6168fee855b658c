-- Named statements of the relay. All run after `begin_relay`, whose settings make them use the index of waiting events,
-- whatever the table's size when they were planned.

-- name: begin_relay
-- Commits do not wait for the disk: what a crash loses is sent again, which is allowed.
BEGIN;
-- A plan that must use a disabled node looks expensive, and JIT compilation would take hundreds of milliseconds.
SET LOCAL jit = off;
SET LOCAL plan_cache_mode = force_generic_plan;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_sort = off;
SET LOCAL synchronous_commit = off;
SET LOCAL lock_timeout = '3s';
SET LOCAL statement_timeout = '10s';
SET LOCAL idle_in_transaction_session_timeout = '5s';

-- name: relay_is_alive
-- $3 here and below: a settable clock, else the database's.
INSERT INTO relays (name, sink, expires_at)
VALUES ($1, $2, coalesce($3, clock_timestamp()) + make_interval(secs => $4))
ON CONFLICT (name) DO UPDATE SET sink = excluded.sink, expires_at = excluded.expires_at;

-- name: relays_gone
-- Here and below: leases that end later than possible were written before the clock was set back.
DELETE FROM relays WHERE name IN (
    SELECT name FROM relays
    WHERE expires_at <= coalesce($1, clock_timestamp())
       OR expires_at > coalesce($1, clock_timestamp()) + make_interval(secs => 2 * $2::float8)
    FOR UPDATE SKIP LOCKED
);

-- name: relays_alive
SELECT sink, count(*) AS relays FROM relays WHERE expires_at > coalesce($1, clock_timestamp()) GROUP BY sink;

-- name: renew_leases
-- An expired lease is renewed too, unless another relay has claimed it. Locked in order, as everywhere.
WITH mine AS (SELECT bucket FROM relay_leases WHERE holder = $1 ORDER BY bucket FOR UPDATE)
UPDATE relay_leases AS l SET expires_at = coalesce($2, clock_timestamp()) + make_interval(secs => $3)
FROM mine WHERE l.bucket = mine.bucket
RETURNING l.bucket, l.epoch;

-- name: give_back_leases
UPDATE relay_leases SET holder = NULL, expires_at = NULL
WHERE holder = $1 AND bucket = ANY($2::smallint[]);

-- name: claim_leases
-- $4: the sink if it sends events out of the process. Other sinks cannot claim the buckets of one.
WITH free AS (
    SELECT bucket FROM relay_leases
    WHERE (holder IS NULL OR expires_at <= coalesce($2, clock_timestamp())
           OR expires_at > coalesce($2, clock_timestamp()) + make_interval(secs => 2 * $3))
      AND (sink IS NULL OR $4::text IS NOT NULL)
    ORDER BY bucket LIMIT $5 FOR UPDATE SKIP LOCKED
)
UPDATE relay_leases AS l
SET holder = $1, sink = $4, epoch = l.epoch + 1,
    expires_at = coalesce($2, clock_timestamp()) + make_interval(secs => $3)
FROM free WHERE l.bucket = free.bucket
RETURNING l.bucket, l.epoch;

-- name: leave
DELETE FROM relays WHERE name = $1;

-- name: waiting
-- As a subquery the keys are hashed once; as an array they would all be compared with each row.
SELECT e.*
FROM unnest($1::smallint[]) AS k(b)
CROSS JOIN LATERAL (
    SELECT {{waiting_columns}}
    FROM event_outbox
    WHERE bucket = k.b AND {{unpublished}}
      AND key NOT IN (SELECT unnest($4::text[]))
    ORDER BY created_at, seq, n
    LIMIT $2
) AS e
LIMIT $3;

-- name: hold_leases
-- Locks the leases until the transaction ends, so that no relay can claim them before its commit.
SELECT l.bucket
FROM unnest($2::smallint[], $3::bigint[]) AS k(b, epoch)
CROSS JOIN LATERAL (
    SELECT bucket FROM relay_leases WHERE bucket = k.b AND epoch = k.epoch AND holder = $1 FOR UPDATE
) AS l;

-- fragment: unpublished
published_at IS NULL AND parked_at IS NULL

-- fragment: place
CROSS JOIN LATERAL (
    SELECT ctid FROM event_outbox
    WHERE bucket = k.b AND created_at = k.at AND seq = k.s AND n = k.n AND event_id = k.id::uuid AND {{unpublished}}
    LIMIT 1
) AS found
WHERE e.ctid = found.ctid

-- fragment: places
unnest($1::smallint[], $2::timestamptz[], $3::bigint[], $4::smallint[], $5::text[]) AS k(b, at, s, n, id)
{{place}}

-- name: mark_published
WITH shipped AS (
    UPDATE event_outbox AS e SET published_at = coalesce($6, clock_timestamp()) FROM {{places}} {{returning_events $6}}
), {{filled}}
SELECT count(*) FROM shipped;

-- name: delete_published
WITH shipped AS (
    DELETE FROM event_outbox AS e USING {{places}} {{returning_events $6::timestamptz}}
), {{filled}}
SELECT count(*) FROM shipped;

-- name: note_cleaned
UPDATE relay_leases SET cleaned_until = greatest(cleaned_until, $2) WHERE bucket = $1;

-- name: park
UPDATE event_outbox AS e
SET parked_at = coalesce($8, clock_timestamp()), park_reason = k.reason, attempts = k.attempts
FROM unnest($1::smallint[], $2::timestamptz[], $3::bigint[], $4::smallint[], $5::text[], $6::text[], $7::int[])
     AS k(b, at, s, n, id, reason, attempts)
{{place}};

-- name: discard_unsubscribed
WITH shipped AS (
    UPDATE event_outbox AS e SET published_at = coalesce($3, clock_timestamp())
    FROM (
        SELECT waiting.ctid
        FROM unnest($1::smallint[]) AS k(b)
        CROSS JOIN LATERAL (
            SELECT ctid FROM event_outbox WHERE bucket = k.b AND {{unpublished}} ORDER BY created_at, seq, n LIMIT $2
        ) AS waiting
        LIMIT $2
    ) AS found
    WHERE e.ctid = found.ctid
    {{returning_events $3}}
), {{filled}}
SELECT count(*) FROM shipped;

-- name: clean
-- Rows that another transaction has locked are left for the next run.
WITH gone AS (
    DELETE FROM event_outbox WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM event_outbox
        WHERE published_at <= coalesce($1, statement_timestamp()) - make_interval(secs => $2)
        ORDER BY published_at LIMIT $3 FOR UPDATE SKIP LOCKED
    ))
    RETURNING created_at
),
noted AS (
    UPDATE relay_leases SET cleaned_until = greatest(cleaned_until, (SELECT max(created_at) FROM gone))
    WHERE bucket = 0
)
SELECT count(*) FROM gone;

-- name: backlog
-- Counts waiting and parked events up to Backlog.COUNTED_MAX each.
SELECT
    (SELECT count(*) FROM (
        SELECT FROM generate_series(0, {{last_bucket}}) AS k(b)
        CROSS JOIN LATERAL (
            SELECT FROM event_outbox
            WHERE bucket = k.b AND {{unpublished}}
            ORDER BY created_at, seq, n LIMIT {{backlog_max}}
        ) AS e
        LIMIT {{backlog_max}}
    ) AS counted) AS events,
    (SELECT min(e.created_at) FROM generate_series(0, {{last_bucket}}) AS k(b)
        CROSS JOIN LATERAL (
            SELECT created_at FROM event_outbox
            WHERE bucket = k.b AND {{unpublished}}
            ORDER BY created_at, seq, n LIMIT 1
        ) AS e) AS oldest_at,
    (SELECT count(*) FROM (
        SELECT FROM event_outbox WHERE parked_at IS NOT NULL ORDER BY parked_at, event_id LIMIT {{backlog_max}}
    ) AS counted) AS parked;

-- name: leases
SELECT {{lease_columns}} FROM relay_leases ORDER BY bucket;

-- name: parked
SELECT {{parked_columns}}
FROM event_outbox
WHERE parked_at IS NOT NULL
  AND (parked_at, event_outbox.event_id)
    > (coalesce($1, '-infinity'::timestamptz), coalesce($2::text, '00000000-0000-0000-0000-000000000000')::uuid)
ORDER BY parked_at, event_outbox.event_id LIMIT $3;

-- name: retry
UPDATE event_outbox SET parked_at = NULL, attempts = 0
WHERE parked_at IS NOT NULL AND ($1::text IS NULL OR event_id = $1::uuid);

-- name: release_sink
UPDATE relay_leases SET sink = NULL WHERE sink IS NOT NULL;
