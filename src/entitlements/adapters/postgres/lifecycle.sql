-- Named statements of the calls of lifecycle handlers.

-- name: add_lifecycle_calls
INSERT INTO lifecycle_calls ({{lifecycle_call_columns}}, next_at)
SELECT k.*, k.created_at FROM unnest(
    $1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::timestamptz[], $10::text[]::uuid[], $11::text[], $12::timestamptz[]
) AS k({{lifecycle_call_columns}});

-- name: claim_lifecycle_calls
-- The first call of a subscription is made before its later ones are claimed. A lease whose end lies further ahead than
-- a lease or a retry is long was set by a clock that has been set back.
UPDATE lifecycle_calls AS c
SET attempts = c.attempts + 1, next_at = due.now + make_interval(secs => $4::int)
FROM (
    SELECT w.subscription_id AS id, w.version AS number, n.now
    FROM (SELECT coalesce($1, statement_timestamp()) AS now) AS n
    CROSS JOIN lifecycle_calls AS w
    WHERE w.handler = ANY($2::text[])
      AND (w.next_at <= n.now OR w.next_at > n.now + make_interval(secs => $5::int))
      AND NOT EXISTS (
          SELECT FROM lifecycle_calls AS e
          WHERE e.subscription_id = w.subscription_id AND e.version < w.version
      )
    ORDER BY w.next_at LIMIT $3 FOR UPDATE OF w SKIP LOCKED
) AS due
WHERE c.subscription_id = due.id AND c.version = due.number
RETURNING {{waiting_call_columns}};

-- name: made_lifecycle_call
-- With the number of the attempt: one that has lost its lease decides nothing.
DELETE FROM lifecycle_calls WHERE subscription_id = $1 AND version = $2 AND attempts = $3;

-- name: failed_lifecycle_call
UPDATE lifecycle_calls
SET next_at = coalesce($6, statement_timestamp()) + make_interval(secs => $5::int), last_error = $4
WHERE subscription_id = $1 AND version = $2 AND attempts = $3;

-- name: lifecycle_calls
SELECT {{waiting_call_columns}} FROM lifecycle_calls ORDER BY created_at, subscription_id, version LIMIT $1;
