-- Named statements of the schema's versions.

-- name: is_ours
SELECT 1 FROM pragma_table_info('schema_version') WHERE name = 'checksum';

-- name: tables
SELECT name FROM sqlite_master WHERE type IN ('table', 'view');

-- name: create_versions
CREATE TABLE IF NOT EXISTS schema_version (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at INTEGER NOT NULL
) STRICT;

-- name: versions_exist
SELECT 1 FROM sqlite_schema WHERE name = 'schema_version';

-- name: versions
SELECT number, checksum FROM schema_version;

-- name: add_version
INSERT INTO schema_version (number, name, checksum, applied_at) VALUES (?, ?, ?, ?);

-- name: ping
SELECT 1 FROM schema_version LIMIT 1;
