-- Batches and activations exclude each other by locking this table, for which LOCK TABLE asks the right to UPDATE;
-- the policies themselves need not be changeable (docs/adr/0013).
CREATE TABLE policy_lock (
    id smallint PRIMARY KEY CHECK (id = 1)
);

INSERT INTO policy_lock (id) VALUES (1);

-- Programs of the version before lock the policies and not this table. Theirs and ours exclude each other all the
-- same, since any change of the policies takes the lock.
CREATE FUNCTION lock_policies() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('LOCK TABLE %I.policy_lock IN EXCLUSIVE MODE', TG_TABLE_SCHEMA);
    RETURN NULL;
END $$;

CREATE TRIGGER policies_locked BEFORE INSERT OR UPDATE OR DELETE ON policies
    FOR EACH STATEMENT EXECUTE FUNCTION lock_policies();

-- Roles that could lock the policies until now can lock this table.
DO $$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_class AS c, aclexplode(c.relacl) AS a
        WHERE c.oid = 'policies'::regclass AND a.privilege_type = 'UPDATE' AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT, UPDATE ON policy_lock TO %s', grantee);
    END LOOP;
END $$;
