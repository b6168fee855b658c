-- The metrics that allowances were granted for. Batches read only how many there are, so that the work of other metrics
-- looks for no allowances.
CREATE TABLE allowance_metrics (metric text COLLATE "C" PRIMARY KEY);

INSERT INTO allowance_metrics
SELECT DISTINCT substr(credit_type, 7) FROM credit_balances WHERE credit_type LIKE 'units:_%';

-- The first operation of a consumption or hold that several wallets pay.
ALTER TABLE credit_operations ADD COLUMN group_id uuid;

CREATE INDEX credit_operations_group ON credit_operations (group_id) WHERE group_id IS NOT NULL;

-- What an org paid or holds for a member in a month, of work under enforced memberships. Operations and holds say in
-- which month they count.
ALTER TABLE org_members ADD COLUMN left_at timestamptz;
ALTER TABLE org_members ADD COLUMN month text NOT NULL DEFAULT '';
ALTER TABLE org_members ADD COLUMN drawn bigint NOT NULL DEFAULT 0 CHECK (drawn >= 0);
ALTER TABLE credit_operations ADD COLUMN member_month text;
ALTER TABLE holds ADD COLUMN member_month text;

-- Roles that could grant and add members until now can do what this needs.
DO $$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_class AS c, aclexplode(c.relacl) AS a
        WHERE c.oid = 'org_members'::regclass AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT, INSERT ON allowance_metrics TO %s', grantee);
        EXECUTE format('GRANT UPDATE (joined_at, left_at, monthly_cap, month, drawn) ON org_members TO %s', grantee);
    END LOOP;
END $$;
