-- One way to break each invariant, in SQL that both engines run on the history of history.py.

-- name: wallet_is_not_ahead_of_the_clock
UPDATE credit_balances SET updated_at = (SELECT max(updated_at) FROM credit_balances)
    WHERE subject_type = 'org' AND subject_id = 'school';

-- name: balance_is_what_grants_have_left
UPDATE credit_balances SET balance = balance + 1 WHERE subject_type = 'org' AND subject_id = 'school';

-- name: balance_is_the_sum_of_deltas
UPDATE credit_operations
    SET delta = delta - 1
    WHERE subject_type = 'org' AND subject_id = 'school' AND kind = 'consume' AND metric = 'essay' AND operation_status = 'completed';

-- name: version_counts_operations
UPDATE credit_balances SET version = version + 1 WHERE subject_type = 'org' AND subject_id = 'school';

-- name: balance_after_chains
UPDATE credit_operations
    SET balance_after = 1
    WHERE subject_type = 'org' AND subject_id = 'school' AND kind = 'consume' AND metric = 'essay' AND operation_status = 'completed';

-- name: seq_has_no_gaps
UPDATE credit_operations
    SET seq = seq + 10
    WHERE subject_type = 'org' AND subject_id = 'school' AND kind = 'reversal';

-- name: held_is_what_grants_hold
UPDATE credit_balances SET held = 1 WHERE subject_type = 'org' AND subject_id = 'school';

-- name: overdraft_is_within_its_floor
UPDATE credit_balances SET overdraft = 1 WHERE subject_type = 'org' AND subject_id = 'school';

-- name: overdraft_stands_beside_no_credits
UPDATE credit_balances SET overdraft = 1 WHERE subject_type = 'org' AND subject_id = 'school';

-- name: due_times_are_known_to_the_wallet
UPDATE credit_balances SET next_due_at = NULL WHERE subject_type = 'org' AND subject_id = 'school';

-- name: grant_is_within_bounds
UPDATE grants SET quantity = 1 WHERE subject_type = 'org' AND subject_id = 'school' AND remaining > 1;

-- name: grant_remains_what_draws_left
UPDATE grants SET remaining = remaining - 1 WHERE subject_type = 'org' AND subject_id = 'school' AND live;

-- name: wallet_knows_its_unlimited_grants
UPDATE credit_balances SET unlimited = unlimited + 1 WHERE subject_type = 'org' AND subject_id = 'school';

-- name: wallet_knows_its_scheduled_grants
UPDATE credit_balances SET promised = promised + 1 WHERE subject_type = 'org' AND subject_id = 'school';

-- name: grant_used_what_was_drawn
UPDATE grants SET used = 1000 WHERE subject_type = 'org' AND subject_id = 'school' AND live;

-- name: group_has_its_first_operation
UPDATE credit_operations SET group_id = '00000000-0000-7000-8000-000000000000' WHERE group_id = id;

-- name: only_the_first_of_a_group_has_a_quantity
UPDATE credit_operations SET quantity = 1 WHERE group_id <> id;

-- name: member_drew_what_the_org_paid
UPDATE org_members SET drawn = drawn + 1 WHERE month <> '';

-- name: allowance_is_known_to_pay
DELETE FROM allowance_metrics;

-- name: draw_names_a_grant_of_the_wallet
UPDATE credit_operations
    SET draws = '[["00000000-0000-7000-8000-000000000000", 1]]'
    WHERE subject_type = 'org' AND subject_id = 'school' AND kind = 'consume' AND metric = 'essay' AND operation_status = 'completed';

-- name: grant_has_a_wallet
UPDATE grants SET subject_id = 'nobody' WHERE subject_type = 'org' AND subject_id = 'school' AND NOT started;

-- name: operation_has_a_wallet
INSERT INTO credit_operations
    (subject_type, subject_id, credit_type, seq, id, kind, user_id, org_id, metric, quantity, amount, delta, balance_after, owed, draws, batch_id, consumed_from, correlation_id, operation_status, reason, policy_version, actor, client, reverses, created_at, effective_at)
    SELECT 'org', 'nobody', credit_type, 1, '00000000-0000-7000-8000-000000000000', kind, user_id, org_id, metric, quantity, amount, delta, balance_after, owed, draws, batch_id, consumed_from, correlation_id, operation_status, reason, policy_version, actor, client, reverses, created_at, effective_at
    FROM credit_operations
    WHERE subject_type = 'org' AND subject_id = 'school' AND seq = 1;

-- name: operation_moves_its_amount
UPDATE credit_operations
    SET amount = amount + 1
    WHERE kind = 'consume' AND metric = 'essay' AND operation_status = 'completed';

-- name: balance_change_has_one_event
DELETE
    FROM event_outbox
    WHERE event_type LIKE '%balance.changed.v1' AND subject_type = 'org' AND subject_id = 'school' AND seq = 1;

-- name: usage_has_one_event
DELETE FROM event_outbox WHERE event_type LIKE '%usage.recorded.v1';

-- name: shortfall_has_one_event
DELETE FROM event_outbox WHERE event_type LIKE '%shortfall.recorded.v1';

-- name: event_has_an_operation
INSERT INTO event_outbox (bucket, subject_type, subject_id, credit_type, seq, n, event_id, event_type, key, payload, created_at)
    SELECT bucket, subject_type, subject_id, credit_type, 999, n, '00000000-0000-7000-8000-000000000000', event_type, key, payload, created_at
    FROM event_outbox
    WHERE event_type LIKE '%balance.changed.v1' AND subject_type = 'org' AND subject_id = 'school' AND seq = 1;

-- name: event_says_what_happened
UPDATE event_outbox
    SET payload = replace(payload, '"new_balance":', '"new_balance":1')
    WHERE event_type LIKE '%balance.changed.v1' AND subject_type = 'org' AND subject_id = 'school';

-- name: event_is_sent_in_order
UPDATE event_outbox
    SET published_at = created_at
    WHERE subject_type = 'org' AND subject_id = 'school'
      AND seq = (SELECT max(seq) FROM event_outbox WHERE subject_type = 'org' AND subject_id = 'school');

-- name: event_id_is_unique
INSERT INTO event_outbox (bucket, subject_type, subject_id, credit_type, seq, n, event_id, event_type, key, payload, created_at)
    SELECT bucket, subject_type, subject_id, credit_type, seq, 9, event_id, event_type, key, payload, created_at
    FROM event_outbox
    WHERE event_type LIKE '%balance.changed.v1' AND subject_type = 'org' AND subject_id = 'school' AND seq = 1;

-- name: receipt_has_an_operation
UPDATE receipts
    SET outcome = replace(outcome, CAST((SELECT id
    FROM credit_operations
    WHERE kind = 'settlement' ORDER BY created_at, id LIMIT 1) AS text), '00000000-0000-7000-8000-000000000000');

-- name: operation_answers_one_key
INSERT INTO receipts
    SELECT client, 'another ' || key, fingerprint, outcome, created_at, expires_at
    FROM receipts
    WHERE outcome LIKE '%debt_closed%';

-- name: job_has_an_operation
UPDATE jobs SET outcome = '{}';

-- name: operation_answers_one_job
INSERT INTO jobs (user_id, service_name, processing_id, metric, units, outcome)
    SELECT user_id, service_name, 'another ' || processing_id, metric, units, outcome
    FROM jobs;

-- name: reversed_is_the_sum_of_reversals
UPDATE reversals SET reversed = reversed + 1;

-- name: reversed_is_within_the_operation
UPDATE reversals SET reversed = 16;

-- name: debt_has_a_failed_operation
UPDATE credit_operations SET operation_status = 'completed'
    WHERE id = (SELECT operation_id FROM debts WHERE closed_by IS NULL AND owed IS NOT NULL LIMIT 1);

-- name: debt_is_priced_once
UPDATE debts SET owed = 1 WHERE closed_by IS NULL AND owed IS NULL;

-- name: debt_owes_what_is_not_settled
UPDATE debts SET owed = owed + 1 WHERE closed_by IS NULL;

-- name: owing_operation_has_a_debt
DELETE FROM debts WHERE closed_by IS NULL;

-- name: closed_debt_has_its_closing
UPDATE debts SET closed_by = (SELECT id FROM credit_operations WHERE kind = 'write_off' ORDER BY id LIMIT 1)
    WHERE closed_by IN (SELECT id FROM credit_operations WHERE kind = 'settlement');

-- name: closing_closes_its_debt
UPDATE debts
    SET closed_by = NULL
    WHERE closed_by IN (SELECT id
    FROM credit_operations
    WHERE kind = 'write_off');

-- name: held_is_what_open_holds_hold
UPDATE credit_balances SET held = held + 1 WHERE subject_id = 'cy';

-- name: grant_holds_what_it_backs
UPDATE grants SET held = held - 1 WHERE held > 0;

-- name: hold_is_backed
UPDATE holds SET backing = '[["00000000-0000-7000-8000-000000000000", 25]]' WHERE status = 'open';

-- name: closed_hold_holds_nothing
UPDATE holds SET held = 1 WHERE status = 'released';

-- name: hold_adds_up
UPDATE holds SET charged = charged + 1 WHERE status = 'settled';

-- name: hold_is_what_operations_say
UPDATE holds SET taken = taken + 1, returned = returned + 1 WHERE status = 'lapsed';

-- name: ended_grant_has_left_what_is_held
UPDATE grants SET remaining = remaining + 1 WHERE ended_at IS NOT NULL AND held > 0;

-- name: lapses_are_known_to_the_wallet
UPDATE credit_balances SET next_due_at = NULL WHERE subject_id = 'cy';

-- name: hold_has_one_event
DELETE FROM event_outbox WHERE event_type LIKE '%usage.authorized.v1';

-- name: record_has_its_operation
UPDATE consumption_records
    SET operation_id = '00000000-0000-7000-8000-000000000000'
    WHERE outcome = 'duplicate';

-- name: operation_answers_one_record
UPDATE consumption_records
    SET outcome = 'charged'
    WHERE outcome = 'conflict';

-- name: failed_operation_says_what_it_cost
UPDATE credit_operations SET amount = owed + 1 WHERE operation_status = 'failed';

-- name: record_says_what_was_charged
UPDATE consumption_records SET credits = credits + 1 WHERE outcome = 'charged';

-- name: reported_job_is_known
DELETE FROM jobs WHERE service_name = 'grader';

-- name: threshold_event_says_what_happened
UPDATE event_outbox SET payload = replace(payload, '"direction":"below"', '"direction":"above"')
    WHERE event_type LIKE '%threshold.crossed.v1' AND payload LIKE '%"direction":"below"%';

-- name: balance_at_grant_was_one
UPDATE credit_balances SET balance_at_grant = 999 WHERE subject_type = 'org' AND subject_id = 'school';

-- name: debt_is_of_its_operation
UPDATE debts SET metric = 'another' WHERE closed_by IS NULL;

-- name: job_says_what_was_consumed
UPDATE jobs SET units = units + 1 WHERE service_name = 'pipeline';

-- name: operation_has_its_policy
UPDATE credit_operations SET policy_version = 'another' WHERE kind = 'settlement';

-- name: hold_has_its_policy
UPDATE holds SET policy_version = 'another' WHERE status = 'open';

-- name: one_policy_is_active
DELETE FROM policies;

-- name: subscription_has_its_policy
UPDATE subscriptions SET policy_version = 'another' WHERE ended_at IS NULL;

-- name: subscription_has_its_own_grant
UPDATE subscriptions SET grant_id = '00000000-0000-7000-8000-000000000000' WHERE subscription_id = 'open';

-- name: subscription_gave_its_grants
UPDATE subscriptions SET replaced = '[["credits", "00000000-0000-7000-8000-000000000000"]]' WHERE subscription_id = 'open';

-- name: subscription_change_has_one_event
DELETE FROM event_outbox WHERE event_type LIKE '%.subscription.changed.v1';
