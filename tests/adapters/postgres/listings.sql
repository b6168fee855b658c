-- Enough rows that a table scan costs more than an index scan. The test fills in the id and the number of rows.
INSERT INTO receipts VALUES ('c', 'k:k', '', '{"operation_id": "$id"}', now(), now());
INSERT INTO credit_balances (subject_type, subject_id, credit_type, version)
    VALUES ('user', 'ada', 'credits', $rows), ('user', 'busy', 'credits', 20001);
INSERT INTO credit_operations (subject_type, subject_id, credit_type, seq, id, kind, quantity, amount, delta,
        balance_after, owed, draws, consumed_from, correlation_id, operation_status, policy_version, actor, client,
        created_at, effective_at)
    SELECT 'user', 'ada', 'credits', n, gen_random_uuid(), 'consume', 1, 0, 0, 0, 0, '[]', 'user', 'c',
           CASE WHEN n % 50 = 0 THEN 'failed' ELSE 'completed' END, '1', 'a', 'c', at, at
    FROM (SELECT n, now() + n * interval '1 second' AS at FROM generate_series(1, $rows) AS n) AS numbered;
INSERT INTO holds (subject_type, subject_id, credit_type, id, user_id, taken, held, charged, returned, backing, status,
        expires_at, settled, correlation_id, policy_version, actor, client, created_at, closed_at)
    SELECT 'user', 'ada', 'credits', CASE n WHEN 1 THEN '$id'::uuid ELSE gen_random_uuid() END, 'ada', 0, 0, 0, 0,
           '[]', 'settled', now() + interval '1 day', '{}', 'c', '1', 'a', 'c', now(), now()
    FROM generate_series(1, $rows) AS n;
INSERT INTO consumption_records (id, user_id, event_id, event_type, source_service, resource_type, units, outcome,
        credits, owed, correlation_id, recorded_at)
    SELECT gen_random_uuid(), 'u', n::text, 't', 's', 'cj', 1, 'free', 0, 0, 'c', now()
    FROM generate_series(1, $rows) AS n;
INSERT INTO dead_letters (id, topic, partition, position, headers, reason, detail, died_at, state)
    SELECT gen_random_uuid(), 't', 0, n, '[]', 'failed', '', now(), 'open' FROM generate_series(1, $rows) AS n;
INSERT INTO webhook_deliveries (endpoint_id, event_id, event_type, payload, state, attempts, next_at, give_up_at,
        created_at)
    SELECT '$id', gen_random_uuid(), 't', '', 'pending', 0, now(), now(), now()
    FROM generate_series(1, $rows) AS n;
INSERT INTO audit_log (id, at, actor, client, action, detail, correlation_id)
    SELECT gen_random_uuid(), now() + n * interval '1 second', 'a', 'c', 'hold.release', '{}', 'c'
    FROM generate_series(1, $rows) AS n;
