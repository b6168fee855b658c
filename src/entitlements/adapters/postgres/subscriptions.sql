-- Named statements of subscriptions.

-- name: load_subscriptions
-- By id, and those of the subject whose end has left grants. They are locked with the wallet of credits.
SELECT DISTINCT ON (s.subscription_id) s.*
FROM unnest($1::text[], $2::text[], $3::text[]) AS k(t, i, n)
CROSS JOIN LATERAL (
    SELECT {{subscription_columns}} FROM subscriptions WHERE subscription_id = k.n
    UNION ALL
    SELECT {{subscription_columns}} FROM subscriptions
    WHERE subject_type = k.t AND subject_id = k.i AND follow_up <> '[]'
) AS s;

-- name: load_subscriptions_of_grants
SELECT s.*
FROM unnest($1::text[]) AS k(n)
CROSS JOIN LATERAL (
    SELECT {{subscription_columns}} FROM subscriptions WHERE subscriptions.grant_id = k.n::uuid LIMIT 1
) AS s;

-- name: create_subscriptions
INSERT INTO subscriptions ({{subscription_columns}})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::text::uuid, $13, $14, $15, $16)
ON CONFLICT (subscription_id) DO NOTHING;

-- name: write_subscriptions
UPDATE subscriptions
SET plan_id = $4, policy_version = $5, lifecycle = $6, status = $7, activated_at = $8, current_period_end = $9,
    cancels_at = $10, ended_at = $11, grant_id = $12::text::uuid, given = $13, follow_up = $14, replaced = $15,
    version = $16
WHERE subscription_id = $1 AND subject_type = $2 AND subject_id = $3 AND version = $17;

-- name: subscription
SELECT {{subscription_columns}} FROM subscriptions WHERE subscription_id = $1;
