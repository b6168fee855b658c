-- As history_postgres.sql, in SQLite: times in microseconds, ids as text.

CREATE TEMP TABLE wallet AS
WITH RECURSIVE numbers (n) AS (
    VALUES (1) UNION ALL SELECT n + 1 FROM numbers, shape WHERE n < wallets
)
SELECT row_number() OVER (ORDER BY s.prefix || n) AS position, s.prefix || n AS subject_id,
    printf('%08x-%04x-7001-8%03x-%012x', s.began_ms >> 16, s.began_ms & 65535, s.salt, n) AS grant_id
FROM shape AS s, numbers;

INSERT INTO credit_balances (
    subject_type, subject_id, credit_type, balance, held, overdraft, version, updated_at
)
SELECT 'user', w.subject_id, 'credits', s.credits - s.operations + 1, 0, 0, s.operations,
    (s.began_ms + s.lasted_ms) * 1000
FROM shape AS s, wallet AS w;

INSERT INTO grants (
    subject_type, subject_id, credit_type, id, quantity, remaining, held, priority, granted_at,
    reason, started, live, granted_by, metadata, created_at
)
SELECT 'user', w.subject_id, 'credits', w.grant_id, s.credits, s.credits - s.operations + 1, 0, 50,
    s.began_ms * 1000, 'manual_adjustment', 1, 1, 'bench', '{}', s.began_ms * 1000
FROM shape AS s, wallet AS w;

INSERT INTO credit_operations (
    subject_type, subject_id, credit_type, seq, id, kind, user_id, metric, quantity, amount, delta,
    balance_after, owed, draws, batch_id, consumed_from, correlation_id, operation_status, reason,
    policy_version, actor, client, created_at, effective_at
)
WITH RECURSIVE sequence (seq) AS (
    VALUES (1) UNION ALL SELECT seq + 1 FROM sequence, shape WHERE seq < operations
),
history AS (
    SELECT w.subject_id, w.grant_id, s.salt, s.credits, seq,
        (seq - 1) * s.wallets + w.position AS number,
        CASE seq WHEN 1 THEN s.credits ELSE 1 END AS amount,
        s.began_ms + ((seq - 1) * s.wallets + w.position - 1) * s.lasted_ms
            / (s.wallets * s.operations) AS at_ms
    FROM shape AS s CROSS JOIN sequence CROSS JOIN wallet AS w
)
SELECT 'user', subject_id, 'credits', seq,
    printf('%08x-%04x-7000-8%03x-%012x', at_ms >> 16, at_ms & 65535, salt, number),
    CASE seq WHEN 1 THEN 'manual_adjustment' ELSE 'consume' END,
    CASE seq WHEN 1 THEN NULL ELSE subject_id END,
    CASE WHEN seq = 1 THEN 'manual_adjustment'
        WHEN seq % 2 = 0 THEN 'cj_comparison' ELSE 'ai_feedback_generation' END,
    CASE seq WHEN 1 THEN 0 ELSE 1 END,
    amount,
    CASE seq WHEN 1 THEN amount ELSE -amount END,
    credits - seq + 1,
    0,
    json_array(json_array(grant_id, CASE seq WHEN 1 THEN -amount ELSE amount END)),
    CASE seq WHEN 1 THEN NULL ELSE 'batch-1' END,
    'user',
    printf('history-%d-%09d', salt, number),
    'completed',
    CASE seq WHEN 1 THEN 'benchmark' END,
    (SELECT version FROM policies WHERE active = 1),
    'bench', 'bench',
    at_ms * 1000, at_ms * 1000
FROM history;

-- Their events were shipped and deleted.
UPDATE relay_leases SET cleaned_until = (SELECT (began_ms + lasted_ms) * 1000 FROM shape);

DROP TABLE wallet;
DROP TABLE shape;
