-- Calls of lifecycle handlers that are still to be made, in the order of each subscription's versions.
CREATE TABLE lifecycle_calls (
    subscription_id text COLLATE "C" NOT NULL,
    version         bigint NOT NULL,
    handler         text COLLATE "C" NOT NULL CHECK (handler <> ''),
    change          text NOT NULL CHECK (change IN ('activated', 'changed', 'past_due', 'cancelled', 'expired')),
    subject_type    text COLLATE "C" NOT NULL CHECK (subject_type IN ('org', 'user')),
    subject_id      text COLLATE "C" NOT NULL,
    plan_id         text NOT NULL,
    old_plan_id     text NOT NULL,
    at              timestamptz NOT NULL, -- when the change took effect
    operation_id    uuid NOT NULL,
    correlation_id  text NOT NULL,
    created_at      timestamptz NOT NULL,
    attempts        integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_at         timestamptz NOT NULL, -- of the next attempt, or the end of this one's lease
    last_error      text,
    PRIMARY KEY (subscription_id, version)
);

CREATE INDEX lifecycle_calls_due ON lifecycle_calls (next_at);

-- Roles that could change subscriptions until now can write and make calls.
DO $$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_class AS c, aclexplode(c.relacl) AS a
        WHERE c.oid = 'subscriptions'::regclass AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner
    LOOP
        EXECUTE format(
            'GRANT SELECT, INSERT, DELETE, UPDATE (attempts, next_at, last_error) ON lifecycle_calls TO %s', grantee
        );
    END LOOP;
END $$;
