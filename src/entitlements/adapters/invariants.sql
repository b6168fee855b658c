-- The ledger's invariants. Each row of a statement is a violation:
-- subject_type, subject_id, credit_type, its object (an operation, a grant, a key), expected value, found value.
-- Both engines run this text, except that PostgreSQL's jsonb_array_elements replaces json_each.
-- MATERIALIZED lets SQLite index joins on computed text; otherwise their time is quadratic.

-- name: balance_is_what_grants_have_left
SELECT w.subject_type, w.subject_id, w.credit_type, NULL, coalesce(g.total, 0) - w.overdraft, w.balance
FROM credit_balances AS w
LEFT JOIN (
    SELECT subject_type, subject_id, credit_type, sum(remaining) AS total
    FROM grants WHERE started
    GROUP BY subject_type, subject_id, credit_type
) AS g USING (subject_type, subject_id, credit_type)
WHERE w.balance <> coalesce(g.total, 0) - w.overdraft

-- name: balance_is_the_sum_of_deltas
SELECT w.subject_type, w.subject_id, w.credit_type, NULL, coalesce(o.total, 0), w.balance
FROM credit_balances AS w
LEFT JOIN (
    SELECT subject_type, subject_id, credit_type, sum(delta) AS total
    FROM credit_operations GROUP BY subject_type, subject_id, credit_type
) AS o USING (subject_type, subject_id, credit_type)
WHERE w.balance <> coalesce(o.total, 0)

-- name: version_counts_operations
SELECT w.subject_type, w.subject_id, w.credit_type, NULL, w.version,
    coalesce(o.total, 0) || ' operations, the last is number ' || coalesce(o.last, 0)
FROM credit_balances AS w
LEFT JOIN (
    SELECT subject_type, subject_id, credit_type, count(*) AS total, max(seq) AS last
    FROM credit_operations GROUP BY subject_type, subject_id, credit_type
) AS o USING (subject_type, subject_id, credit_type)
WHERE w.version <> coalesce(o.total, 0) OR w.version <> coalesce(o.last, 0)

-- name: balance_after_chains
SELECT subject_type, subject_id, credit_type, id, before + delta, balance_after
FROM (
    SELECT subject_type, subject_id, credit_type, id, delta, balance_after,
        lag(balance_after, 1, 0) OVER (
            PARTITION BY subject_type, subject_id, credit_type ORDER BY seq
        ) AS before
    FROM credit_operations
) AS chained
WHERE balance_after <> before + delta

-- name: seq_has_no_gaps
SELECT subject_type, subject_id, credit_type, id, before + 1, seq
FROM (
    SELECT subject_type, subject_id, credit_type, id, seq,
        lag(seq, 1, 0) OVER (PARTITION BY subject_type, subject_id, credit_type ORDER BY seq) AS before
    FROM credit_operations
) AS chained
WHERE seq <> before + 1

-- name: held_is_what_grants_hold
SELECT w.subject_type, w.subject_id, w.credit_type, NULL, coalesce(g.total, 0), w.held
FROM credit_balances AS w
LEFT JOIN (
    SELECT subject_type, subject_id, credit_type, sum(held) AS total
    FROM grants GROUP BY subject_type, subject_id, credit_type
) AS g USING (subject_type, subject_id, credit_type)
WHERE w.held <> coalesce(g.total, 0)

-- name: held_is_what_open_holds_hold
-- Less what unlimited grants back, which no wallet counts.
WITH uncounted AS MATERIALIZED (
    SELECT h.subject_type, h.subject_id, h.credit_type, sum(CAST(b.value ->> 1 AS bigint)) AS total
    FROM holds AS h
    CROSS JOIN json_each(h.backing) AS b
    JOIN grants AS g ON CAST(g.id AS text) = b.value ->> 0 AND g.subject_type = h.subject_type
        AND g.subject_id = h.subject_id AND g.credit_type = h.credit_type
    WHERE h.status = 'open' AND g.unlimited
    GROUP BY h.subject_type, h.subject_id, h.credit_type
)
SELECT w.subject_type, w.subject_id, w.credit_type, NULL, coalesce(h.total, 0) - coalesce(u.total, 0), w.held
FROM credit_balances AS w
LEFT JOIN (
    SELECT subject_type, subject_id, credit_type, sum(held) AS total
    FROM holds WHERE status = 'open' GROUP BY subject_type, subject_id, credit_type
) AS h USING (subject_type, subject_id, credit_type)
LEFT JOIN uncounted AS u USING (subject_type, subject_id, credit_type)
WHERE w.held <> coalesce(h.total, 0) - coalesce(u.total, 0)

-- name: grant_holds_what_it_backs
WITH backed AS MATERIALIZED (
    SELECT h.subject_type, h.subject_id, h.credit_type, b.value ->> 0 AS grant_id,
        sum(CAST(b.value ->> 1 AS bigint)) AS total
    FROM holds AS h, json_each(h.backing) AS b
    GROUP BY h.subject_type, h.subject_id, h.credit_type, b.value ->> 0
)
SELECT g.subject_type, g.subject_id, g.credit_type, g.id, coalesce(b.total, 0), g.held
FROM grants AS g
LEFT JOIN backed AS b ON b.grant_id = CAST(g.id AS text) AND b.subject_type = g.subject_type
    AND b.subject_id = g.subject_id AND b.credit_type = g.credit_type
WHERE g.held <> coalesce(b.total, 0) AND NOT g.unlimited

-- name: hold_is_backed
WITH backing AS MATERIALIZED (
    SELECT h.subject_type, h.subject_id, h.credit_type, h.id, b.value ->> 0 AS grant_id,
        CAST(b.value ->> 1 AS bigint) AS quantity
    FROM holds AS h, json_each(h.backing) AS b
),
known AS MATERIALIZED (
    SELECT subject_type, subject_id, credit_type, CAST(id AS text) AS grant_id, held, unlimited
    FROM grants WHERE started
)
SELECT h.subject_type, h.subject_id, h.credit_type, h.id, h.held, coalesce(b.total, 0)
FROM holds AS h
LEFT JOIN (
    SELECT backing.subject_type, backing.subject_id, backing.credit_type, backing.id,
        sum(backing.quantity) AS total
    FROM backing
    JOIN known USING (subject_type, subject_id, credit_type, grant_id)
    WHERE known.held >= backing.quantity OR known.unlimited
    GROUP BY backing.subject_type, backing.subject_id, backing.credit_type, backing.id
) AS b USING (subject_type, subject_id, credit_type, id)
WHERE h.held <> coalesce(b.total, 0)

-- name: closed_hold_holds_nothing
SELECT subject_type, subject_id, credit_type, id, '0 held', held || ' held'
FROM holds WHERE status <> 'open' AND held <> 0

-- name: hold_adds_up
SELECT subject_type, subject_id, credit_type, id, taken,
    held || ' held, ' || charged || ' charged, ' || returned || ' returned'
FROM holds
WHERE held < 0 OR charged < 0 OR returned < 0 OR held + charged + returned <> taken

-- name: hold_is_what_operations_say
-- What a settlement returned may have no operation: it is the part that was taken and not charged, as hold_adds_up
-- checks.
SELECT h.subject_type, h.subject_id, h.credit_type, h.id,
    coalesce(o.taken, 0) || ' taken, ' || coalesce(o.charged, 0) || ' charged, '
        || coalesce(o.returned, 0) || ' returned',
    h.taken || ' taken, ' || h.charged || ' charged, ' || h.returned || ' returned'
FROM holds AS h
LEFT JOIN (
    SELECT subject_type, subject_id, credit_type, hold_id AS id,
        sum(CASE WHEN kind = 'hold' THEN amount ELSE 0 END) AS taken,
        sum(CASE WHEN kind = 'consume' AND operation_status = 'completed' AND reason IS NULL
            THEN amount ELSE 0 END) AS charged,
        sum(CASE WHEN kind IN ('release', 'lapse') THEN amount ELSE 0 END) AS returned
    FROM credit_operations WHERE hold_id IS NOT NULL
    GROUP BY subject_type, subject_id, credit_type, hold_id
) AS o USING (subject_type, subject_id, credit_type, id)
WHERE h.taken <> coalesce(o.taken, 0) OR h.charged <> coalesce(o.charged, 0)
   OR (h.status <> 'settled' AND h.returned <> coalesce(o.returned, 0))
   OR h.returned < coalesce(o.returned, 0)

-- name: ended_grant_has_left_what_is_held
SELECT subject_type, subject_id, credit_type, id, held, remaining
FROM grants WHERE ended_at IS NOT NULL AND remaining <> held

-- name: lapses_are_known_to_the_wallet
SELECT w.subject_type, w.subject_id, w.credit_type, h.id, 'due by the first lapse', 'due later'
FROM credit_balances AS w
JOIN holds AS h USING (subject_type, subject_id, credit_type)
WHERE h.status = 'open' AND (w.next_due_at IS NULL OR w.next_due_at > h.expires_at)

-- name: overdraft_is_within_its_floor
SELECT subject_type, subject_id, credit_type, NULL, 'at most ' || CAST($1 AS bigint), overdraft
FROM credit_balances
WHERE overdraft > CAST($1 AS bigint) OR overdraft < 0

-- name: overdraft_stands_beside_no_credits
SELECT w.subject_type, w.subject_id, w.credit_type, g.id, 0, g.remaining - g.held
FROM credit_balances AS w
JOIN grants AS g USING (subject_type, subject_id, credit_type)
WHERE w.overdraft > 0 AND g.started AND g.ended_at IS NULL AND g.remaining > g.held

-- name: due_times_are_known_to_the_wallet
SELECT w.subject_type, w.subject_id, w.credit_type, g.id, 'due by the first of its grants', 'due later'
FROM credit_balances AS w
JOIN grants AS g USING (subject_type, subject_id, credit_type)
WHERE g.due_at IS NOT NULL AND (w.next_due_at IS NULL OR w.next_due_at > g.due_at)

-- name: grant_is_within_bounds
SELECT subject_type, subject_id, credit_type, id, '0 to ' || quantity, remaining || ', ' || held || ' held'
FROM grants
WHERE held < 0 OR held > remaining OR (remaining > quantity AND consumption <> 'accumulative')

-- name: grant_remains_what_draws_left
WITH drawn AS MATERIALIZED (
    SELECT o.subject_type, o.subject_id, o.credit_type, d.value ->> 0 AS grant_id,
        sum(CAST(d.value ->> 1 AS bigint)) AS total
    FROM credit_operations AS o, json_each(o.draws) AS d
    GROUP BY o.subject_type, o.subject_id, o.credit_type, d.value ->> 0
)
SELECT g.subject_type, g.subject_id, g.credit_type, g.id, coalesce(-d.total, 0), g.remaining
FROM grants AS g
LEFT JOIN drawn AS d ON d.grant_id = CAST(g.id AS text) AND d.subject_type = g.subject_type
    AND d.subject_id = g.subject_id AND d.credit_type = g.credit_type
WHERE g.started AND NOT g.unlimited AND g.remaining <> coalesce(-d.total, 0)

-- name: draw_names_a_grant_of_the_wallet
WITH known AS MATERIALIZED (
    SELECT subject_type, subject_id, credit_type, CAST(id AS text) AS grant_id FROM grants
)
SELECT o.subject_type, o.subject_id, o.credit_type, o.id, 'a grant of the wallet', d.value ->> 0
FROM credit_operations AS o
CROSS JOIN json_each(o.draws) AS d
LEFT JOIN known AS g ON g.grant_id = d.value ->> 0 AND g.subject_type = o.subject_type
    AND g.subject_id = o.subject_id AND g.credit_type = o.credit_type
WHERE g.grant_id IS NULL

-- name: grant_has_a_wallet
SELECT g.subject_type, g.subject_id, g.credit_type, g.id, 'a wallet', 'none'
FROM grants AS g
LEFT JOIN credit_balances AS w USING (subject_type, subject_id, credit_type)
WHERE w.version IS NULL

-- name: operation_has_a_wallet
SELECT o.subject_type, o.subject_id, o.credit_type, o.id, 'a wallet', 'none'
FROM credit_operations AS o
LEFT JOIN credit_balances AS w USING (subject_type, subject_id, credit_type)
WHERE w.version IS NULL

-- name: operation_moves_its_amount
-- Less what unlimited grants paid or got back.
WITH boundless AS MATERIALIZED (
    SELECT subject_type, subject_id, credit_type, CAST(id AS text) AS grant_id FROM grants WHERE unlimited
),
drawn AS MATERIALIZED (
    SELECT o.subject_type, o.subject_id, o.credit_type, o.id, d.value ->> 0 AS grant_id,
        CAST(d.value ->> 1 AS bigint) AS quantity
    FROM credit_operations AS o, json_each(o.draws) AS d
),
uncounted AS MATERIALIZED (
    SELECT drawn.id, abs(sum(drawn.quantity)) AS total
    FROM drawn JOIN boundless USING (subject_type, subject_id, credit_type, grant_id)
    GROUP BY drawn.id
)
SELECT o.subject_type, o.subject_id, o.credit_type, o.id,
    CASE o.operation_status WHEN 'failed' THEN 0 ELSE o.amount - coalesce(u.total, 0) END, o.delta
FROM credit_operations AS o
LEFT JOIN uncounted AS u USING (id)
WHERE (o.delta <> 0 AND abs(o.delta) <> o.amount - coalesce(u.total, 0))
   OR (o.operation_status = 'failed' AND o.delta <> 0)
   OR (o.kind = 'consume' AND o.operation_status = 'completed' AND o.delta <> coalesce(u.total, 0) - o.amount)

-- name: wallet_knows_its_unlimited_grants
SELECT w.subject_type, w.subject_id, w.credit_type, NULL, coalesce(g.total, 0), w.unlimited
FROM credit_balances AS w
LEFT JOIN (
    SELECT subject_type, subject_id, credit_type, count(*) AS total
    FROM grants WHERE unlimited AND live GROUP BY subject_type, subject_id, credit_type
) AS g USING (subject_type, subject_id, credit_type)
WHERE w.unlimited <> coalesce(g.total, 0)

-- name: wallet_knows_its_scheduled_grants
SELECT w.subject_type, w.subject_id, w.credit_type, NULL, coalesce(g.total, 0), w.promised
FROM credit_balances AS w
LEFT JOIN (
    SELECT subject_type, subject_id, credit_type, sum(remaining) AS total
    FROM grants WHERE NOT started AND ended_at IS NULL GROUP BY subject_type, subject_id, credit_type
) AS g USING (subject_type, subject_id, credit_type)
WHERE w.promised <> coalesce(g.total, 0)

-- name: grant_used_what_was_drawn
-- A program of a version that does not count it can lag behind during an upgrade.
WITH drawn AS MATERIALIZED (
    SELECT o.subject_type, o.subject_id, o.credit_type, d.value ->> 0 AS grant_id,
        sum(CASE WHEN CAST(d.value ->> 1 AS bigint) > 0 THEN CAST(d.value ->> 1 AS bigint) ELSE 0 END) AS total
    FROM credit_operations AS o, json_each(o.draws) AS d
    GROUP BY o.subject_type, o.subject_id, o.credit_type, d.value ->> 0
)
SELECT g.subject_type, g.subject_id, g.credit_type, g.id, 'at most ' || coalesce(d.total, 0), g.used
FROM grants AS g
LEFT JOIN drawn AS d ON d.grant_id = CAST(g.id AS text) AND d.subject_type = g.subject_type
    AND d.subject_id = g.subject_id AND d.credit_type = g.credit_type
WHERE g.used > coalesce(d.total, 0)

-- name: balance_change_has_one_event
-- Here and below: a missing event was published and deleted, unless its operation is younger than every published
-- event.
SELECT o.subject_type, o.subject_id, o.credit_type, o.id,
    CASE o.delta WHEN 0 THEN 0 ELSE 1 END, coalesce(e.total, 0)
FROM credit_operations AS o
LEFT JOIN (
    SELECT subject_type, subject_id, credit_type, seq, count(*) AS total
    FROM event_outbox WHERE event_type LIKE '%.credit.balance.changed.v1'
    GROUP BY subject_type, subject_id, credit_type, seq
) AS e USING (subject_type, subject_id, credit_type, seq)
WHERE coalesce(e.total, 0) <> CASE o.delta WHEN 0 THEN 0 ELSE 1 END
  AND o.credit_type NOT LIKE 'units:%'
  AND (e.total IS NOT NULL
    OR coalesce(o.created_at > (SELECT max(cleaned_until) FROM relay_leases), true))

-- name: usage_has_one_event
SELECT o.subject_type, o.subject_id, o.credit_type, o.id,
    CASE WHEN o.kind = 'consume' AND o.operation_status = 'completed'
        AND coalesce(o.group_id = o.id, true) THEN 1 ELSE 0 END,
    coalesce(e.total, 0)
FROM credit_operations AS o
LEFT JOIN (
    SELECT subject_type, subject_id, credit_type, seq, count(*) AS total
    FROM event_outbox WHERE event_type LIKE '%.usage.recorded.v1'
    GROUP BY subject_type, subject_id, credit_type, seq
) AS e USING (subject_type, subject_id, credit_type, seq)
WHERE coalesce(e.total, 0)
   <> CASE WHEN o.kind = 'consume' AND o.operation_status = 'completed'
        AND coalesce(o.group_id = o.id, true) THEN 1 ELSE 0 END
  AND (e.total IS NOT NULL
    OR coalesce(o.created_at > (SELECT max(cleaned_until) FROM relay_leases), true))

-- name: hold_has_one_event
SELECT o.subject_type, o.subject_id, o.credit_type, o.id,
    CASE WHEN o.kind = 'hold' AND coalesce(o.group_id = o.id, true) THEN 1 ELSE 0 END, coalesce(e.total, 0)
FROM credit_operations AS o
LEFT JOIN (
    SELECT subject_type, subject_id, credit_type, seq, count(*) AS total
    FROM event_outbox WHERE event_type LIKE '%.usage.authorized.v1'
    GROUP BY subject_type, subject_id, credit_type, seq
) AS e USING (subject_type, subject_id, credit_type, seq)
WHERE coalesce(e.total, 0) <> CASE WHEN o.kind = 'hold' AND coalesce(o.group_id = o.id, true) THEN 1 ELSE 0 END
  AND (e.total IS NOT NULL
    OR coalesce(o.created_at > (SELECT max(cleaned_until) FROM relay_leases), true))

-- name: shortfall_has_one_event
-- Work that was filed without a price by the first releases has no such event.
SELECT o.subject_type, o.subject_id, o.credit_type, o.id,
    CASE WHEN o.owed > 0 THEN 1 ELSE 0 END, coalesce(e.total, 0)
FROM credit_operations AS o
LEFT JOIN (
    SELECT subject_type, subject_id, credit_type, seq, count(*) AS total
    FROM event_outbox WHERE event_type LIKE '%.credit.shortfall.recorded.v1'
    GROUP BY subject_type, subject_id, credit_type, seq
) AS e USING (subject_type, subject_id, credit_type, seq)
WHERE coalesce(e.total, 0) <> CASE WHEN o.owed > 0 THEN 1 ELSE 0 END
  AND NOT (o.operation_status = 'failed' AND o.reason = 'policy_denied' AND o.owed = 0 AND e.total = 1)
  AND (e.total IS NOT NULL
    OR coalesce(o.created_at > (SELECT max(cleaned_until) FROM relay_leases), true))

-- name: event_has_an_operation
SELECT e.subject_type, e.subject_id, e.credit_type, e.event_id, 'operation ' || e.seq, 'none'
FROM event_outbox AS e
LEFT JOIN credit_operations AS o USING (subject_type, subject_id, credit_type, seq)
WHERE o.id IS NULL

-- name: event_says_what_happened
SELECT o.subject_type, o.subject_id, o.credit_type, o.id,
    o.delta || ' to ' || o.balance_after,
    (jsonb(e.payload) -> 'data' ->> 'delta') || ' to ' || (jsonb(e.payload) -> 'data' ->> 'new_balance')
FROM event_outbox AS e
JOIN credit_operations AS o USING (subject_type, subject_id, credit_type, seq)
WHERE e.event_type LIKE '%.credit.balance.changed.v1'
  AND (CAST(jsonb(e.payload) -> 'data' ->> 'delta' AS bigint) IS DISTINCT FROM o.delta
    OR CAST(jsonb(e.payload) -> 'data' ->> 'new_balance' AS bigint) IS DISTINCT FROM o.balance_after)

-- name: threshold_event_says_what_happened
-- A grant changes the base of percentages, so a balance can cross a threshold upwards that it was above before.
WITH told AS MATERIALIZED (
    SELECT subject_type, subject_id, credit_type, seq, event_id, jsonb(payload) -> 'data' ->> 'direction' AS direction,
        CAST(jsonb(payload) -> 'data' ->> 'threshold' AS bigint) AS threshold,
        CAST(jsonb(payload) -> 'data' ->> 'balance' AS bigint) AS balance
    FROM event_outbox WHERE event_type LIKE '%.credit.threshold.crossed.v1'
)
SELECT o.subject_type, o.subject_id, o.credit_type, o.id,
    'from ' || (o.balance_after - o.delta) || ' to ' || o.balance_after,
    t.direction || ' ' || t.threshold || ' with ' || t.balance
FROM told AS t
JOIN credit_operations AS o USING (subject_type, subject_id, credit_type, seq)
WHERE t.balance IS DISTINCT FROM o.balance_after
   OR CASE t.direction
        WHEN 'below' THEN t.threshold <= o.balance_after OR t.threshold > o.balance_after - o.delta
        ELSE t.threshold > o.balance_after OR o.delta <= 0 END

-- name: balance_at_grant_was_one
-- 0 if the grants are older than the column, -1 if the last one only repaid an overdraft.
SELECT w.subject_type, w.subject_id, w.credit_type, NULL, 'a balance that a grant has left', w.balance_at_grant
FROM credit_balances AS w
WHERE w.balance_at_grant <> 0 AND NOT EXISTS (
    SELECT 1 FROM credit_operations AS o
    WHERE o.subject_type = w.subject_type AND o.subject_id = w.subject_id AND o.credit_type = w.credit_type
      AND (o.balance_after = w.balance_at_grant OR w.balance_at_grant = -1 AND o.balance_after <= 0) AND o.delta > 0
      AND o.kind IN ('grant', 'activation', 'renewal', 'manual_adjustment')
)

-- name: event_is_sent_in_order
-- A published event has no waiting predecessor in its wallet, except those that were parked once.
SELECT e.subject_type, e.subject_id, e.credit_type, e.event_id, 'sent after number ' || w.first, 'sent before'
FROM event_outbox AS e
JOIN (
    SELECT subject_type, subject_id, credit_type, min(seq) AS first
    FROM event_outbox
    WHERE published_at IS NULL AND parked_at IS NULL AND park_reason IS NULL
    GROUP BY subject_type, subject_id, credit_type
) AS w USING (subject_type, subject_id, credit_type)
WHERE e.published_at IS NOT NULL AND e.seq > w.first

-- name: event_id_is_unique
SELECT NULL, NULL, NULL, event_id, 1, count(*)
FROM event_outbox GROUP BY event_id HAVING count(*) > 1

-- name: receipt_has_an_operation
WITH known AS MATERIALIZED (SELECT CAST(id AS text) AS operation_id FROM credit_operations)
SELECT NULL, NULL, NULL, r.client || ' ' || r.key, 'operation ' || (jsonb(r.outcome) ->> 'operation_id'),
    'none'
FROM receipts AS r
LEFT JOIN known AS o ON o.operation_id = jsonb(r.outcome) ->> 'operation_id'
WHERE jsonb(r.outcome) ->> 'operation_id' IS NOT NULL AND o.operation_id IS NULL

-- name: operation_answers_one_key
SELECT NULL, NULL, NULL, jsonb(outcome) ->> 'operation_id', 1, count(*)
FROM receipts
WHERE jsonb(outcome) ->> 'operation_id' IS NOT NULL
GROUP BY jsonb(outcome) ->> 'operation_id' HAVING count(*) > 1

-- name: job_has_an_operation
WITH known AS MATERIALIZED (SELECT CAST(id AS text) AS operation_id FROM credit_operations)
SELECT NULL, NULL, NULL, j.service_name || ' ' || j.processing_id,
    'operation ' || coalesce(jsonb(j.outcome) ->> 'operation_id', ''), 'none'
FROM jobs AS j
LEFT JOIN known AS o ON o.operation_id = jsonb(j.outcome) ->> 'operation_id'
WHERE o.operation_id IS NULL AND j.units > 0

-- name: operation_answers_one_job
-- Except settlements of holds: a repeated settlement returns the first one, whatever its job.
WITH known AS MATERIALIZED (SELECT CAST(id AS text) AS operation_id FROM credit_operations WHERE hold_id IS NULL)
SELECT NULL, NULL, NULL, o.operation_id, 1, count(*)
FROM jobs AS j
JOIN known AS o ON o.operation_id = jsonb(j.outcome) ->> 'operation_id'
GROUP BY o.operation_id HAVING count(*) > 1

-- name: record_has_its_operation
SELECT NULL, NULL, NULL, r.user_id || ' ' || r.event_id, 'operation ' || coalesce(CAST(r.operation_id AS text), ''),
    'none'
FROM consumption_records AS r
LEFT JOIN credit_operations AS o ON o.id = r.operation_id
WHERE o.id IS NULL AND (r.operation_id IS NOT NULL OR r.outcome IN ('charged', 'failed', 'settled'))

-- name: operation_answers_one_record
SELECT NULL, NULL, NULL, operation_id, 1, count(*)
FROM consumption_records
WHERE operation_id IS NOT NULL AND outcome IN ('charged', 'free', 'failed', 'settled')
GROUP BY operation_id HAVING count(*) > 1

-- name: failed_operation_says_what_it_cost
-- Failed operations of the first release have the amount 0.
SELECT subject_type, subject_id, credit_type, id, owed, amount
FROM credit_operations
WHERE operation_status = 'failed' AND amount NOT IN (0, owed)

-- name: record_says_what_was_charged
SELECT o.subject_type, o.subject_id, o.credit_type, o.id, -o.delta + o.owed, r.credits + r.owed
FROM consumption_records AS r
JOIN credit_operations AS o ON o.id = r.operation_id
WHERE r.outcome IN ('charged', 'free', 'failed')
  AND (r.credits <> -o.delta OR r.owed <> o.owed OR r.units <> o.quantity OR r.resource_type <> o.metric
    OR r.user_id <> o.user_id)

-- name: reported_job_is_known
SELECT NULL, NULL, NULL, r.service_name || ' ' || r.processing_id, r.units, coalesce(j.units, -1)
FROM consumption_records AS r
LEFT JOIN jobs AS j ON j.user_id = r.user_id AND j.service_name = r.service_name
    AND j.processing_id = r.processing_id AND j.metric = r.resource_type
    AND coalesce(j.batch_id, r.batch_id, '') = coalesce(r.batch_id, '')
WHERE r.outcome IN ('charged', 'failed', 'settled') AND r.service_name IS NOT NULL
  AND r.processing_id IS NOT NULL AND (j.units IS NULL OR j.units <> r.units)

-- name: reversed_is_the_sum_of_reversals
SELECT subject_type, subject_id, credit_type, operation_id, sum(given), sum(noted)
FROM (
    SELECT subject_type, subject_id, credit_type, reverses AS operation_id, amount AS given, 0 AS noted
    FROM credit_operations WHERE kind = 'reversal'
    UNION ALL
    SELECT subject_type, subject_id, credit_type, operation_id, 0, reversed FROM reversals
) AS both_sides
GROUP BY subject_type, subject_id, credit_type, operation_id
HAVING sum(given) <> sum(noted)

-- name: reversed_is_within_the_operation
SELECT r.subject_type, r.subject_id, r.credit_type, r.operation_id, 'at most ' || coalesce(o.amount, 0),
    r.reversed
FROM reversals AS r
LEFT JOIN credit_operations AS o ON o.id = r.operation_id
WHERE o.id IS NULL OR r.reversed > o.amount

-- name: debt_has_a_failed_operation
SELECT d.subject_type, d.subject_id, d.credit_type, d.operation_id, 'a failed operation',
    coalesce(o.operation_status, 'none')
FROM debts AS d
LEFT JOIN credit_operations AS o ON o.id = d.operation_id
WHERE o.id IS NULL OR o.operation_status <> 'failed'

-- name: owing_operation_has_a_debt
-- Work that had no price when it was filed owes the amount of a later operation, which refers to the first one.
SELECT o.subject_type, o.subject_id, o.credit_type, o.id, 'a debt', 'none'
FROM credit_operations AS o
WHERE o.operation_status = 'failed' AND o.kind = 'consume' AND (o.owed > 0 OR o.reason = 'policy_denied')
  AND NOT EXISTS (SELECT 1 FROM debts AS d WHERE d.operation_id = coalesce(o.reverses, o.id))

-- name: debt_is_priced_once
WITH priced AS MATERIALIZED (
    SELECT coalesce(reverses, id) AS debt_id, count(*) AS total FROM credit_operations WHERE owed > 0 GROUP BY 1
)
SELECT d.subject_type, d.subject_id, d.credit_type, d.operation_id, CASE WHEN d.owed IS NULL THEN 0 ELSE 1 END,
    coalesce(p.total, 0)
FROM debts AS d
LEFT JOIN priced AS p ON p.debt_id = d.operation_id
WHERE coalesce(p.total, 0) <> CASE WHEN d.owed IS NULL THEN 0 ELSE 1 END

-- name: debt_owes_what_is_not_settled
-- Its price is the sum of all settlements and write-offs, and the amount still owed.
WITH priced AS MATERIALIZED (
    SELECT coalesce(reverses, id) AS debt_id, owed FROM credit_operations WHERE owed > 0
),
closed AS MATERIALIZED (
    SELECT reverses AS debt_id, sum(amount) AS total
    FROM credit_operations WHERE kind IN ('settlement', 'write_off') GROUP BY reverses
)
SELECT d.subject_type, d.subject_id, d.credit_type, d.operation_id, p.owed - coalesce(c.total, 0),
    CASE WHEN d.closed_by IS NULL THEN d.owed ELSE 0 END
FROM debts AS d
JOIN priced AS p ON p.debt_id = d.operation_id
LEFT JOIN closed AS c ON c.debt_id = d.operation_id
WHERE p.owed - coalesce(c.total, 0) <> CASE WHEN d.closed_by IS NULL THEN d.owed ELSE 0 END

-- name: closed_debt_has_its_closing
SELECT d.subject_type, d.subject_id, d.credit_type, d.operation_id,
    CASE WHEN d.owed IS NULL THEN 'a charge or write-off' ELSE 'a settlement or write-off' END,
    coalesce(o.kind, 'none')
FROM debts AS d
LEFT JOIN credit_operations AS o ON o.id = d.closed_by
WHERE d.closed_by IS NOT NULL
  AND (o.id IS NULL OR o.reverses IS DISTINCT FROM d.operation_id OR o.operation_status <> 'completed'
    OR o.kind NOT IN ('write_off', CASE WHEN d.owed IS NULL THEN 'consume' ELSE 'settlement' END))

-- name: closing_closes_its_debt
-- A settlement can pay a part of a debt that is still open, or that another operation has closed.
SELECT o.subject_type, o.subject_id, o.credit_type, o.id, 'the debt closed by it',
    CASE WHEN d.operation_id IS NULL THEN 'no debt' WHEN d.closed_by IS NULL THEN 'an open debt'
        ELSE 'closed by another' END
FROM credit_operations AS o
LEFT JOIN debts AS d ON d.operation_id = o.reverses
WHERE (o.kind = 'settlement' AND (d.operation_id IS NULL OR d.owed IS NULL))
   OR ((o.kind = 'write_off' OR (o.kind = 'consume' AND o.operation_status = 'completed' AND o.reverses IS NOT NULL))
    AND d.closed_by IS DISTINCT FROM o.id)

-- name: debt_is_of_its_operation
SELECT d.subject_type, d.subject_id, d.credit_type, d.operation_id,
    o.subject_type || ':' || o.subject_id || '/' || o.credit_type || ' ' || coalesce(o.metric, o.credit_type),
    d.metric
FROM debts AS d
JOIN credit_operations AS o ON o.id = d.operation_id
WHERE o.subject_type <> d.subject_type OR o.subject_id <> d.subject_id
   OR (o.credit_type <> d.credit_type AND o.owed > 0)
   OR coalesce(o.metric, o.credit_type) <> d.metric

-- name: job_says_what_was_consumed
-- A settlement of a hold charges all of the hold's metrics in one operation.
WITH known AS MATERIALIZED (
    SELECT CAST(id AS text) AS operation_id, user_id, metric, quantity, coalesce(batch_id, '') AS batch_id
    FROM credit_operations WHERE hold_id IS NULL
)
SELECT NULL, NULL, NULL, j.service_name || ' ' || j.processing_id,
    o.quantity || ' ' || coalesce(o.metric, '') || ' of ' || coalesce(o.user_id, '') || ' in batch ' || o.batch_id,
    j.units || ' ' || j.metric || ' of ' || j.user_id || ' in batch ' || coalesce(j.batch_id, '')
FROM jobs AS j
JOIN known AS o ON o.operation_id = jsonb(j.outcome) ->> 'operation_id'
WHERE j.units <> o.quantity OR j.metric IS DISTINCT FROM o.metric OR j.user_id IS DISTINCT FROM o.user_id
   OR j.batch_id <> o.batch_id

-- name: group_has_its_first_operation
SELECT o.subject_type, o.subject_id, o.credit_type, o.id, o.group_id, coalesce(CAST(f.group_id AS text), 'none')
FROM credit_operations AS o
LEFT JOIN credit_operations AS f ON f.id = o.group_id
WHERE o.group_id IS NOT NULL AND f.group_id IS DISTINCT FROM o.group_id

-- name: only_the_first_of_a_group_has_a_quantity
SELECT subject_type, subject_id, credit_type, id, 0, quantity
FROM credit_operations WHERE group_id <> id AND quantity <> 0

-- name: member_drew_what_the_org_paid
-- In the current month of each member: consumed credits, less reversed ones, and those that open holds hold.
SELECT 'org', m.org_id, NULL, m.user_id, coalesce(o.total, 0) + coalesce(h.total, 0), m.drawn
FROM org_members AS m
LEFT JOIN (
    SELECT subject_id, user_id, member_month,
        sum(CASE kind WHEN 'consume' THEN amount WHEN 'reversal' THEN -amount ELSE 0 END) AS total
    FROM credit_operations WHERE subject_type = 'org' AND member_month IS NOT NULL
    GROUP BY subject_id, user_id, member_month
) AS o ON o.subject_id = m.org_id AND o.user_id = m.user_id AND o.member_month = m.month
LEFT JOIN (
    SELECT subject_id, user_id, member_month, sum(held) AS total
    FROM holds WHERE subject_type = 'org' AND member_month IS NOT NULL AND status = 'open'
    GROUP BY subject_id, user_id, member_month
) AS h ON h.subject_id = m.org_id AND h.user_id = m.user_id AND h.member_month = m.month
WHERE m.drawn <> coalesce(o.total, 0) + coalesce(h.total, 0)

-- name: allowance_is_known_to_pay
-- Work of a metric looks for allowances only if it is in this table.
SELECT g.subject_type, g.subject_id, g.credit_type, g.id, substr(g.credit_type, 7), 'not in allowance_metrics'
FROM grants AS g
LEFT JOIN allowance_metrics AS a ON a.metric = substr(g.credit_type, 7)
WHERE g.credit_type LIKE 'units:_%' AND a.metric IS NULL

-- name: operation_has_its_policy
SELECT o.subject_type, o.subject_id, o.credit_type, o.id, 'policy ' || o.policy_version, 'none'
FROM credit_operations AS o
LEFT JOIN policies AS p ON p.version = o.policy_version
WHERE p.version IS NULL

-- name: hold_has_its_policy
SELECT h.subject_type, h.subject_id, h.credit_type, h.id, 'policy ' || h.policy_version, 'none'
FROM holds AS h
LEFT JOIN policies AS p ON p.version = h.policy_version
WHERE p.version IS NULL

-- name: subscription_has_its_policy
SELECT s.subject_type, s.subject_id, 'credits', s.subscription_id, 'policy ' || s.policy_version, 'none'
FROM subscriptions AS s
LEFT JOIN policies AS p ON p.version = s.policy_version
WHERE p.version IS NULL

-- name: subscription_has_its_own_grant
SELECT s.subject_type, s.subject_id, 'credits', s.subscription_id,
    CASE WHEN s.ended_at IS NULL THEN 'an open grant' ELSE 'an ended grant' END,
    CASE WHEN g.id IS NULL THEN 'none' WHEN g.ended_at IS NULL THEN 'an open one' ELSE 'an ended one' END
FROM subscriptions AS s
LEFT JOIN grants AS g ON g.id = s.grant_id AND g.subject_type = s.subject_type
    AND g.subject_id = s.subject_id AND g.credit_type = 'credits' AND g.entitlement_type = 'subscription'
WHERE g.id IS NULL OR (g.ended_at IS NULL) <> (s.ended_at IS NULL)

-- name: subscription_gave_its_grants
WITH named AS MATERIALIZED (
    SELECT s.subject_type, s.subject_id, s.subscription_id, d.value ->> 0 AS credit_type, d.value ->> 1 AS grant_id
    FROM subscriptions AS s, json_each(s.given) AS d
    UNION ALL
    SELECT s.subject_type, s.subject_id, s.subscription_id, d.value ->> 0, d.value ->> 1
    FROM subscriptions AS s, json_each(s.follow_up) AS d
    UNION ALL
    SELECT s.subject_type, s.subject_id, s.subscription_id, d.value ->> 0, d.value ->> 1
    FROM subscriptions AS s, json_each(s.replaced) AS d
),
known AS MATERIALIZED (
    SELECT subject_type, subject_id, credit_type, reference_id, CAST(id AS text) AS grant_id FROM grants
    WHERE reference_id IS NOT NULL
)
SELECT n.subject_type, n.subject_id, n.credit_type, n.subscription_id, 'grant ' || n.grant_id, 'none'
FROM named AS n
LEFT JOIN known AS g ON g.grant_id = n.grant_id AND g.subject_type = n.subject_type
    AND g.subject_id = n.subject_id AND g.credit_type = n.credit_type AND g.reference_id = n.subscription_id
WHERE g.grant_id IS NULL

-- name: subscription_change_has_one_event
-- A cancellation at the end of the period is announced when it takes effect.
SELECT o.subject_type, o.subject_id, o.credit_type, o.id,
    CASE WHEN o.kind = 'subscription' AND o.reason <> 'canceling' THEN 1 ELSE 0 END, coalesce(e.total, 0)
FROM credit_operations AS o
LEFT JOIN (
    SELECT subject_type, subject_id, credit_type, seq, count(*) AS total
    FROM event_outbox WHERE event_type LIKE '%.entitlements.subscription.%'
    GROUP BY subject_type, subject_id, credit_type, seq
) AS e USING (subject_type, subject_id, credit_type, seq)
WHERE coalesce(e.total, 0) <> CASE WHEN o.kind = 'subscription' AND o.reason <> 'canceling' THEN 1 ELSE 0 END
  AND (e.total IS NOT NULL
    OR coalesce(o.created_at > (SELECT max(cleaned_until) FROM relay_leases), true))

-- name: one_policy_is_active
-- No policy is active before the first start of a service.
SELECT NULL, NULL, NULL, NULL, 1, a.total
FROM (SELECT count(*) AS total FROM policies WHERE active) AS a
WHERE a.total <> 1 AND (EXISTS (SELECT 1 FROM policies) OR EXISTS (SELECT 1 FROM credit_operations))

-- name: wallet_is_not_ahead_of_the_clock
-- $1: now plus a minute.
SELECT subject_type, subject_id, credit_type, NULL, 'a time that has come', updated_at
FROM credit_balances
WHERE updated_at > $1
