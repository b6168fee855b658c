-- The ledger. Every rule the code keeps has a guard here; no triggers, no sequences.
-- Times are microseconds since 1970 UTC, ids and JSON are text, booleans 0 or 1.

CREATE TABLE credit_balances (
    subject_type TEXT NOT NULL CHECK (subject_type IN ('org', 'user')),
    subject_id   TEXT NOT NULL CHECK (subject_id <> ''),
    credit_type  TEXT NOT NULL CHECK (credit_type <> ''),
    balance      INTEGER NOT NULL CHECK (balance BETWEEN -1000000000000000 AND 1000000000000000),
    held         INTEGER NOT NULL CHECK (held >= 0),
    overdraft    INTEGER NOT NULL CHECK (overdraft >= 0),
    version      INTEGER NOT NULL CHECK (version >= 0),
    next_due_at  INTEGER,
    updated_at   INTEGER NOT NULL,
    PRIMARY KEY (subject_type, subject_id, credit_type),
    CHECK (balance >= -overdraft),
    CHECK (overdraft = 0 OR held > 0 OR balance = -overdraft)
) STRICT, WITHOUT ROWID;

CREATE INDEX credit_balances_due ON credit_balances (next_due_at) WHERE next_due_at IS NOT NULL;

CREATE TABLE grants (
    subject_type     TEXT NOT NULL,
    subject_id       TEXT NOT NULL,
    credit_type      TEXT NOT NULL,
    id               TEXT NOT NULL,
    entitlement_type TEXT NOT NULL DEFAULT 'credit_grant',
    quantity         INTEGER NOT NULL CHECK (quantity BETWEEN 0 AND 1000000000000000),
    remaining        INTEGER NOT NULL,
    held             INTEGER NOT NULL,
    priority         INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 100),
    granted_at       INTEGER NOT NULL,
    expires_at       INTEGER,
    reason           TEXT NOT NULL,
    started          INTEGER NOT NULL CHECK (started IN (0, 1)),
    ended_at         INTEGER,
    end_reason       TEXT,
    live             INTEGER NOT NULL CHECK (live IN (0, 1)),
    due_at           INTEGER,
    granted_by       TEXT NOT NULL,
    reference_id     TEXT,
    cost_microcents  INTEGER,
    notes            TEXT,
    metadata         TEXT NOT NULL CHECK (json_valid(metadata)),
    created_at       INTEGER NOT NULL,
    PRIMARY KEY (subject_type, subject_id, credit_type, id),
    CHECK (0 <= held AND held <= remaining AND remaining <= quantity),
    CHECK (expires_at > granted_at),
    CHECK (live = (started AND ended_at IS NULL AND remaining > 0)),
    CHECK ((ended_at IS NULL) = (end_reason IS NULL))
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX grants_id ON grants (id);
-- Burn order; 253402300799999999 is the end of the year 9999, which stands for never. Only live grants are in
-- it, so a consumption rewrites no index entry until one is used up.
CREATE INDEX grants_live ON grants (
    subject_type, subject_id, credit_type,
    priority, coalesce(expires_at, 253402300799999999), granted_at, id
) WHERE live = 1;
CREATE INDEX grants_due ON grants (subject_type, subject_id, credit_type, due_at, started DESC, id)
    WHERE due_at IS NOT NULL;

CREATE TABLE credit_operations (
    subject_type     TEXT NOT NULL,
    subject_id       TEXT NOT NULL,
    credit_type      TEXT NOT NULL,
    seq              INTEGER NOT NULL CHECK (seq > 0),
    id               TEXT NOT NULL,
    kind             TEXT NOT NULL,
    user_id          TEXT,
    org_id           TEXT,
    metric           TEXT,
    quantity         INTEGER NOT NULL CHECK (quantity >= 0),
    amount           INTEGER NOT NULL CHECK (amount BETWEEN 0 AND 1000000000000000),
    delta            INTEGER NOT NULL,
    balance_after    INTEGER NOT NULL
        CHECK (balance_after BETWEEN -1000000000000000 AND 1000000000000000),
    owed             INTEGER NOT NULL CHECK (owed BETWEEN 0 AND 1000000000000000),
    draws            TEXT NOT NULL,
    batch_id         TEXT,
    consumed_from    TEXT NOT NULL CHECK (consumed_from IN ('org', 'user', 'none')),
    correlation_id   TEXT NOT NULL,
    operation_status TEXT NOT NULL CHECK (operation_status IN ('completed', 'failed', 'pending')),
    reason           TEXT,
    policy_version   TEXT NOT NULL,
    actor            TEXT NOT NULL,
    client           TEXT NOT NULL,
    reverses         TEXT,
    created_at       INTEGER NOT NULL,
    effective_at     INTEGER NOT NULL,
    PRIMARY KEY (subject_type, subject_id, credit_type, seq),
    CHECK (delta = 0 OR abs(delta) = amount),
    CHECK (operation_status <> 'failed' OR delta = 0),
    CHECK (owed = 0 OR operation_status = 'failed')
) STRICT;

CREATE UNIQUE INDEX credit_operations_id ON credit_operations (id);
CREATE INDEX credit_operations_correlation ON credit_operations (correlation_id);
CREATE INDEX credit_operations_created ON credit_operations (created_at, id);

CREATE TABLE event_outbox (
    bucket       INTEGER NOT NULL,
    subject_type TEXT NOT NULL,
    subject_id   TEXT NOT NULL,
    credit_type  TEXT NOT NULL,
    seq          INTEGER NOT NULL,
    n            INTEGER NOT NULL,
    event_id     TEXT NOT NULL,
    event_type   TEXT NOT NULL,
    key          TEXT NOT NULL,
    payload      TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    published_at INTEGER,
    attempts     INTEGER NOT NULL DEFAULT 0,
    parked_at    INTEGER,
    PRIMARY KEY (bucket, subject_type, subject_id, credit_type, seq, n)
) STRICT;

CREATE TABLE receipts (
    client      TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    outcome     TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (client, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX receipts_expiry ON receipts (expires_at);

CREATE TABLE jobs (
    user_id       TEXT NOT NULL,
    service_name  TEXT NOT NULL,
    processing_id TEXT NOT NULL,
    metric        TEXT NOT NULL,
    units         INTEGER NOT NULL CHECK (units >= 0),
    outcome       TEXT NOT NULL,
    PRIMARY KEY (user_id, service_name, processing_id, metric)
) STRICT, WITHOUT ROWID;

CREATE TABLE reversals (
    subject_type TEXT NOT NULL,
    subject_id   TEXT NOT NULL,
    credit_type  TEXT NOT NULL,
    operation_id TEXT NOT NULL,
    reversed     INTEGER NOT NULL CHECK (reversed >= 0),
    PRIMARY KEY (subject_type, subject_id, credit_type, operation_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE debts (
    subject_type TEXT NOT NULL,
    subject_id   TEXT NOT NULL,
    credit_type  TEXT NOT NULL,
    operation_id TEXT NOT NULL,
    owed         INTEGER NOT NULL CHECK (owed > 0),
    metric       TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    closed_by    TEXT,
    PRIMARY KEY (subject_type, subject_id, credit_type, operation_id)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX debts_operation ON debts (operation_id);
CREATE INDEX debts_open ON debts (created_at, operation_id) WHERE closed_by IS NULL;
CREATE INDEX debts_open_of ON debts (subject_type, subject_id, credit_type, created_at, operation_id)
    WHERE closed_by IS NULL;

CREATE TABLE accounts (
    subject_type TEXT NOT NULL,
    subject_id   TEXT NOT NULL,
    opened_at    INTEGER NOT NULL,
    PRIMARY KEY (subject_type, subject_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE policies (
    version      TEXT PRIMARY KEY NOT NULL,
    content      TEXT NOT NULL,
    activated_at INTEGER NOT NULL,
    actor        TEXT NOT NULL,
    active       INTEGER NOT NULL CHECK (active IN (0, 1))
) STRICT;

CREATE UNIQUE INDEX policies_active ON policies (active) WHERE active = 1;

CREATE TABLE api_keys (
    id            TEXT PRIMARY KEY NOT NULL,
    name          TEXT NOT NULL,
    role          TEXT NOT NULL CHECK (role IN ('service', 'reader', 'operator', 'admin')),
    prefix        TEXT NOT NULL,
    secret_sha256 TEXT NOT NULL UNIQUE,
    created_at    INTEGER NOT NULL,
    revoked_at    INTEGER,
    last_used_at  INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE audit_log (
    id             TEXT PRIMARY KEY NOT NULL,
    at             INTEGER NOT NULL,
    actor          TEXT NOT NULL,
    client         TEXT NOT NULL,
    action         TEXT NOT NULL,
    subject_type   TEXT,
    subject_id     TEXT,
    reason         TEXT,
    detail         TEXT NOT NULL CHECK (json_valid(detail)),
    correlation_id TEXT NOT NULL
) STRICT;

CREATE INDEX audit_log_at ON audit_log (at, id);
