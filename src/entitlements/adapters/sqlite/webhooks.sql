-- Named statements of the webhooks.

-- fragment: endpoints
SELECT {{endpoint_columns}}
FROM webhook_endpoints WHERE deleted_at IS NULL

-- name: add_endpoint
INSERT INTO webhook_endpoints (id, url, events, description, secrets, active, created_at, created_by)
SELECT ?, ?, ?, ?, ?, ?, ?, ? WHERE (SELECT count(*) FROM webhook_endpoints WHERE deleted_at IS NULL) < ?;

-- name: endpoints
{{endpoints}} ORDER BY created_at, id;

-- name: active_endpoints
{{endpoints}} AND active;

-- name: endpoint
{{endpoints}} AND id = ?;

-- name: change_endpoint
UPDATE webhook_endpoints
SET url = ?2, events = ?3, description = ?4, secrets = ?5, active = ?6, disabled_because = ?7, failing_since = ?8
WHERE id = ?1;

-- name: delete_endpoint
UPDATE webhook_endpoints SET active = 0, secrets = '[]', deleted_at = ?2 WHERE id = ?1 AND deleted_at IS NULL;

-- name: retry_delivery
UPDATE webhook_deliveries SET state = 'pending', ended_at = NULL, next_at = ?3, give_up_at = ?4
WHERE endpoint_id = ?1 AND event_id = ?2
RETURNING {{delivery_columns}};

-- name: any_active
SELECT 1 FROM webhook_endpoints WHERE active LIMIT 1;

-- name: create_deliveries
INSERT INTO webhook_deliveries (endpoint_id, event_id, event_type, payload, state, attempts, next_at, give_up_at,
                                created_at)
SELECT id, ?1, ?2, ?3, 'pending', 0, ?4, ?5, ?4 FROM webhook_endpoints
WHERE active AND EXISTS (SELECT 1 FROM json_each(events) AS p WHERE ?2 GLOB p.value)
ON CONFLICT DO NOTHING;

-- name: any_due
SELECT EXISTS (
    SELECT 1 FROM webhook_endpoints e CROSS JOIN webhook_deliveries d
    WHERE e.active AND d.endpoint_id = e.id AND d.state = 'pending' AND d.next_at <= ?
);

-- name: claim_deliveries
UPDATE webhook_deliveries SET attempts = attempts + 1, next_at = ?4
WHERE (endpoint_id, event_id) IN (
    SELECT endpoint_id, event_id FROM webhook_deliveries
    WHERE endpoint_id = ?1 AND state = 'pending' AND next_at <= ?2 ORDER BY next_at LIMIT ?3
)
RETURNING event_id, attempts, payload;

-- name: save_attempts
-- An attempt that is not the delivery's last one has lost its lease, and its result is ignored.
UPDATE webhook_deliveries
SET state = CASE WHEN ?4 THEN 'delivered' WHEN ?7 IS NULL OR ?7 > give_up_at THEN 'failed' ELSE 'pending' END,
    next_at = coalesce(?7, next_at),
    ended_at = CASE WHEN ?7 IS NULL OR ?7 > give_up_at THEN ?8 END,
    last_status = ?5,
    last_error = ?6
WHERE endpoint_id = ?1 AND event_id = ?2 AND attempts = ?3 AND state = 'pending'
RETURNING state;

-- name: note_failing
UPDATE webhook_endpoints SET failing_since = ?2 WHERE id = ?1 AND failing_since IS NULL;

-- name: note_mended
UPDATE webhook_endpoints SET failing_since = NULL WHERE id = ?;

-- name: disable_endpoints
UPDATE webhook_endpoints SET active = 0, disabled_because = 'gone' WHERE id = ? AND active;

-- name: give_up_waiting
-- No process has claimed these for days, because their endpoint is not active.
UPDATE webhook_deliveries SET state = 'failed', ended_at = ?1, last_error = 'the endpoint is not active'
WHERE (endpoint_id, event_id) IN (
    SELECT d.endpoint_id, d.event_id FROM webhook_endpoints e CROSS JOIN webhook_deliveries d
    WHERE NOT e.active AND e.deleted_at IS NULL AND d.endpoint_id = e.id AND d.state = 'pending' AND d.next_at <= ?2
    LIMIT ?3
);

-- name: bring_back
UPDATE webhook_deliveries SET next_at = ?1
WHERE (endpoint_id, event_id) IN (
    SELECT d.endpoint_id, d.event_id FROM webhook_endpoints e CROSS JOIN webhook_deliveries d
    WHERE d.endpoint_id = e.id AND d.state = 'pending' AND d.next_at > ?2 LIMIT ?3
);

-- name: delete_ended
DELETE FROM webhook_deliveries WHERE (endpoint_id, event_id) IN (
    SELECT endpoint_id, event_id FROM webhook_deliveries WHERE ended_at <= ? ORDER BY ended_at LIMIT ?
);

-- name: delete_orphans
DELETE FROM webhook_deliveries WHERE (endpoint_id, event_id) IN (
    SELECT d.endpoint_id, d.event_id FROM webhook_endpoints e CROSS JOIN webhook_deliveries d
    WHERE e.deleted_at IS NOT NULL AND d.endpoint_id = e.id LIMIT ?
);

-- name: forget_endpoints
DELETE FROM webhook_endpoints WHERE deleted_at <= ? AND id NOT IN (SELECT endpoint_id FROM webhook_deliveries);

-- name: webhook_backlog
SELECT (SELECT count(*) FROM (SELECT 1 FROM webhook_deliveries WHERE state = 'pending' LIMIT ?)) AS pending,
       count(*) FILTER (WHERE active AND failing_since IS NOT NULL) AS failing,
       min(failing_since) FILTER (WHERE active) AS failing_since
FROM webhook_endpoints;
