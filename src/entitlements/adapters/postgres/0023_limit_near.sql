-- Limits that are near, the last event of each window: events without an operation.

CREATE TABLE limit_near (
    subject_type text COLLATE "C" NOT NULL CHECK (subject_type IN ('org', 'user')),
    subject_id   text COLLATE "C" NOT NULL,
    metric       text COLLATE "C" NOT NULL,
    window_s     bigint NOT NULL CHECK (window_s > 0),
    event_id     uuid NOT NULL,
    event_type   text NOT NULL,
    key          text NOT NULL,
    payload      text NOT NULL,
    created_at   timestamptz NOT NULL,
    again_at     timestamptz NOT NULL, -- a window after created_at: before, no other event
    published_at timestamptz,
    PRIMARY KEY (subject_type, subject_id, metric, window_s)
);

CREATE INDEX limit_near_over ON limit_near (again_at);
CREATE INDEX limit_near_unpublished ON limit_near (created_at) WHERE published_at IS NULL;

-- Roles that write exceeded limits write near ones too.
DO $$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
        FROM pg_class AS c CROSS JOIN aclexplode(c.relacl) AS a
        WHERE c.oid = 'limit_exceeded'::regclass AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner
    LOOP
        EXECUTE format(
            'GRANT SELECT, INSERT, DELETE, UPDATE (event_id, event_type, key, payload, created_at, again_at, '
            'published_at) ON limit_near TO %s',
            grantee
        );
    END LOOP;
END $$;
