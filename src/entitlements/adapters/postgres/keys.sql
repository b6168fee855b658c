-- Named statements of the API keys.

-- fragment: api_keys
SELECT {{api_key_columns}} FROM api_keys

-- name: api_key
{{api_keys}} WHERE secret_sha256 = $1;

-- name: api_keys
{{api_keys}} ORDER BY created_at, api_keys.id;

-- name: add_api_key
INSERT INTO api_keys (id, name, role, prefix, secret_sha256, created_at)
VALUES ($1::text::uuid, $2, $3, $4, $5, $6);

-- name: revoke_api_key
UPDATE api_keys SET revoked_at = $2 WHERE id = $1::text::uuid AND revoked_at IS NULL;

-- name: touch_api_keys
UPDATE api_keys AS k SET last_used_at = n.at
FROM unnest($1::text[], $2::timestamptz[]) AS n(id, at)
WHERE k.id = n.id::uuid AND (k.last_used_at IS NULL OR k.last_used_at < n.at);
