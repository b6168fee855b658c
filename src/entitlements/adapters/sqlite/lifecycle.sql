-- Named statements of the calls of lifecycle handlers.

-- name: add_lifecycle_calls
INSERT INTO lifecycle_calls ({{lifecycle_call_columns}}, next_at) VALUES ({{lifecycle_call_values}}, ?12);

-- name: claim_lifecycle_calls
-- The first call of a subscription is made before its later ones are claimed. A lease whose end lies further ahead than
-- a lease or a retry is long was set by a clock that has been set back.
UPDATE lifecycle_calls SET attempts = attempts + 1, next_at = ?1 + ?4
WHERE (subscription_id, version) IN (
    SELECT w.subscription_id, w.version FROM lifecycle_calls AS w
    WHERE w.handler IN (SELECT value FROM json_each(?2)) AND (w.next_at <= ?1 OR w.next_at > ?1 + ?5)
      AND NOT EXISTS (
          SELECT 1 FROM lifecycle_calls AS e
          WHERE e.subscription_id = w.subscription_id AND e.version < w.version
      )
    ORDER BY w.next_at LIMIT ?3
)
RETURNING {{waiting_call_columns}};

-- name: any_lifecycle_call
SELECT 1 FROM lifecycle_calls LIMIT 1;

-- name: made_lifecycle_call
-- With the number of the attempt: one that has lost its lease decides nothing.
DELETE FROM lifecycle_calls WHERE subscription_id = ?1 AND version = ?2 AND attempts = ?3;

-- name: failed_lifecycle_call
UPDATE lifecycle_calls SET next_at = ?6 + ?5, last_error = ?4
WHERE subscription_id = ?1 AND version = ?2 AND attempts = ?3;

-- name: lifecycle_calls
SELECT {{waiting_call_columns}} FROM lifecycle_calls ORDER BY created_at, subscription_id, version LIMIT ?1;
