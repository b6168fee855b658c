-- Wallets as the ledger would have written them a day ago, all due now: one grant that is renewed each day, and
-- a consumption of a part of it. The table `due` says how many.

CREATE TEMP TABLE wallet AS
SELECT (d.prefix || n) COLLATE "C" AS subject_id, d.at - interval '1 day' AS began_at, d.at AS renews_at,
    (d.id_prefix || lpad(to_hex(n * 4), 12, '0'))::uuid AS grant_id,
    (d.id_prefix || lpad(to_hex(n * 4 + 1), 12, '0'))::uuid AS consumption_id
FROM due AS d, generate_series(1, d.wallets) AS n;

INSERT INTO grants (
    subject_type, subject_id, credit_type, id, quantity, remaining, priority, granted_at, reason, started, live,
    consumption, period, renews_at, due_at, used, granted_by, created_at
)
SELECT 'user', subject_id, 'credits', grant_id, 1000, 400, 50, began_at, 'subscription', true, true,
    'renewable', '{"interval":"day","reset_day":null,"timezone":"UTC","rollover_cap":null}', renews_at, renews_at,
    600, 'bench', began_at
FROM wallet;

INSERT INTO credit_operations (
    subject_type, subject_id, credit_type, seq, id, kind, user_id, metric, quantity, amount, delta, balance_after,
    owed, draws, consumed_from, correlation_id, operation_status, reason, policy_version, actor, client, created_at,
    effective_at
)
SELECT 'user', w.subject_id, 'credits', o.seq, o.id, o.kind, o.user_id, o.metric, o.units, o.amount, o.delta,
    o.balance_after, 0, jsonb_build_array(jsonb_build_array(w.grant_id, -o.delta)), o.consumed_from,
    'renewals-' || w.subject_id, 'completed', o.reason, p.version, 'bench', 'bench', w.began_at, w.began_at
FROM wallet AS w
CROSS JOIN (SELECT version FROM policies WHERE active) AS p
CROSS JOIN LATERAL (
    VALUES (1, w.grant_id, 'grant', NULL, NULL, 0, 1000, 1000, 1000, 'none', 'subscription'),
        (2, w.consumption_id, 'consume', w.subject_id, 'cj_comparison', 600, 600, -600, 400, 'user', NULL)
) AS o(seq, id, kind, user_id, metric, units, amount, delta, balance_after, consumed_from, reason);

-- Last: a service finds due wallets here, and all are committed at once.
INSERT INTO credit_balances (
    subject_type, subject_id, credit_type, balance, version, next_due_at, updated_at, balance_at_grant
)
SELECT 'user', subject_id, 'credits', 400, 2, renews_at, began_at, 1000 FROM wallet;

-- Their events were shipped and deleted.
UPDATE relay_leases SET cleaned_until = greatest(cleaned_until, now() - interval '12 hours');

DROP TABLE wallet, due;
