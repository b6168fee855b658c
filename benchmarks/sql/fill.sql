-- In addition to the service's tables: those of the lean script, and 10,000 wallets of one grant each.
CREATE TABLE lean_operations (
    subject_id text COLLATE "C", seq bigint, id text, metric text, amount bigint,
    balance_after bigint, created_at timestamptz DEFAULT now(), PRIMARY KEY (subject_id, seq)
);
CREATE TABLE lean_outbox (
    subject_id text COLLATE "C", seq bigint, payload text, PRIMARY KEY (subject_id, seq)
);

INSERT INTO credit_balances (subject_type, subject_id, credit_type, balance)
SELECT 'user', 'user-' || s, 'credits', 1000000000 FROM generate_series(1, 10000) s;
INSERT INTO grants (subject_type, subject_id, credit_type, id, quantity, remaining, priority,
    granted_at, reason, started, live, granted_by, created_at)
SELECT 'user', 'user-' || s, 'credits', lpad(to_hex(s), 32, '0')::uuid, 1000000000, 1000000000, 50,
    now(), 'manual_adjustment', true, true, 'bench', now()
FROM generate_series(1, 10000) s;
ANALYZE;
