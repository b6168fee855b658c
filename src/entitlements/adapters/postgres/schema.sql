-- Named statements of the schema's versions and of the server.

-- name: create_versions
CREATE TABLE IF NOT EXISTS schema_version (
    number integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- name: lock_versions
LOCK TABLE schema_version IN EXCLUSIVE MODE;

-- name: versions_exist
SELECT to_regclass('schema_version') IS NOT NULL;

-- name: versions
SELECT number, checksum FROM schema_version;

-- name: add_version
INSERT INTO schema_version (number, name, checksum) VALUES ($1, $2, $3);

-- name: foreign_tables
-- One statement, so that the tables of a concurrent first migration appear all at once.
SELECT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND c.relname = ANY($1::text[]) AND NOT EXISTS (
    SELECT FROM information_schema.columns AS own
    WHERE own.table_schema = current_schema()
        AND own.table_name = 'schema_version' AND own.column_name = 'checksum'
);

-- name: pin_verify_plans
-- Every invariant reads whole tables. After a bulk load their statistics are outdated, so that a nested loop looks cheap
-- but takes a minute where a hash join takes a second. Each statement runs once, so JIT compilation does not pay off.
SET LOCAL enable_nestloop = off;
SET LOCAL jit = off;
SET LOCAL work_mem = '64MB';

-- name: pin_plans
-- For listings: plans use the index of the ORDER BY, whatever the table's size when they were made.
SET LOCAL jit = off;
SET LOCAL plan_cache_mode = force_generic_plan;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_sort = off;

-- name: takes_writes
SELECT current_setting('transaction_read_only') = 'off' AS takes_writes;
