-- The least that a durable consumption could write: a guarded update, an operation, an event.
\set s random(1, :subjects)
\set n :n + 1
BEGIN;
UPDATE credit_balances SET balance = balance - 1, version = version + 1
WHERE subject_type = 'user' AND subject_id = 'user-' || :s::text AND credit_type = 'credits'
    AND balance >= 1
RETURNING version AS seq, balance AS balance_after \gset
INSERT INTO lean_operations (subject_id, seq, id, metric, amount, balance_after)
VALUES ('user-' || :s::text, :seq, 'op-' || :run::text || '-' || :client_id::text || '-' || :n::text, 'cj_comparison', 1, :balance_after);
INSERT INTO lean_outbox (subject_id, seq, payload)
VALUES ('user-' || :s::text, :seq, '{"event": "balance_changed","delta": -1,"correlation_id": "0192a5c4"}');
END;
