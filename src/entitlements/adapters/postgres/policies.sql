-- Named statements of the policy's versions.

-- name: active_policy
SELECT version FROM policies WHERE active;

-- name: allowance_metrics
SELECT metric FROM allowance_metrics;

-- name: policy_content
SELECT content FROM policies WHERE version = $1;

-- name: policy_contents
SELECT content FROM policies;

-- name: lock_policies
-- Waits for running batches and blocks later ones; reads continue. Its timeout is shorter than that of batches: if a
-- batch hangs, this statement fails and is retried, and no other batch fails. Programs of the previous version lock the
-- policies table itself; this statement does too where the role may.
SET LOCAL lock_timeout = '200ms';
DO $$ BEGIN
    IF has_table_privilege('policies', 'UPDATE') THEN
        LOCK TABLE policies IN EXCLUSIVE MODE;
    END IF;
END $$;
LOCK TABLE policy_lock IN EXCLUSIVE MODE;

-- name: retire_policies
UPDATE policies SET active = false WHERE active;

-- name: activate_policy
-- The time is taken under the lock: it is later than every operation of the previous version, even if the clock was set
-- back.
INSERT INTO policies (version, content, activated_at, actor, active)
SELECT $1, $2, greatest(coalesce($4, clock_timestamp()), max(activated_at) + interval '1 microsecond'), $3, true
FROM policies;

-- name: policies
SELECT {{policy_version_columns}} FROM policies
WHERE starts_with(version, $1) AND ($2::timestamptz IS NULL OR activated_at < $2)
ORDER BY activated_at DESC LIMIT $3;
