-- The rows of one consumption in the service's tables, in one transaction. In JSON a space follows
-- each colon, else pgbench reads a variable.
\set s random(1, :subjects)
\set n :n + 1
\set id (:run * 64 + :client_id) * 10000000 + :n
BEGIN;
UPDATE credit_balances SET balance = balance - 1, version = version + 1, updated_at = now()
WHERE subject_type = 'user' AND subject_id = 'user-' || :s::text AND credit_type = 'credits'
    AND balance >= 1
RETURNING version AS seq, balance AS balance_after \gset
UPDATE grants SET remaining = remaining - 1
WHERE subject_type = 'user' AND subject_id = 'user-' || :s::text AND credit_type = 'credits'
    AND id = lpad(to_hex(:s::bigint), 32, '0')::uuid AND remaining >= 1;
INSERT INTO credit_operations (subject_type, subject_id, credit_type, seq, id, kind, user_id, metric, quantity, amount, delta, balance_after, owed, draws, batch_id, consumed_from, correlation_id, operation_status, policy_version, actor, client, created_at, effective_at)
VALUES ('user', 'user-' || :s::text, 'credits', :seq, lpad(to_hex(:id::bigint), 32, '0')::uuid, 'consume', 'user-' || :s::text, 'cj_comparison', 1, 1, -1, :balance_after, 0, '[["01a1feb0-e4fc-756a-b1ba-15b252728982", 1]]', 'batch-1', 'user', 'run-' || :id::text, 'completed', '436c71c53431bf4bc8ad66cb8918bb2a3044596a1f1c0dde1a92abc4ce57196a', '01a1feb0-dbee-719b-b5f0-38b1cbe89df8', 'bootstrap', now(), now());
INSERT INTO receipts (client, key, fingerprint, outcome, created_at, expires_at)
VALUES ('bootstrap', 'k-run-' || :id::text, '6fa9cc7626578ce44089c81e129e9304069cc5b3dd5d5e9007c6c4df8ba0a039', '{"outcome": "consumed","operation_id": "01a1feb0-e502-7a29-99ec-ef950af6a55c","replayed": false,"success": true,"new_balance": 999999999,"consumed_from": "user","credits": 1,"status": "completed","owed": 0,"reason": null}', now(), now() + interval '24 hours');
INSERT INTO event_outbox (bucket, subject_type, subject_id, credit_type, seq, n, event_id, event_type, key, payload, created_at)
VALUES (:s % 64, 'user', 'user-' || :s::text, 'credits', :seq, 0, lpad(to_hex(:id::bigint), 32, '0')::uuid, 'huleedu.entitlements.usage.recorded.v1', 'user-' || :s::text, '{"event_id": "01a1feb0-e503-7c21-95ab-0911d03387de","event_type": "huleedu.entitlements.usage.recorded.v1","event_timestamp": "2026-11-21T15-19-28.259030Z","source_service": "entitlements_service","schema_version": 1,"correlation_id": "1455a20a-5317-531d-83fb-efa9ac89a83f","data_schema_uri": null,"data": {"subject": {"type": "user","id": "user-1"},"metric": "cj_comparison","amount": 1,"period_start": "2026-11-21T15-19-28.259030Z","period_end": "2026-11-21T15-19-28.259030Z","correlation_id": "run1-0-1"},"metadata": {}}', now());
INSERT INTO event_outbox (bucket, subject_type, subject_id, credit_type, seq, n, event_id, event_type, key, payload, created_at)
VALUES (:s % 64, 'user', 'user-' || :s::text, 'credits', :seq, 1, lpad(to_hex(:id::bigint), 32, '0')::uuid, 'huleedu.entitlements.credit.balance.changed.v1', 'user-' || :s::text, '{"event_id": "01a1feb0-e503-79d0-83f7-4613c82382cb","event_type": "huleedu.entitlements.credit.balance.changed.v1","event_timestamp": "2026-11-21T15-19-28.259030Z","source_service": "entitlements_service","schema_version": 1,"correlation_id": "1455a20a-5317-531d-83fb-efa9ac89a83f","data_schema_uri": null,"data": {"subject": {"type": "user","id": "user-1"},"delta": -1,"new_balance": 999999999,"reason": "cj_comparison","correlation_id": "run1-0-1","credit_type": "credits","operation_id": "01a1feb0-e502-7a29-99ec-ef950af6a55c","seq": 2},"metadata": {}}', now());
END;
