-- Named statements about roles and their rights.

-- name: schema
-- The schema of the tables: the first one of the search path that has them.
SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass('schema_version');

-- name: role_exists
SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1);

-- name: service_roles
-- Roles that were granted INSERT on the operations.
SELECT DISTINCT r.rolname AS role
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN aclexplode(c.relacl) AS a
JOIN pg_roles AS r ON r.oid = a.grantee
WHERE n.nspname = $1 AND c.relname = 'credit_operations' AND a.privilege_type = 'INSERT'
  AND a.grantee <> c.relowner
ORDER BY role;

-- name: rights_of
-- Every right on every table, and whether the role has it. Column rights are checked for each column.
SELECT c.relname AS name, NULL AS columns, p AS privilege, has_table_privilege(r.oid, c.oid, p) AS held
FROM pg_roles AS r
CROSS JOIN pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN unnest(ARRAY['DELETE', 'TRUNCATE', 'TRIGGER']) AS p
WHERE r.rolname = $3 AND n.nspname = $1 AND c.relname = ANY($2::text[])
UNION ALL
SELECT c.relname, a.attname, p, has_column_privilege(r.oid, c.oid, a.attnum, p)
FROM pg_roles AS r
CROSS JOIN pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) AS p
WHERE r.rolname = $3 AND n.nspname = $1 AND c.relname = ANY($2::text[]);

-- name: rights_through
-- The rights that the role has, directly or through roles that it is a member of, with or without inheritance (then by
-- SET ROLE). Rights of all roles are listed as PUBLIC's only.
WITH through AS (
    SELECT oid, rolname AS name FROM pg_roles WHERE pg_has_role($3::name, oid, 'MEMBER')
),
held AS (
    SELECT t.name AS through, c.relname AS name, NULL AS columns, p AS privilege,
           has_table_privilege('public', c.oid, p) AS is_public
    FROM through AS t
    CROSS JOIN pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    CROSS JOIN unnest(ARRAY['DELETE', 'TRUNCATE', 'TRIGGER']) AS p
    WHERE n.nspname = $1 AND c.relname = ANY($2::text[]) AND has_table_privilege(t.oid, c.oid, p)
    UNION ALL
    SELECT t.name, c.relname, a.attname, p, has_column_privilege('public', c.oid, a.attnum, p)
    FROM through AS t
    CROSS JOIN pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    CROSS JOIN unnest(ARRAY['INSERT', 'UPDATE', 'REFERENCES']) AS p
    WHERE n.nspname = $1 AND c.relname = ANY($2::text[]) AND has_column_privilege(t.oid, c.oid, a.attnum, p)
)
SELECT DISTINCT CASE WHEN is_public THEN 'PUBLIC' ELSE through END AS through, name, columns, privilege
FROM held ORDER BY name, privilege, through, columns;

-- name: role_problems
-- Properties that defeat any list of rights.
WITH through AS (
    SELECT oid, rolname, rolsuper, rolcreaterole,
           CASE WHEN rolname = $2 THEN '' ELSE ' through ' || rolname END AS way
    FROM pg_roles WHERE pg_has_role($2::name, oid, 'MEMBER') AND NOT rolsuper OR rolname = $2
),
superuser AS (SELECT FROM pg_roles WHERE rolname = $2 AND rolsuper)
SELECT 'it is a superuser' AS problem WHERE EXISTS (SELECT FROM superuser)
UNION ALL
SELECT found.problem FROM (
    SELECT 'it may become the superuser ' || rolname AS problem FROM pg_roles
    WHERE rolsuper AND pg_has_role($2::name, oid, 'MEMBER')
    UNION ALL
    SELECT 'it may give itself other roles (CREATEROLE)' || way FROM through WHERE rolcreaterole
    UNION ALL
    SELECT 'it owns the database' || way FROM through
    WHERE oid = (SELECT datdba FROM pg_database WHERE datname = current_database())
    UNION ALL
    SELECT 'it owns the schema ' || $1 || way FROM through
    WHERE oid = (SELECT nspowner FROM pg_namespace WHERE nspname = $1)
    UNION ALL
    SELECT 'it owns tables' || way FROM through
    WHERE oid IN (SELECT relowner FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
                  WHERE n.nspname = $1 AND relname = ANY($3::text[]))
    UNION ALL
    SELECT 'it may use files and programs of the server' || way FROM through
    WHERE rolname IN ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')
    UNION ALL
    SELECT 'PUBLIC may create objects in the schema ' || $1 WHERE has_schema_privilege('public', $1, 'CREATE')
    UNION ALL
    SELECT 'it may create objects in the schema ' || $1 || way FROM through
    WHERE has_schema_privilege(oid, $1, 'CREATE') AND NOT has_schema_privilege('public', $1, 'CREATE')
) AS found
WHERE NOT EXISTS (SELECT FROM superuser);
