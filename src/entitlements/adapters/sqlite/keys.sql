-- Named statements of the API keys.

-- fragment: api_keys
SELECT {{api_key_columns}} FROM api_keys

-- name: api_key
{{api_keys}} WHERE secret_sha256 = ?;

-- name: api_keys
{{api_keys}} ORDER BY created_at, id;

-- name: add_api_key
INSERT INTO api_keys (id, name, role, prefix, secret_sha256, created_at) VALUES (?, ?, ?, ?, ?, ?);

-- name: revoke_api_key
UPDATE api_keys SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL;

-- name: touch_api_keys
UPDATE api_keys SET last_used_at = ?2 WHERE id = ?1 AND (last_used_at IS NULL OR last_used_at < ?2);
