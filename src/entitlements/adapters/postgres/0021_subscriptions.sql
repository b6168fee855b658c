-- Subscriptions: the plan of a subject, and the grants that it gave. Each has a grant of its own, which ends with it.
CREATE TABLE subscriptions (
    subscription_id    text COLLATE "C" PRIMARY KEY CHECK (subscription_id <> ''),
    subject_type       text COLLATE "C" NOT NULL CHECK (subject_type IN ('org', 'user')),
    subject_id         text COLLATE "C" NOT NULL CHECK (subject_id <> ''),
    plan_id            text COLLATE "C" NOT NULL CHECK (plan_id <> ''),
    policy_version     text NOT NULL, -- whose plan it has
    lifecycle          text NOT NULL, -- as JSON
    status             text NOT NULL CHECK (status IN ('active', 'past_due', 'canceled', 'expired')),
    activated_at       timestamptz NOT NULL,
    current_period_end timestamptz NOT NULL,
    cancels_at         timestamptz,
    ended_at           timestamptz,
    grant_id           uuid NOT NULL, -- its own grant
    given              jsonb NOT NULL, -- grants of the plan: [[credit type, id], ...]
    follow_up          jsonb NOT NULL, -- grants that its end gives, in the same form
    replaced           jsonb NOT NULL, -- grants of earlier plans whose use the next plan counts
    version            bigint NOT NULL CHECK (version > 0),
    CHECK (current_period_end > activated_at),
    CHECK (cancels_at > activated_at),
    CHECK (ended_at >= activated_at),
    CHECK ((ended_at IS NULL) = (status IN ('active', 'past_due'))),
    CHECK (ended_at IS NULL OR given = '[]')
);

CREATE UNIQUE INDEX subscriptions_grant ON subscriptions (grant_id);
CREATE INDEX subscriptions_of ON subscriptions (subject_type, subject_id, grant_id);
CREATE INDEX subscriptions_plan ON subscriptions (plan_id, grant_id);

-- Roles that could grant until now can write subscriptions, and let a grant end with one.
DO $$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_class AS c, aclexplode(c.relacl) AS a
        WHERE c.oid = 'grants'::regclass AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner
    LOOP
        EXECUTE format(
            'GRANT SELECT, INSERT, UPDATE (plan_id, policy_version, lifecycle, status, activated_at, '
            'current_period_end, cancels_at, ended_at, grant_id, given, follow_up, replaced, version) ON subscriptions TO %s',
            grantee
        );
        EXECUTE format('GRANT UPDATE (expires_at) ON grants TO %s', grantee);
    END LOOP;
END $$;
