-- Named statements of the webhooks.

-- fragment: endpoints
SELECT {{endpoint_columns}} FROM webhook_endpoints WHERE deleted_at IS NULL

-- name: pin_webhook_plans
-- Due deliveries are found by their index, even if the table was empty when the plan was made. JIT compilation would
-- take a hundred times as long as the statement.
SET LOCAL plan_cache_mode = force_generic_plan;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_sort = off;
SET LOCAL jit = off;

-- name: add_endpoint
-- Two concurrent calls can both pass at the limit: it is a bound, not a guarantee.
INSERT INTO webhook_endpoints (id, url, events, description, secrets, active, created_at, created_by)
SELECT $1::text::uuid, $2, $3::text[], $4, $5, $6, $7, $8
WHERE (SELECT count(*) FROM webhook_endpoints WHERE deleted_at IS NULL) < $9;

-- name: endpoints
{{endpoints}} ORDER BY created_at, id;

-- name: endpoint
{{endpoints}} AND id = $1::text::uuid;

-- name: lock_endpoint
{{endpoints}} AND id = $1::text::uuid FOR UPDATE;

-- name: change_endpoint
UPDATE webhook_endpoints
SET url = $2, events = $3::text[], description = $4, secrets = $5, active = $6, disabled_because = $7,
    failing_since = $8
WHERE id = $1::text::uuid;

-- name: delete_endpoint
UPDATE webhook_endpoints
SET active = false, secrets = '[]', deleted_at = coalesce($2, statement_timestamp())
WHERE id = $1::text::uuid AND deleted_at IS NULL;

-- name: retry_delivery
UPDATE webhook_deliveries d
SET state = 'pending', ended_at = NULL, next_at = now, give_up_at = now + {{give_up_after}}
FROM (SELECT coalesce($3, statement_timestamp()) AS now) c
WHERE endpoint_id = $1::text::uuid AND event_id = $2::text::uuid
  AND EXISTS (SELECT FROM webhook_endpoints e WHERE e.id = d.endpoint_id AND e.deleted_at IS NULL)
RETURNING {{delivery_columns}};

-- name: claim_deliveries
-- Reads each active endpoint's first due rows by the index; if there are none, nothing is written.
WITH due AS MATERIALIZED (
    SELECT d.endpoint_id, d.event_id, c.now
    FROM (SELECT coalesce($5, statement_timestamp()) AS now) c
    CROSS JOIN webhook_endpoints e
    LEFT JOIN unnest($1::text[], $2::int[]) AS f(id, free) ON f.id = e.id::text
    CROSS JOIN LATERAL (
        SELECT endpoint_id, event_id FROM webhook_deliveries
        WHERE endpoint_id = e.id AND state = 'pending' AND next_at <= c.now
        ORDER BY next_at LIMIT coalesce(f.free, $3::int) FOR UPDATE SKIP LOCKED
    ) d
    WHERE e.active
), claimed AS (
    UPDATE webhook_deliveries d
    SET attempts = d.attempts + 1, next_at = due.now + make_interval(secs => $4::int)
    FROM due WHERE d.endpoint_id = due.endpoint_id AND d.event_id = due.event_id
    RETURNING d.endpoint_id, d.event_id, d.attempts, d.payload
)
SELECT {{endpoint_columns}}, c.event_id::text, c.attempts, c.payload
FROM claimed c JOIN webhook_endpoints ON id = c.endpoint_id;

-- name: save_attempts
-- An attempt that is not the delivery's last one has lost its lease, and its result is ignored. Pending deliveries are
-- found by their other columns: by state the planner would use the index of due deliveries and read all of it.
UPDATE webhook_deliveries d
SET state = CASE WHEN a.delivered THEN 'delivered'
                 WHEN a.retry_in_s IS NULL OR now + make_interval(secs => a.retry_in_s) > give_up_at THEN 'failed'
                 ELSE 'pending' END,
    next_at = CASE WHEN a.retry_in_s IS NULL THEN d.next_at ELSE now + make_interval(secs => a.retry_in_s) END,
    ended_at = CASE WHEN a.retry_in_s IS NULL OR now + make_interval(secs => a.retry_in_s) > give_up_at
                    THEN now END,
    last_status = a.status,
    last_error = a.error
FROM (SELECT coalesce($8, statement_timestamp()) AS now) c,
     unnest($1::text[], $2::text[], $3::int[], $4::bool[], $5::int[], $6::text[], $7::int[])
         AS a(endpoint_id, event_id, attempt, delivered, status, error, retry_in_s)
WHERE d.endpoint_id = a.endpoint_id::uuid AND d.event_id = a.event_id::uuid AND d.attempts = a.attempt
  AND d.ended_at IS NULL
RETURNING d.state;

-- name: note_failing
UPDATE webhook_endpoints SET failing_since = coalesce($2, statement_timestamp())
WHERE id = ANY($1::text[]::uuid[]) AND failing_since IS NULL;

-- name: note_mended
UPDATE webhook_endpoints SET failing_since = NULL
WHERE id = ANY($1::text[]::uuid[]) AND failing_since IS NOT NULL;

-- name: disable_endpoints
UPDATE webhook_endpoints SET active = false, disabled_because = 'gone'
WHERE id = ANY($1::text[]::uuid[]) AND active RETURNING id::text;

-- name: give_up_waiting
-- No process has claimed these for days, because their endpoint is not active.
UPDATE webhook_deliveries d
SET state = 'failed', ended_at = c.now, last_error = 'the endpoint is not active'
FROM (SELECT coalesce($1, statement_timestamp()) AS now) c
WHERE (endpoint_id, event_id) IN (
    SELECT w.endpoint_id, w.event_id
    FROM webhook_endpoints e
    CROSS JOIN LATERAL (
        SELECT endpoint_id, event_id FROM webhook_deliveries
        WHERE endpoint_id = e.id AND state = 'pending'
          AND next_at <= coalesce($1, statement_timestamp()) - {{give_up_after}}
        ORDER BY next_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ) w
    WHERE NOT e.active AND e.deleted_at IS NULL LIMIT $2
);

-- name: bring_back
UPDATE webhook_deliveries AS d SET next_at = c.now
FROM (SELECT coalesce($1, statement_timestamp()) AS now) AS c
WHERE (endpoint_id, event_id) IN (
    SELECT w.endpoint_id, w.event_id
    FROM webhook_endpoints AS e
    CROSS JOIN LATERAL (
        SELECT endpoint_id, event_id FROM webhook_deliveries
        WHERE endpoint_id = e.id AND state = 'pending'
          AND next_at > coalesce($1, statement_timestamp()) + make_interval(secs => $3::int)
        ORDER BY next_at DESC LIMIT $2 FOR UPDATE SKIP LOCKED
    ) AS w
    LIMIT $2
);

-- name: delete_ended
DELETE FROM webhook_deliveries WHERE (endpoint_id, event_id) IN (
    SELECT endpoint_id, event_id FROM webhook_deliveries
    WHERE ended_at <= coalesce($1, statement_timestamp()) - make_interval(secs => $3::int)
    ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED
);

-- name: delete_orphans
DELETE FROM webhook_deliveries WHERE (endpoint_id, event_id) IN (
    SELECT d.endpoint_id, d.event_id
    FROM webhook_endpoints e
    CROSS JOIN LATERAL (
        SELECT endpoint_id, event_id FROM webhook_deliveries WHERE endpoint_id = e.id
        LIMIT $1 FOR UPDATE SKIP LOCKED
    ) d
    WHERE e.deleted_at IS NOT NULL LIMIT $1
);

-- name: forget_endpoints
-- Later, not at once: a transaction that saw the endpoint before it was deleted may still add a delivery.
DELETE FROM webhook_endpoints e
WHERE deleted_at <= coalesce($1, statement_timestamp()) - {{endpoints_kept}}
  AND NOT EXISTS (SELECT FROM webhook_deliveries d WHERE d.endpoint_id = e.id);

-- name: any_active
SELECT FROM webhook_endpoints WHERE active LIMIT 1;

-- name: webhook_backlog
SELECT (SELECT count(*) FROM (SELECT FROM webhook_deliveries WHERE state = 'pending' LIMIT $1) few) AS pending,
       count(*) FILTER (WHERE active AND failing_since IS NOT NULL) AS failing,
       min(failing_since) FILTER (WHERE active) AS failing_since
FROM webhook_endpoints;

-- fragment: returning_events
-- The argument is the parameter of a settable clock.
RETURNING e.event_id, e.event_type, e.payload, coalesce({{}}, clock_timestamp()) AS at

-- fragment: filled
-- Part of every statement that publishes events: a delivery for each endpoint that subscribes to one of them.
filled AS (
    INSERT INTO webhook_deliveries (endpoint_id, event_id, event_type, payload, state, attempts, next_at,
                                    give_up_at, created_at)
    SELECT w.id, s.event_id, s.event_type, s.payload, 'pending', 0, s.at, s.at + {{give_up_after}}, s.at
    FROM shipped s
    JOIN webhook_endpoints w ON w.active AND EXISTS (
        SELECT FROM unnest(w.events) AS pattern
        WHERE s.event_type LIKE replace(replace(pattern, '_', '\_'), '*', '%')
    )
    ON CONFLICT DO NOTHING
)
