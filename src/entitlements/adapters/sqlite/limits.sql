-- Named statements of the rate limits.

-- name: past_uses
-- Slices are counted as in core/windows.py; sums have the same maximum as in the limiters. A request of many
-- adjustments counts once: what one commit adjusts for one operator is one use.
WITH resets AS (
    SELECT subject_id, detail ->> 'metric' AS metric, max(at) AS at
    FROM audit_log WHERE at >= ?3 AND action = 'rate_limit.reset' GROUP BY 1, 2
), used AS (
    SELECT user_id, org_id, metric, coalesce(counted, quantity) AS units, created_at
    FROM credit_operations
    WHERE created_at >= ?3 AND created_at < ?4 AND kind IN ('consume', 'hold')
      AND operation_status = 'completed'
    UNION ALL
    SELECT DISTINCT actor, NULL, 'credit_adjustment', 1, created_at
    FROM credit_operations
    WHERE created_at >= ?3 AND created_at < ?4 AND kind = 'manual_adjustment'
      AND operation_status = 'completed'
)
SELECT used.user_id, used.org_id, used.metric, created_at / 1000 * 60 / (?2 * 1000) AS slice,
       CAST(min(total(units), {{count_max}}) AS INTEGER) AS units,
       coalesce(created_at > u.at, 1) AS of_user, coalesce(created_at > o.at, 1) AS of_org
FROM used
LEFT JOIN resets AS u ON u.subject_id = used.user_id AND u.metric = used.metric
LEFT JOIN resets AS o ON o.subject_id = used.org_id AND o.metric = used.metric
WHERE used.metric IN (SELECT value FROM json_each(?1))
GROUP BY used.user_id, used.org_id, used.metric, slice, of_user, of_org
ORDER BY slice;

-- name: announce_limiter
INSERT INTO lone_limiters (name, expires_at) VALUES (?, ?) ON CONFLICT DO UPDATE SET expires_at = excluded.expires_at;

-- name: limiters_gone
-- Also deletes leases that end later than possible: they were written before the clock was set back.
DELETE FROM lone_limiters WHERE expires_at <= ?1 OR expires_at > ?2;

-- name: other_limiters
SELECT count(*) FROM lone_limiters WHERE name <> ?;

-- name: add_limit_exceeded
INSERT INTO limit_exceeded ({{limit_exceeded_columns}}) VALUES ({{limit_exceeded_values}}) ON CONFLICT DO NOTHING;

-- name: add_limit_near
-- In the time of a window only its first event is written; the next one replaces it.
INSERT INTO limit_near ({{limit_near_columns}}, again_at) VALUES ({{limit_near_values}}, ?9 + ?4 * 1000000)
ON CONFLICT DO UPDATE
SET event_id = excluded.event_id, event_type = excluded.event_type, key = excluded.key, payload = excluded.payload,
    created_at = excluded.created_at, again_at = excluded.again_at, published_at = NULL
WHERE again_at <= excluded.created_at;

-- name: near_again_at
SELECT again_at FROM limit_near WHERE subject_type = ? AND subject_id = ? AND metric = ? AND window_s = ?;

-- name: limit_events
SELECT {{limit_event_columns}} FROM (
    SELECT {{limit_event_columns}} FROM (
        SELECT * FROM limit_exceeded WHERE published_at IS NULL ORDER BY created_at LIMIT ?1
    )
    UNION ALL
    SELECT {{limit_event_columns}} FROM (
        SELECT * FROM limit_near WHERE published_at IS NULL ORDER BY created_at LIMIT ?1
    )
) ORDER BY created_at LIMIT ?1;

-- name: mark_limit_exceeded
UPDATE limit_exceeded SET published_at = ?1 WHERE published_at IS NULL AND created_at = ?2 AND event_id = ?3;

-- name: mark_limit_near
UPDATE limit_near SET published_at = ?1 WHERE published_at IS NULL AND created_at = ?2 AND event_id = ?3;

-- name: purge_limit_exceeded
DELETE FROM limit_exceeded WHERE (subject_type, subject_id, metric, minute) IN (
    SELECT subject_type, subject_id, metric, minute FROM limit_exceeded WHERE created_at < ? LIMIT ?
);

-- name: purge_limit_near
DELETE FROM limit_near WHERE (subject_type, subject_id, metric, window_s) IN (
    SELECT subject_type, subject_id, metric, window_s FROM limit_near WHERE again_at < ? LIMIT ?
);
