-- The history of an older service, to be read only: its operations are no lines of the ledger and move no balance.
-- An id is unique within the older service, whose times order the listing.
CREATE TABLE imported_operations (
    subject_type     text COLLATE "C" NOT NULL CHECK (subject_type IN ('org', 'user')),
    subject_id       text COLLATE "C" NOT NULL CHECK (subject_id <> ''),
    id               text COLLATE "C" NOT NULL CHECK (id <> ''),
    credit_type      text COLLATE "C" NOT NULL,
    metric           text COLLATE "C" NOT NULL,
    amount           bigint NOT NULL,
    batch_id         text COLLATE "C",
    consumed_from    text,
    correlation_id   text COLLATE "C",
    operation_status text NOT NULL,
    created_at       timestamptz NOT NULL,
    PRIMARY KEY (subject_type, subject_id, id)
);

CREATE INDEX imported_operations_of ON imported_operations (subject_type, subject_id, created_at, id);
CREATE INDEX imported_operations_time ON imported_operations (created_at, id);
CREATE INDEX imported_operations_correlated ON imported_operations (correlation_id, created_at, id)
    WHERE correlation_id IS NOT NULL;

-- Roles that may add operations may import them.
DO $$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_class AS c, aclexplode(c.relacl) AS a
        WHERE c.oid = 'credit_operations'::regclass AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT, INSERT ON imported_operations TO %s', grantee);
    END LOOP;
END $$;
