-- The ledger. Every rule the code keeps has a guard here; no triggers, no sequences.

CREATE TABLE credit_balances (
    subject_type text COLLATE "C" NOT NULL CHECK (subject_type IN ('org', 'user')),
    subject_id   text COLLATE "C" NOT NULL CHECK (subject_id <> ''),
    credit_type  text COLLATE "C" NOT NULL CHECK (credit_type <> ''),
    balance      bigint NOT NULL DEFAULT 0,
    held         bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
    overdraft    bigint NOT NULL DEFAULT 0 CHECK (overdraft >= 0),
    version      bigint NOT NULL DEFAULT 0 CHECK (version >= 0),
    next_due_at  timestamptz,
    updated_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subject_type, subject_id, credit_type),
    CHECK (balance BETWEEN -1000000000000000 AND 1000000000000000),
    CHECK (balance >= -overdraft),
    CHECK (overdraft = 0 OR held > 0 OR balance = -overdraft)
) WITH (fillfactor = 50);

CREATE INDEX credit_balances_due ON credit_balances (next_due_at) WHERE next_due_at IS NOT NULL;

CREATE TABLE grants (
    subject_type     text COLLATE "C" NOT NULL,
    subject_id       text COLLATE "C" NOT NULL,
    credit_type      text COLLATE "C" NOT NULL,
    id               uuid NOT NULL,
    entitlement_type text NOT NULL DEFAULT 'credit_grant',
    quantity         bigint NOT NULL CHECK (quantity BETWEEN 0 AND 1000000000000000),
    remaining        bigint NOT NULL,
    held             bigint NOT NULL DEFAULT 0,
    priority         integer NOT NULL CHECK (priority BETWEEN 0 AND 100),
    granted_at       timestamptz NOT NULL,
    expires_at       timestamptz,
    reason           text NOT NULL,
    started          boolean NOT NULL,
    ended_at         timestamptz,
    end_reason       text,
    live             boolean NOT NULL,
    due_at           timestamptz,
    granted_by       text NOT NULL,
    reference_id     text,
    cost_microcents  bigint,
    notes            text,
    metadata         jsonb NOT NULL DEFAULT '{}',
    created_at       timestamptz NOT NULL,
    PRIMARY KEY (subject_type, subject_id, credit_type, id),
    CHECK (0 <= held AND held <= remaining AND remaining <= quantity),
    CHECK (expires_at > granted_at),
    CHECK (live = (started AND ended_at IS NULL AND remaining > 0)),
    CHECK ((ended_at IS NULL) = (end_reason IS NULL))
) WITH (fillfactor = 50);

CREATE UNIQUE INDEX grants_id ON grants (id);
-- Burn order; only live grants are in it, so a consumption rewrites no index entry until one is used up.
CREATE INDEX grants_live ON grants
    (subject_type, subject_id, credit_type, priority, expires_at, granted_at, id) WHERE live;
CREATE INDEX grants_due ON grants (subject_type, subject_id, credit_type, due_at) WHERE due_at IS NOT NULL;

CREATE TABLE credit_operations (
    subject_type     text COLLATE "C" NOT NULL,
    subject_id       text COLLATE "C" NOT NULL,
    credit_type      text COLLATE "C" NOT NULL,
    seq              bigint NOT NULL CHECK (seq > 0),
    id               uuid NOT NULL,
    kind             text NOT NULL,
    user_id          text,
    org_id           text,
    metric           text,
    quantity         bigint NOT NULL CHECK (quantity >= 0),
    amount           bigint NOT NULL CHECK (amount BETWEEN 0 AND 1000000000000000),
    delta            bigint NOT NULL,
    balance_after    bigint NOT NULL,
    owed             bigint NOT NULL CHECK (owed >= 0),
    draws            jsonb NOT NULL,
    batch_id         text,
    consumed_from    text NOT NULL CHECK (consumed_from IN ('org', 'user', 'none')),
    correlation_id   text NOT NULL,
    operation_status text NOT NULL CHECK (operation_status IN ('completed', 'failed', 'pending')),
    reason           text,
    policy_version   text NOT NULL,
    actor            text NOT NULL,
    client           text NOT NULL,
    reverses         uuid,
    created_at       timestamptz NOT NULL,
    effective_at     timestamptz NOT NULL,
    PRIMARY KEY (subject_type, subject_id, credit_type, seq),
    CHECK (delta = 0 OR abs(delta) = amount),
    CHECK (operation_status <> 'failed' OR delta = 0),
    CHECK (owed = 0 OR operation_status = 'failed')
);

CREATE UNIQUE INDEX credit_operations_id ON credit_operations (id);
CREATE INDEX credit_operations_correlation ON credit_operations (correlation_id);
CREATE INDEX credit_operations_created ON credit_operations (created_at, id);

CREATE TABLE event_outbox (
    bucket       smallint NOT NULL,
    subject_type text COLLATE "C" NOT NULL,
    subject_id   text COLLATE "C" NOT NULL,
    credit_type  text COLLATE "C" NOT NULL,
    seq          bigint NOT NULL,
    n            smallint NOT NULL,
    event_id     uuid NOT NULL,
    event_type   text NOT NULL,
    key          text NOT NULL,
    payload      text NOT NULL,
    created_at   timestamptz NOT NULL,
    published_at timestamptz,
    attempts     integer NOT NULL DEFAULT 0,
    parked_at    timestamptz,
    PRIMARY KEY (bucket, subject_type, subject_id, credit_type, seq, n)
);

CREATE TABLE receipts (
    client       text COLLATE "C" NOT NULL,
    key          text COLLATE "C" NOT NULL,
    fingerprint  text NOT NULL,
    outcome      text NOT NULL,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (client, key)
);

CREATE TABLE jobs (
    user_id         text COLLATE "C" NOT NULL,
    service_name    text COLLATE "C" NOT NULL,
    processing_id   text COLLATE "C" NOT NULL,
    metric          text COLLATE "C" NOT NULL,
    units           bigint NOT NULL CHECK (units >= 0),
    outcome         text NOT NULL,
    PRIMARY KEY (user_id, service_name, processing_id, metric)
);

CREATE TABLE reversals (
    subject_type text COLLATE "C" NOT NULL,
    subject_id   text COLLATE "C" NOT NULL,
    credit_type  text COLLATE "C" NOT NULL,
    operation_id uuid NOT NULL,
    reversed     bigint NOT NULL CHECK (reversed >= 0),
    PRIMARY KEY (subject_type, subject_id, credit_type, operation_id)
);

CREATE TABLE debts (
    subject_type text COLLATE "C" NOT NULL,
    subject_id   text COLLATE "C" NOT NULL,
    credit_type  text COLLATE "C" NOT NULL,
    operation_id uuid NOT NULL,
    owed         bigint NOT NULL CHECK (owed > 0),
    metric       text NOT NULL,
    created_at   timestamptz NOT NULL,
    closed_by    uuid,
    PRIMARY KEY (subject_type, subject_id, credit_type, operation_id)
);

CREATE UNIQUE INDEX debts_operation ON debts (operation_id);
CREATE INDEX debts_open ON debts (created_at, operation_id) WHERE closed_by IS NULL;
CREATE INDEX debts_open_of ON debts (subject_type, subject_id, credit_type, created_at, operation_id)
    WHERE closed_by IS NULL;

CREATE TABLE accounts (
    subject_type text COLLATE "C" NOT NULL,
    subject_id   text COLLATE "C" NOT NULL,
    opened_at    timestamptz NOT NULL,
    PRIMARY KEY (subject_type, subject_id)
);

CREATE TABLE policies (
    version      text COLLATE "C" PRIMARY KEY,
    content      text NOT NULL,
    activated_at timestamptz NOT NULL,
    actor        text NOT NULL,
    active       boolean NOT NULL
);

CREATE UNIQUE INDEX policies_active ON policies (active) WHERE active;

CREATE TABLE api_keys (
    id            uuid PRIMARY KEY,
    name          text NOT NULL,
    role          text NOT NULL CHECK (role IN ('service', 'reader', 'operator', 'admin')),
    prefix        text NOT NULL,
    secret_sha256 text NOT NULL UNIQUE,
    created_at    timestamptz NOT NULL,
    revoked_at    timestamptz,
    last_used_at  timestamptz
);

CREATE TABLE audit_log (
    id             uuid PRIMARY KEY,
    at             timestamptz NOT NULL,
    actor          text NOT NULL,
    client         text NOT NULL,
    action         text NOT NULL,
    subject_type   text,
    subject_id     text,
    reason         text,
    detail         jsonb NOT NULL,
    correlation_id text NOT NULL
);

CREATE INDEX audit_log_at ON audit_log (at, id);
