-- Named statements of batches and of books. They have the names of PostgreSQL's statements, which take arrays of keys;
-- these take one key or row, and run once for each.

-- fragment: of_wallet
subject_type = ? AND subject_id = ? AND credit_type = ?

-- fragment: is_plain_expiry
coalesce(started = 1 AND expires_at = due_at AND held = 0 AND unlimited = 0, 0)

-- fragment: live_grants
SELECT {{grant_columns}} FROM grants WHERE {{of_wallet}} AND live = 1 ORDER BY {{}} LIMIT ?

-- fragment: open_grants
-- Without the expiries that `plain_expiries` sums.
SELECT {{grant_columns}} FROM grants
WHERE {{of_wallet}} AND live = 1 AND (due_at IS NULL OR due_at > ? OR NOT {{is_plain_expiry}})
ORDER BY {{}} LIMIT ?

-- fragment: in_due_order
due_at, started DESC, coalesce(expires_at = due_at, 0) DESC, id

-- fragment: grants_by_due_time
-- In the order in which the core applies them: at one instant expiries, then renewals, then starts.
SELECT {{grant_columns}} FROM grants WHERE {{of_wallet}} AND {{}} ORDER BY {{in_due_order}} LIMIT ?

-- fragment: holds_by_lapse
SELECT {{hold_columns}} FROM holds WHERE {{of_wallet}} AND status = 'open' AND {{}} ORDER BY expires_at, id LIMIT ?

-- name: read_wallets
SELECT {{wallet_columns}} FROM credit_balances WHERE {{of_wallet}};

-- name: load_live_grants
{{live_grants priority, coalesce(expires_at, 253402300799999999), granted_at, id}};

-- name: load_live_grants_fifo
{{live_grants priority, granted_at, id}};

-- name: open_grants
{{open_grants priority, coalesce(expires_at, 253402300799999999), granted_at, id}};

-- name: open_grants_fifo
{{open_grants priority, granted_at, id}};

-- name: load_due_grants
{{grants_by_due_time due_at <= ?}};

-- name: plain_expiries
-- Expiries that concern nothing else, and how many other effects are due.
SELECT coalesce(sum(remaining) FILTER (WHERE {{is_plain_expiry}}), 0), count(*) FILTER (WHERE NOT {{is_plain_expiry}})
FROM grants WHERE {{of_wallet}} AND due_at <= ?;

-- name: load_other_due_grants
SELECT {{grant_columns}} FROM grants WHERE {{of_wallet}} AND due_at <= ? AND NOT {{is_plain_expiry}}
ORDER BY {{in_due_order}};

-- name: grants_ahead
{{grants_by_due_time due_at > ?}};

-- name: due_after
SELECT due_at, started, coalesce(expires_at = due_at, 0) AS is_expiry FROM grants
WHERE {{of_wallet}} AND due_at IS NOT NULL ORDER BY {{in_due_order}} LIMIT 1 OFFSET ?;

-- name: soonest_expiries
-- Of grants that are not loaded. A started grant is due at its expiry. The index also has grants that start later, in
-- between.
SELECT due_at, sum(remaining - held) AS credits FROM grants
WHERE {{of_wallet}} AND started = 1 AND expires_at = due_at AND id NOT IN (SELECT value FROM json_each(?)) AND due_at = (
    SELECT due_at FROM grants
    WHERE {{of_wallet}} AND started = 1 AND due_at > ? AND expires_at = due_at AND remaining > held
      AND id NOT IN (SELECT value FROM json_each(?))
    ORDER BY due_at LIMIT 1
)
GROUP BY due_at;

-- name: load_grants_named
SELECT {{grant_columns}} FROM grants WHERE {{of_wallet}} AND id = ?;

-- name: load_holds_named
SELECT {{hold_columns}} FROM holds WHERE {{of_wallet}} AND id = ?;

-- name: load_due_holds
{{holds_by_lapse expires_at <= ?}};

-- name: holds_ahead
{{holds_by_lapse expires_at > ?}};

-- name: hold_due_after
SELECT expires_at FROM holds WHERE {{of_wallet}} AND status = 'open' ORDER BY expires_at, id LIMIT 1 OFFSET ?;

-- fragment: job
SELECT {{job_columns}} FROM jobs
WHERE user_id = ?1 AND service_name = ?2 AND processing_id = ?3 AND metric = ?4 AND batch_id {{}}

-- name: load_jobs
-- A row without a batch_id, written by a program of the previous version, is for any batch.
{{job = ?5}} UNION ALL {{job IS NULL}} LIMIT 1;

-- name: load_records
SELECT {{record_columns}} FROM consumption_records WHERE user_id = ? AND event_id = ?;

-- name: load_members
SELECT {{member_columns}} FROM org_members WHERE org_id = ? AND user_id = ?;

-- name: load_repayments
-- Operations that changed the overdraft since an operation; a reversal has the number of the one it reversed.
SELECT {{operation_columns}}, (SELECT seq FROM credit_operations AS r WHERE r.id = o.reverses) AS reverses_seq
FROM credit_operations AS o
WHERE {{of_wallet}} AND seq > ? AND overdraft_after IS NOT NULL AND kind <> 'consume'
ORDER BY seq;

-- name: load_reversals
SELECT reversed FROM reversals WHERE {{of_wallet}} AND operation_id = ?;

-- name: load_debts
SELECT {{debt_columns}} FROM debts WHERE {{of_wallet}} AND operation_id = ?;

-- name: load_oldest_debts
SELECT {{debt_columns}} FROM debts WHERE {{of_wallet}} AND closed_by IS NULL AND owed IS NOT NULL
ORDER BY created_at, operation_id LIMIT ?;

-- name: load_accounts
SELECT 1 FROM accounts WHERE subject_type = ? AND subject_id = ?;

-- name: owing
-- Sums have the same maximum as in the limiters.
SELECT CAST(min(total(owed), {{count_max}}) AS INTEGER) AS owed FROM debts
WHERE {{of_wallet}} AND closed_by IS NULL AND owed IS NOT NULL;

-- name: unpriced_work
SELECT operation_id FROM debts
WHERE closed_by IS NULL AND owed IS NULL AND (?1 IS NULL OR metric IN (SELECT value FROM json_each(?1)))
  AND operation_id NOT IN (SELECT value FROM json_each(?2))
ORDER BY created_at, operation_id LIMIT ?3;

-- name: unpriced_total
SELECT count(*) FROM (SELECT 1 FROM debts WHERE closed_by IS NULL AND owed IS NULL LIMIT ?);

-- name: due_wallets
SELECT subject_type, subject_id, credit_type FROM credit_balances
WHERE next_due_at <= ? AND (subject_type, subject_id, credit_type) NOT IN
    (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?))
ORDER BY next_due_at LIMIT ?;

-- Writes. A statement must change one row per set of values, or its guard has failed.

-- name: create_wallets
-- A wallet that was loaded with version 0 may be new.
INSERT INTO credit_balances (balance, held, overdraft, version, next_due_at, updated_at, subject_type, subject_id,
                             credit_type)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET balance = excluded.balance, held = excluded.held, overdraft = excluded.overdraft,
    version = excluded.version, next_due_at = excluded.next_due_at, updated_at = excluded.updated_at
WHERE version = 0;

-- name: write_wallets
UPDATE credit_balances SET balance = ?, held = ?, overdraft = ?, version = ?, next_due_at = ?, updated_at = ?
WHERE {{of_wallet}} AND version = ?;

-- name: write_grant_totals
-- Written after the wallets: only grants change them, so other writes need not carry them.
UPDATE credit_balances SET balance_at_grant = ?, unlimited = ?, promised = ? WHERE {{of_wallet}};

-- name: write_grants
UPDATE grants SET remaining = ?, held = ?, used = ?, started = ?, ended_at = ?, end_reason = ?, live = ?, due_at = ?
WHERE {{of_wallet}} AND id = ? AND remaining = ? AND held = ? AND started = ? AND ended_at IS ?;

-- name: draw_grants
-- A draw changes only the remaining and used credits, and touches none of the partial indexes.
UPDATE grants SET remaining = ?, used = ? WHERE {{of_wallet}} AND id = ? AND remaining = ? AND ended_at IS NULL AND live = 1;

-- name: create_grants
INSERT INTO grants ({{grant_columns}}, live, due_at, {{grant_details_columns}}, created_at)
VALUES ({{grant_values}}, ?, ?, {{grant_details_values}}, ?);

-- name: create_operations
INSERT INTO credit_operations ({{operation_columns}}) VALUES ({{operation_values}});

-- name: create_events
INSERT INTO event_outbox ({{event_columns}}) VALUES ({{event_values}});

-- name: write_jobs
INSERT INTO jobs ({{job_columns}}) VALUES ({{job_values}});

-- name: create_records
INSERT INTO consumption_records ({{record_columns}}) VALUES ({{record_values}});

-- name: add_members
INSERT INTO org_members ({{member_columns}}) VALUES ({{member_values}});

-- name: write_members
UPDATE org_members SET joined_at = ?3, left_at = ?4, monthly_cap = ?5, month = ?6, drawn = ?7
WHERE org_id = ?1 AND user_id = ?2;

-- name: create_holds
INSERT INTO holds ({{hold_columns}}) VALUES ({{hold_values}});

-- name: write_holds
UPDATE holds SET held = ?, charged = ?, returned = ?, backing = ?, status = ?, expires_at = ?, settled = ?, closing = ?,
    closed_at = ?, billed = ?
WHERE {{of_wallet}} AND id = ? AND status = ? AND held = ?;

-- name: write_reversals
INSERT INTO reversals (subject_type, subject_id, credit_type, operation_id, reversed) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT DO UPDATE SET reversed = excluded.reversed WHERE reversed = ?6;

-- name: open_debts
INSERT INTO debts ({{debt_columns}}) VALUES ({{debt_values}});

-- name: write_debts
UPDATE debts SET credit_type = ?, owed = ?, closed_by = ?
WHERE {{of_wallet}} AND operation_id = ? AND closed_by IS NULL AND owed IS ?;

-- name: write_renewals
UPDATE grants SET renews_at = ?, used_before = ?, expires_at = ? WHERE {{of_wallet}} AND id = ?;

-- name: write_revoke_reasons
UPDATE grants SET revoke_reason = ? WHERE {{of_wallet}} AND id = ?;

-- name: open_accounts
INSERT INTO accounts (subject_type, subject_id, opened_at) VALUES (?, ?, ?);
