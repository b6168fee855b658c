-- Named statements of subscriptions.

-- name: load_subscriptions
-- By id, and those of the subject whose end has left grants.
SELECT {{subscription_columns}} FROM subscriptions WHERE subscription_id = ?3
UNION
SELECT {{subscription_columns}} FROM subscriptions
WHERE subject_type = ?1 AND subject_id = ?2 AND follow_up <> '[]';

-- name: load_subscriptions_of_grants
SELECT {{subscription_columns}} FROM subscriptions WHERE grant_id = ?;

-- name: create_subscriptions
INSERT INTO subscriptions ({{subscription_columns}}) VALUES ({{subscription_values}});

-- name: write_subscriptions
UPDATE subscriptions
SET plan_id = ?4, policy_version = ?5, lifecycle = ?6, status = ?7, activated_at = ?8, current_period_end = ?9,
    cancels_at = ?10, ended_at = ?11, grant_id = ?12, given = ?13, follow_up = ?14, replaced = ?15,
    version = ?16
WHERE subscription_id = ?1 AND subject_type = ?2 AND subject_id = ?3 AND version = ?17;

-- name: subscription
SELECT {{subscription_columns}} FROM subscriptions WHERE subscription_id = ?;
