-- Processes that count limits in their own memory, so that each finds the others.
CREATE TABLE lone_limiters (
    name       text COLLATE "C" PRIMARY KEY,
    expires_at timestamptz NOT NULL
);

-- Roles that could announce a relay until now can announce a limiter.
DO $$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_class AS c, aclexplode(c.relacl) AS a
        WHERE c.oid = 'relays'::regclass AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, DELETE, UPDATE (expires_at) ON lone_limiters TO %s', grantee);
    END LOOP;
END $$;
