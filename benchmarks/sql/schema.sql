-- The tables that one consumption writes, as the service has them, for pgbench alone.
CREATE TABLE credit_balances (
    subject_type text COLLATE "C" NOT NULL,
    subject_id   text COLLATE "C" NOT NULL,
    credit_type  text COLLATE "C" NOT NULL,
    balance      bigint NOT NULL CHECK (balance >= 0),
    held         bigint NOT NULL DEFAULT 0,
    overdraft    bigint NOT NULL DEFAULT 0,
    version      bigint NOT NULL DEFAULT 0,
    next_due_at  timestamptz,
    updated_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subject_type, subject_id, credit_type)
) WITH (fillfactor = 50);

CREATE TABLE grants (
    subject_type     text COLLATE "C" NOT NULL,
    subject_id       text COLLATE "C" NOT NULL,
    id               text COLLATE "C" NOT NULL,
    credit_type      text COLLATE "C" NOT NULL,
    priority         int NOT NULL DEFAULT 50,
    quantity_granted bigint NOT NULL,
    remaining        bigint NOT NULL CHECK (remaining BETWEEN 0 AND quantity_granted),
    live             boolean NOT NULL DEFAULT true,
    granted_at       timestamptz NOT NULL DEFAULT now(),
    expires_at       timestamptz,
    PRIMARY KEY (subject_type, subject_id, id)
) WITH (fillfactor = 50);
CREATE INDEX ON grants (subject_type, subject_id, credit_type, priority, expires_at, granted_at, id)
    WHERE live;

CREATE TABLE credit_operations (
    subject_type     text COLLATE "C" NOT NULL,
    subject_id       text COLLATE "C" NOT NULL,
    credit_type      text COLLATE "C" NOT NULL,
    seq              bigint NOT NULL,
    id               text COLLATE "C" NOT NULL,
    kind             text NOT NULL,
    user_id          text NOT NULL,
    org_id           text,
    metric           text NOT NULL,
    quantity         bigint NOT NULL,
    amount           bigint NOT NULL,
    delta            bigint NOT NULL,
    balance_after    bigint NOT NULL,
    owed             bigint NOT NULL,
    draws            text NOT NULL,
    batch_id         text,
    consumed_from    text NOT NULL,
    correlation_id   text NOT NULL,
    operation_status text NOT NULL,
    policy_version   text NOT NULL,
    actor            text NOT NULL,
    client           text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    effective_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subject_type, subject_id, credit_type, seq)
);
CREATE UNIQUE INDEX ON credit_operations (id);
CREATE INDEX ON credit_operations (correlation_id);
CREATE INDEX ON credit_operations (created_at);

CREATE TABLE receipts (
    client        text COLLATE "C" NOT NULL,
    key           text COLLATE "C" NOT NULL,
    fingerprint   text NOT NULL,
    outcome       text NOT NULL,
    operation_ids text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (client, key)
);

CREATE TABLE event_outbox (
    bucket       int NOT NULL,
    subject      text COLLATE "C" NOT NULL,
    seq          bigint NOT NULL,
    n            int NOT NULL,
    event_id     text NOT NULL,
    event_type   text NOT NULL,
    topic        text NOT NULL,
    key          text NOT NULL,
    payload      text NOT NULL,
    headers      text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    attempts     int NOT NULL DEFAULT 0,
    parked       boolean NOT NULL DEFAULT false,
    PRIMARY KEY (bucket, subject, seq, n)
);

INSERT INTO credit_balances (subject_type, subject_id, credit_type, balance)
SELECT 'user', 'user-' || s, 'credits', 1000000000 FROM generate_series(1, 10000) s;
INSERT INTO grants (subject_type, subject_id, id, credit_type, quantity_granted, remaining)
SELECT 'user', 'user-' || s, 'grant-' || s, 'credits', 1000000000, 1000000000
FROM generate_series(1, 10000) s;
ANALYZE;

CREATE TABLE lean_operations (
    subject_id text COLLATE "C", seq bigint, id text, metric text, amount bigint,
    balance_after bigint, created_at timestamptz DEFAULT now(), PRIMARY KEY (subject_id, seq)
);
CREATE TABLE lean_outbox (
    subject_id text COLLATE "C", seq bigint, payload text, PRIMARY KEY (subject_id, seq)
);
