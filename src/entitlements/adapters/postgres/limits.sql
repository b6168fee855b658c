-- Named statements of the rate limits.

-- name: past_uses
-- Slices are counted as in core/windows.py; sums have the same maximum as in the limiters. A request of many
-- adjustments counts once: what one commit adjusts for one operator is one use.
WITH resets AS (
    SELECT subject_id, detail ->> 'metric' AS metric, max(at) AS at
    FROM audit_log WHERE at >= $3 AND action = 'rate_limit.reset' GROUP BY 1, 2
), used AS (
    SELECT user_id, org_id, metric, coalesce(counted, quantity) AS units, created_at
    FROM credit_operations
    WHERE created_at >= $3 AND created_at < $4 AND kind IN ('consume', 'hold')
      AND operation_status = 'completed'
    UNION ALL
    SELECT DISTINCT actor, NULL, 'credit_adjustment', 1, created_at
    FROM credit_operations
    WHERE created_at >= $3 AND created_at < $4 AND kind = 'manual_adjustment'
      AND operation_status = 'completed'
)
SELECT used.user_id, used.org_id, used.metric,
       floor(extract(epoch FROM created_at) * 1000)::bigint * 60 / ($2::bigint * 1000) AS slice,
       least(sum(units), {{count_max}})::bigint AS units,
       coalesce(created_at > u.at, true) AS of_user, coalesce(created_at > o.at, true) AS of_org
FROM used
LEFT JOIN resets AS u ON u.subject_id = used.user_id AND u.metric = used.metric
LEFT JOIN resets AS o ON o.subject_id = used.org_id AND o.metric = used.metric
WHERE used.metric = ANY($1::text[])
GROUP BY used.user_id, used.org_id, used.metric, slice, of_user, of_org
ORDER BY slice;

-- name: announce_limiter
INSERT INTO lone_limiters (name, expires_at)
VALUES ($1, coalesce($2, clock_timestamp()) + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE SET expires_at = excluded.expires_at;

-- name: limiters_gone
-- Also deletes leases that end later than possible: they were written before the clock was set back.
DELETE FROM lone_limiters WHERE name IN (
    SELECT name FROM lone_limiters
    WHERE expires_at <= coalesce($1, clock_timestamp())
       OR expires_at > coalesce($1, clock_timestamp()) + make_interval(secs => $2)
    FOR UPDATE SKIP LOCKED
);

-- name: other_limiters
SELECT count(*) AS limiters FROM lone_limiters
WHERE name <> $1 AND expires_at > coalesce($2, clock_timestamp());

-- name: add_limit_exceeded
INSERT INTO limit_exceeded ({{limit_exceeded_columns}})
SELECT a, b, c, d, e::uuid, f, g, h, i FROM {{limit_event_arrays}}
ON CONFLICT DO NOTHING;

-- fragment: limit_event_arrays
unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[],
       $9::timestamptz[]) AS n(a, b, c, d, e, f, g, h, i)

-- name: add_limit_near
-- In the time of a window only its first event is written; the next one replaces it.
INSERT INTO limit_near AS e ({{limit_near_columns}}, again_at)
SELECT a, b, c, d, e::uuid, f, g, h, i, i + make_interval(secs => d) FROM {{limit_event_arrays}}
ON CONFLICT (subject_type, subject_id, metric, window_s) DO UPDATE
SET event_id = excluded.event_id, event_type = excluded.event_type, key = excluded.key, payload = excluded.payload,
    created_at = excluded.created_at, again_at = excluded.again_at, published_at = NULL
WHERE e.again_at <= excluded.created_at;

-- name: near_again_at
SELECT subject_type, subject_id, metric, window_s, again_at
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS k(subject_type, subject_id, metric, window_s)
JOIN limit_near USING (subject_type, subject_id, metric, window_s);

-- name: limit_events
(SELECT {{limit_event_columns}} FROM limit_exceeded WHERE published_at IS NULL ORDER BY created_at LIMIT $1)
UNION ALL
(SELECT {{limit_event_columns}} FROM limit_near WHERE published_at IS NULL ORDER BY created_at LIMIT $1)
ORDER BY created_at LIMIT $1;

-- fragment: marked_in
-- Rows that another transaction has locked are published again.
WITH shipped AS (
    UPDATE {{}} AS e SET published_at = coalesce($3, clock_timestamp())
    FROM unnest($1::timestamptz[], $2::text[]) AS k(created_at, event_id)
    CROSS JOIN LATERAL (
        SELECT ctid FROM {{}} AS u
        WHERE u.published_at IS NULL AND u.created_at = k.created_at AND u.event_id = k.event_id::uuid
        LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS found
    WHERE e.ctid = found.ctid
    {{returning_events $3}}
), {{filled}}
SELECT count(*) FROM shipped

-- name: mark_limit_exceeded
{{marked_in limit_exceeded}};

-- name: mark_limit_near
{{marked_in limit_near}};

-- name: purge_limit_exceeded
DELETE FROM limit_exceeded WHERE (subject_type, subject_id, metric, minute) IN (
    SELECT subject_type, subject_id, metric, minute FROM limit_exceeded
    WHERE created_at < coalesce($1, statement_timestamp()) - {{limit_events_kept}}
    ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
);

-- name: purge_limit_near
DELETE FROM limit_near WHERE (subject_type, subject_id, metric, window_s) IN (
    SELECT subject_type, subject_id, metric, window_s FROM limit_near
    WHERE again_at < coalesce($1, statement_timestamp()) - {{limit_events_kept}}
    ORDER BY again_at LIMIT $2 FOR UPDATE SKIP LOCKED
);
