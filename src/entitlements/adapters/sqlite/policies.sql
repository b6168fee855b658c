-- Named statements of the policy's versions.

-- name: active_policy
SELECT version FROM policies WHERE active = 1;

-- name: active_state
SELECT version, (SELECT count(*) FROM allowance_metrics) FROM policies WHERE active = 1;

-- name: allowance_metrics
SELECT metric FROM allowance_metrics;

-- name: add_allowances
INSERT INTO allowance_metrics VALUES (?) ON CONFLICT DO NOTHING;

-- name: policy_content
SELECT content FROM policies WHERE version = ?;

-- name: policy_contents
SELECT content FROM policies;

-- name: retire_policies
UPDATE policies SET active = 0 WHERE active = 1;

-- name: activate_policy
-- Later than the previous version, even if the clock was set back.
INSERT INTO policies (version, content, activated_at, actor, active)
SELECT ?1, ?2, max(?4, 1 + coalesce(max(activated_at), 0)), ?3, 1 FROM policies;

-- name: policies
SELECT {{policy_version_columns}} FROM policies
WHERE substr(version, 1, length(?1)) = ?1 AND (?2 IS NULL OR activated_at < ?2)
ORDER BY activated_at DESC LIMIT ?3;
