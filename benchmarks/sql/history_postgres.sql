-- Wallets with a history, as the ledger would have written it: one grant, then consumptions of one
-- credit. The table `shape` says how many; operations are written in the order of time.

CREATE TEMP TABLE wallet AS
SELECT row_number() OVER (ORDER BY subject_id) AS position, subject_id, grant_id
FROM (
    SELECT (s.prefix || n) COLLATE "C" AS subject_id,
        (lpad(to_hex(s.began_ms), 12, '0') || '70018' || lpad(to_hex(s.salt), 3, '0')
            || lpad(to_hex(n), 12, '0'))::uuid AS grant_id
    FROM shape AS s, generate_series(1, s.wallets) AS n
) AS named
ORDER BY subject_id;
ANALYZE wallet;

INSERT INTO credit_balances (subject_type, subject_id, credit_type, balance, version, updated_at)
SELECT 'user', w.subject_id, 'credits', s.credits - s.operations + 1, s.operations,
    now() - interval '1 day'
FROM shape AS s, wallet AS w;

INSERT INTO grants (
    subject_type, subject_id, credit_type, id, quantity, remaining, priority, granted_at, reason,
    started, live, granted_by, created_at
)
SELECT 'user', w.subject_id, 'credits', w.grant_id, s.credits, s.credits - s.operations + 1, 50,
    to_timestamp(s.began_ms / 1000.0), 'manual_adjustment', true, true, 'bench',
    to_timestamp(s.began_ms / 1000.0)
FROM shape AS s, wallet AS w;

INSERT INTO credit_operations (
    subject_type, subject_id, credit_type, seq, id, kind, user_id, metric, quantity, amount, delta,
    balance_after, owed, draws, batch_id, consumed_from, correlation_id, operation_status, reason,
    policy_version, actor, client, created_at, effective_at
)
SELECT 'user', o.subject_id, 'credits', o.seq,
    (lpad(to_hex(o.at_ms), 12, '0') || '70008' || lpad(to_hex(o.salt), 3, '0')
        || lpad(to_hex(o.number), 12, '0'))::uuid,
    CASE o.seq WHEN 1 THEN 'manual_adjustment' ELSE 'consume' END,
    CASE o.seq WHEN 1 THEN NULL ELSE o.subject_id END,
    CASE WHEN o.seq = 1 THEN 'manual_adjustment'
        WHEN o.seq % 2 = 0 THEN 'cj_comparison' ELSE 'ai_feedback_generation' END,
    CASE o.seq WHEN 1 THEN 0 ELSE 1 END,
    o.amount,
    CASE o.seq WHEN 1 THEN o.amount ELSE -o.amount END,
    o.credits - o.seq + 1,
    0,
    jsonb_build_array(
        jsonb_build_array(o.grant_id, CASE o.seq WHEN 1 THEN -o.amount ELSE o.amount END)),
    CASE o.seq WHEN 1 THEN NULL ELSE 'batch-1' END,
    'user',
    'history-' || o.salt || '-' || lpad(o.number::text, 9, '0'),
    'completed',
    CASE o.seq WHEN 1 THEN 'benchmark' END,
    (SELECT version FROM policies WHERE active),
    'bench', 'bench',
    to_timestamp(o.at_ms / 1000.0), to_timestamp(o.at_ms / 1000.0)
FROM (
    SELECT w.subject_id, w.grant_id, s.salt, s.credits, seq, number,
        CASE seq WHEN 1 THEN s.credits ELSE 1 END AS amount,
        s.began_ms + (number - 1) * s.lasted_ms / (s.wallets * s.operations) AS at_ms
    FROM shape AS s
    CROSS JOIN generate_series(1, s.operations) AS seq
    -- Lateral, so that all wallets have their first operation before one has its second.
    CROSS JOIN LATERAL (
        SELECT subject_id, grant_id, (seq - 1) * s.wallets + position AS number FROM wallet
        OFFSET 0
    ) AS w
) AS o;

-- Their events were shipped and deleted.
UPDATE relay_leases SET cleaned_until = now() - interval '1 day';

DROP TABLE wallet, shape;
