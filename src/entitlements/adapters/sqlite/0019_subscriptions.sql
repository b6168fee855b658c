-- Subscriptions: the plan of a subject, and the grants that it gave. Each has a grant of its own, which ends with it.
CREATE TABLE subscriptions (
    subscription_id    TEXT PRIMARY KEY CHECK (subscription_id <> ''),
    subject_type       TEXT NOT NULL CHECK (subject_type IN ('org', 'user')),
    subject_id         TEXT NOT NULL CHECK (subject_id <> ''),
    plan_id            TEXT NOT NULL CHECK (plan_id <> ''),
    policy_version     TEXT NOT NULL, -- whose plan it has
    lifecycle          TEXT NOT NULL CHECK (json_valid(lifecycle)),
    status             TEXT NOT NULL CHECK (status IN ('active', 'past_due', 'canceled', 'expired')),
    activated_at       INTEGER NOT NULL,
    current_period_end INTEGER NOT NULL,
    cancels_at         INTEGER,
    ended_at           INTEGER,
    grant_id           TEXT NOT NULL, -- its own grant
    given              TEXT NOT NULL CHECK (json_valid(given)), -- grants of the plan: [[credit type, id], ...]
    follow_up          TEXT NOT NULL CHECK (json_valid(follow_up)), -- grants that its end gives, in the same form
    replaced           TEXT NOT NULL CHECK (json_valid(replaced)), -- grants of earlier plans whose use the next plan counts
    version            INTEGER NOT NULL CHECK (version > 0),
    CHECK (current_period_end > activated_at),
    CHECK (cancels_at > activated_at),
    CHECK (ended_at >= activated_at),
    CHECK ((ended_at IS NULL) = (status IN ('active', 'past_due'))),
    CHECK (ended_at IS NULL OR given = '[]')
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX subscriptions_grant ON subscriptions (grant_id);
CREATE INDEX subscriptions_of ON subscriptions (subject_type, subject_id, grant_id);
CREATE INDEX subscriptions_plan ON subscriptions (plan_id, grant_id);
