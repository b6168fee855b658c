-- What one consumption writes, as one transaction of its own. In JSON a space follows each colon,
-- else pgbench takes what comes for a variable.
\set s random(1, :subjects)
\set n :n + 1
BEGIN;
UPDATE credit_balances SET balance = balance - 1, version = version + 1, updated_at = now()
WHERE subject_type = 'user' AND subject_id = 'user-' || :s::text AND credit_type = 'credits'
    AND balance >= 1
RETURNING version AS seq, balance AS balance_after \gset
UPDATE grants SET remaining = remaining - 1
WHERE subject_type = 'user' AND subject_id = 'user-' || :s::text AND id = 'grant-' || :s::text AND remaining >= 1;
INSERT INTO credit_operations (subject_type, subject_id, credit_type, seq, id, kind, user_id, metric, quantity, amount, delta, balance_after, owed, draws, batch_id, consumed_from, correlation_id, operation_status, policy_version, actor, client)
VALUES ('user', 'user-' || :s::text, 'credits', :seq, 'op-' || :run::text || '-' || :client_id::text || '-' || :n::text, 'consume', 'user-' || :s::text, 'cj_comparison', 1, 1, -1, :balance_after, 0, '[["0192a5c4-7a3e-7c1b-9d1f-3f0e7c5a2b10",1]]', 'batch-1', 'user', 'correlation-' || :run::text || '-' || :client_id::text || '-' || :n::text, 'completed', 'f2ca1bb6c7e907d06dafe4687e579fce', 'key_3f0e7c5a', 'bench');
INSERT INTO receipts (client, key, fingerprint, outcome, operation_ids)
VALUES ('bench', 'key-' || :run::text || '-' || :client_id::text || '-' || :n::text, '3a7bd3e2360a3d29eea436fcfb7e44c735d117c42d1c1835420b6b9942dd4f1b', '{"success": true,"new_balance": 999999,"consumed_from": "user","operation_id": "0192a5c4-7a3e-7c1b-9d1f-3f0e7c5a2b10","credits": 1,"status": "completed","owed": 0}', '["0192a5c4-7a3e-7c1b-9d1f-3f0e7c5a2b10"]');
INSERT INTO event_outbox (bucket, subject, seq, n, event_id, event_type, topic, key, payload, headers)
VALUES (:s % 64, 'user/user-' || :s::text, :seq, 0, 'ev-' || :run::text || '-' || :client_id::text || '-' || :n::text || '-0', 'entitlements.credit.balance.changed.v1', 'entitlements.credit.balance.changed.v1', 'user-' || :s::text, '{"event_id": "0192a5c4-7a3e-7c1b-9d1f-3f0e7c5a2b10","event_type": "entitlements.credit.balance.changed.v1","event_timestamp": "2026-01-01T00-00-00.000000Z","source_service": "entitlements_service","schema_version": 1,"correlation_id": "0192a5c4-7a3e-7c1b-9d1f-3f0e7c5a2b10","data": {"subject_type": "user","subject_id": "user-1","delta": -1,"new_balance": 999999,"reason": "consumption"}}', '{"correlation_id": "0192a5c4-7a3e-7c1b-9d1f-3f0e7c5a2b10"}');
INSERT INTO event_outbox (bucket, subject, seq, n, event_id, event_type, topic, key, payload, headers)
VALUES (:s % 64, 'user/user-' || :s::text, :seq, 1, 'ev-' || :run::text || '-' || :client_id::text || '-' || :n::text || '-1', 'entitlements.usage.recorded.v1', 'entitlements.usage.recorded.v1', 'user-' || :s::text, '{"event_id": "0192a5c4-7a3e-7c1b-9d1f-3f0e7c5a2b11","event_type": "entitlements.usage.recorded.v1","event_timestamp": "2026-01-01T00-00-00.000000Z","source_service": "entitlements_service","schema_version": 1,"correlation_id": "0192a5c4-7a3e-7c1b-9d1f-3f0e7c5a2b10","data": {"user_id": "user-1","metric": "cj_comparison","quantity": 1,"credits": 1}}', '{"correlation_id": "0192a5c4-7a3e-7c1b-9d1f-3f0e7c5a2b10"}');
END;
