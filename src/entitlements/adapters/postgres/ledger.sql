-- Named statements of batches and of books. Keys come as arrays and are looked up one by one (LATERAL with LIMIT 1,
-- OFFSET 0 or FOR UPDATE), so that no plan can turn a batch into a scan of the table. Updates join by row position
-- (ctid), which the locks keep stable: with a join by key, a table that had one row when it was last analysed would be
-- scanned for every batch. Columns are selected by name, so that columns of later migrations change no result.

-- fragment: of_wallet
subject_type = k.t AND subject_id = k.i AND credit_type = k.c

-- fragment: wallets
SELECT {{wallet_columns}} FROM credit_balances WHERE {{of_wallet}}

-- name: begin
-- Set per transaction, so that it also applies behind a transaction pooler.
BEGIN;
{{batch_settings}}

-- name: begin_inside
-- As part of a transaction that others began, whose settings `settings_to_restore` has saved.
SAVEPOINT entitlements;
{{batch_settings}}

-- name: settings_to_restore
-- The statements that end the part and restore the settings.
SELECT format(
    'RELEASE SAVEPOINT entitlements; SET LOCAL jit = %L; SET LOCAL plan_cache_mode = %L; '
    'SET LOCAL enable_hashjoin = %L; SET LOCAL enable_mergejoin = %L; SET LOCAL enable_seqscan = %L; '
    'SET LOCAL lock_timeout = %L; SET LOCAL statement_timeout = %L; '
    'SET LOCAL idle_in_transaction_session_timeout = %L',
    current_setting('jit'), current_setting('plan_cache_mode'), current_setting('enable_hashjoin'),
    current_setting('enable_mergejoin'), current_setting('enable_seqscan'), current_setting('lock_timeout'),
    current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')
);

-- name: identity
-- Of the database, the tables that unqualified names mean, and the transaction.
SELECT ARRAY[current_database()::text, pg_postmaster_start_time()::text, to_regclass('credit_operations')::oid::text]
           AS place,
       current_setting('transaction_isolation') AS isolation;

-- fragment: batch_settings
-- A plan that must use a disabled node looks expensive, and JIT compilation would take hundreds of milliseconds.
SET LOCAL jit = off;
SET LOCAL plan_cache_mode = force_generic_plan;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_seqscan = off;
SET LOCAL lock_timeout = '250ms';
SET LOCAL statement_timeout = '10s';
SET LOCAL idle_in_transaction_session_timeout = '15s';
-- The active policy cannot change until the commit: activation waits for this lock. The lock is in memory only, so no
-- row is written, and batches do not block each other.
LOCK TABLE policy_lock IN ROW SHARE MODE;

-- name: create_wallets
-- With a time in the distant past: a new wallet has no changes yet, whatever clock is used.
INSERT INTO credit_balances (subject_type, subject_id, credit_type, updated_at)
SELECT k.*, 'epoch' FROM unnest($1::text[], $2::text[], $3::text[]) AS k
ON CONFLICT DO NOTHING;

-- fragment: lock_wallets
SELECT w.*, clock_timestamp() AS clock
FROM unnest($1::text[], $2::text[], $3::text[]) AS k(t, i, c)
CROSS JOIN LATERAL ({{wallets}} {{}}) AS w

-- name: lock_wallets
-- In the given order, which is sorted, so that batches do not deadlock. A locked row is returned as the last
-- transaction left it; everything else must be read by later statements.
{{lock_wallets FOR UPDATE}};

-- name: lock_wallets_skipping
{{lock_wallets FOR UPDATE SKIP LOCKED}};

-- fragment: load
-- At least one row, with the active version and the number of metrics with allowances. Its other columns are a receipt, or a live grant in burn order (one more
-- per wallet than wanted, to show whether there are more), or a part of a named hold. The holds come first and
-- determine the types of the columns.
SELECT p.version, (SELECT count(*) FROM allowance_metrics) AS allowances, found.*
FROM policies AS p
LEFT JOIN LATERAL (
    SELECT NULL::text, NULL::text, NULL::text, NULL::text, NULL::timestamptz, NULL::timestamptz,
           NULL::text, NULL::text, NULL::text, NULL::text, NULL::bigint, NULL::bigint, NULL::bigint, NULL::int,
           NULL::timestamptz, NULL::timestamptz, NULL::text, NULL::boolean, NULL::timestamptz, NULL::text, NULL::text,
           NULL::text, NULL::boolean, NULL::bigint, NULL::text, NULL::timestamptz, NULL::bigint, h.*,
           NULL::text, NULL::text, NULL::timestamptz, NULL::timestamptz, NULL::bigint, NULL::text, NULL::bigint
    FROM unnest($7::text[], $8::text[], $9::text[], $10::text[]) AS k(t, i, c, n)
    CROSS JOIN LATERAL (
        SELECT {{hold_columns}} FROM holds WHERE {{of_wallet}} AND holds.id = k.n::uuid LIMIT 1
    ) AS h
    UNION ALL
    SELECT r.*, {{no_grant}}, {{no_hold}}, {{no_member}}
    FROM unnest($1::text[], $2::text[]) AS k(c, n)
    CROSS JOIN LATERAL (
        SELECT {{receipt_columns}} FROM receipts WHERE client = k.c AND key = k.n LIMIT 1
    ) AS r
    UNION ALL
    SELECT {{no_receipt}}, g.*, {{no_hold}}, {{no_member}}
    FROM unnest($3::text[], $4::text[], $5::text[], $6::int[]) AS k(t, i, c, depth)
    CROSS JOIN LATERAL (
        SELECT {{grant_columns}} FROM grants WHERE {{of_wallet}} AND live ORDER BY {{}} LIMIT k.depth + 1
    ) AS g
    UNION ALL
    SELECT {{no_receipt}}, {{no_grant}}, {{no_hold}}, m.*
    FROM unnest($11::text[], $12::text[]) AS k(o, u)
    CROSS JOIN LATERAL (
        SELECT {{member_columns}} FROM org_members WHERE org_id = k.o AND user_id = k.u LIMIT 1
    ) AS m
) AS found ON true
WHERE p.active

-- name: load
{{load priority, expires_at, granted_at, grants.id}};

-- name: load_fifo
{{load priority, granted_at, grants.id}};

-- fragment: is_plain_expiry
coalesce(started AND expires_at = due_at AND held = 0 AND NOT unlimited, false)

-- fragment: open_grants
-- The first live grants in burn order, one more than wanted, without the expiries that `read_books` only sums.
SELECT g.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::int[]) AS k(t, i, c, depth)
CROSS JOIN LATERAL (
    SELECT {{grant_columns}} FROM grants
    WHERE {{of_wallet}} AND live AND (due_at IS NULL OR due_at > $5 OR NOT {{is_plain_expiry}})
    ORDER BY {{}}
    LIMIT k.depth + 1
) AS g

-- name: open_grants
{{open_grants priority, expires_at, granted_at, grants.id}};

-- name: open_grants_fifo
{{open_grants priority, granted_at, grants.id}};

-- fragment: in_due_order
due_at, started DESC, coalesce(expires_at = due_at, false) DESC, grants.id

-- fragment: grants_by_due_time
-- In the order in which the core applies them: at one instant expiries, then renewals, then starts.
SELECT g.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS k(t, i, c, now)
CROSS JOIN LATERAL (
    SELECT {{grant_columns}} FROM grants WHERE {{of_wallet}} AND {{}} ORDER BY {{in_due_order}} LIMIT $5
) AS g

-- name: load_due_grants
{{grants_by_due_time due_at <= k.now}};

-- name: grants_ahead
{{grants_by_due_time due_at > k.now}};

-- name: due_after
-- The first due time of each wallet after those that `load_due_grants` returns.
SELECT k.t, k.i, k.c, g.due_at, g.started, g.is_expiry
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::int[]) AS k(t, i, c, now, loaded)
CROSS JOIN LATERAL (
    SELECT due_at, started, coalesce(expires_at = due_at, false) AS is_expiry FROM grants
    WHERE {{of_wallet}} AND due_at IS NOT NULL
    ORDER BY {{in_due_order}}
    OFFSET k.loaded LIMIT 1
) AS g;

-- name: load_grants_named
SELECT g.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS k(t, i, c, n)
CROSS JOIN LATERAL (
    SELECT {{grant_columns}} FROM grants WHERE {{of_wallet}} AND grants.id = k.n::uuid LIMIT 1
) AS g;

-- fragment: holds_by_lapse
SELECT h.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS k(t, i, c, now)
CROSS JOIN LATERAL (
    SELECT {{hold_columns}} FROM holds WHERE {{of_wallet}} AND status = 'open' AND {{}}
    ORDER BY expires_at, holds.id
    LIMIT $5
) AS h

-- name: load_due_holds
{{holds_by_lapse expires_at <= k.now}};

-- name: holds_ahead
{{holds_by_lapse expires_at > k.now}};

-- name: hold_due_after
-- The first lapse in each wallet after those that `load_due_holds` returns.
SELECT k.t, k.i, k.c, h.expires_at
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::int[]) AS k(t, i, c, now, loaded)
CROSS JOIN LATERAL (
    SELECT expires_at FROM holds WHERE {{of_wallet}} AND status = 'open'
    ORDER BY expires_at, id
    OFFSET k.loaded LIMIT 1
) AS h;

-- name: load_jobs
-- A row without a batch_id, written by a program of the previous version, is for any batch.
SELECT k.u, k.s, k.p, k.m, k.b, j.units, j.outcome
FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) AS k(digest, u, s, p, m, b)
CROSS JOIN LATERAL (
    SELECT units, outcome FROM jobs WHERE digest = k.digest
    UNION ALL
    SELECT units, outcome FROM jobs
    WHERE batch_id IS NULL AND user_id = k.u AND service_name = k.s AND processing_id = k.p AND metric = k.m
    LIMIT 1
) AS j;

-- name: load_records
SELECT r.*
FROM unnest($1::text[], $2::text[]) AS k(u, e)
CROSS JOIN LATERAL (
    SELECT {{record_columns}} FROM consumption_records WHERE user_id = k.u AND event_id = k.e LIMIT 1
) AS r;

-- name: load_members
SELECT m.*
FROM unnest($1::text[], $2::text[]) AS k(o, u)
CROSS JOIN LATERAL (
    SELECT {{member_columns}} FROM org_members WHERE org_id = k.o AND user_id = k.u LIMIT 1
) AS m;

-- name: load_reversals
SELECT k.n, coalesce(r.reversed, 0) AS reversed
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS k(t, i, c, n)
LEFT JOIN LATERAL (
    SELECT reversed FROM reversals WHERE {{of_wallet}} AND operation_id = k.n::uuid LIMIT 1
) AS r ON true;

-- name: load_repayments
-- Operations that changed the overdraft since an operation; a reversal has the number of the one it reversed.
SELECT k.n, o.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[]) AS k(t, i, c, seq, n)
CROSS JOIN LATERAL (
    SELECT {{operation_columns}},
           (SELECT r.seq FROM credit_operations AS r WHERE r.id = moved.reverses LIMIT 1) AS reverses_seq
    FROM credit_operations AS moved
    WHERE {{of_wallet}} AND seq > k.seq AND overdraft_after IS NOT NULL AND kind <> 'consume'
    ORDER BY seq
    LIMIT 1000000
) AS o;

-- name: load_debts
SELECT d.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS k(t, i, c, n)
CROSS JOIN LATERAL (
    SELECT {{debt_columns}} FROM debts WHERE {{of_wallet}} AND debts.operation_id = k.n::uuid LIMIT 1
) AS d;

-- name: load_filed_debts
SELECT d.*
FROM unnest($1::text[]) AS k(n)
CROSS JOIN LATERAL (
    SELECT {{debt_columns}} FROM debts WHERE debts.operation_id = k.n::uuid LIMIT 1
) AS d;

-- name: load_operations
-- Each with the others of its group.
SELECT o.*
FROM unnest($1::text[]) AS k(n)
CROSS JOIN LATERAL (
    (SELECT {{operation_columns}} FROM credit_operations WHERE credit_operations.id = k.n::uuid LIMIT 1)
    UNION ALL
    SELECT {{operation_columns}} FROM credit_operations
    WHERE credit_operations.group_id = k.n::uuid AND credit_operations.id <> k.n::uuid
) AS o;

-- name: add_allowances
INSERT INTO allowance_metrics SELECT unnest($1::text[]) ON CONFLICT DO NOTHING;

-- name: load_oldest_debts
SELECT d.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::int[]) AS k(t, i, c, depth)
CROSS JOIN LATERAL (
    SELECT {{debt_columns}} FROM debts
    WHERE {{of_wallet}} AND closed_by IS NULL AND owed IS NOT NULL
    ORDER BY created_at, debts.operation_id
    LIMIT k.depth
) AS d;

-- name: load_accounts
SELECT a.subject_type, a.subject_id
FROM unnest($1::text[], $2::text[]) AS k(t, i)
CROSS JOIN LATERAL (
    SELECT subject_type, subject_id FROM accounts WHERE subject_type = k.t AND subject_id = k.i LIMIT 1
) AS a;

-- name: create_grants
INSERT INTO grants (subject_type, subject_id, credit_type, id, quantity, remaining, held, priority, granted_at,
                    expires_at, reason, started, ended_at, end_reason, entitlement_type, consumption, unlimited, used,
                    period, renews_at, used_before, live, due_at, {{grant_details_columns}}, created_at)
SELECT t, i, c, id::uuid, quantity, remaining, held, priority, granted_at, expires_at, reason, started,
       ended_at, end_reason, entitlement_type, consumption, unlimited, used, period, renews_at, used_before, live,
       due_at, granted_by, reference_id, cost, notes, metadata::jsonb, metric, feature, product_id, tier_id,
       subscription_id, $34
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
            $8::int[], $9::timestamptz[], $10::timestamptz[], $11::text[], $12::boolean[], $13::timestamptz[],
            $14::text[], $15::text[], $16::text[], $17::boolean[], $18::bigint[], $19::text[], $20::timestamptz[],
            $21::bigint[], $22::boolean[], $23::timestamptz[], $24::text[], $25::text[], $26::bigint[], $27::text[],
            $28::text[], $29::text[], $30::text[], $31::text[], $32::text[], $33::text[])
     AS n(t, i, c, id, quantity, remaining, held, priority, granted_at, expires_at, reason, started, ended_at,
          end_reason, entitlement_type, consumption, unlimited, used, period, renews_at, used_before, live, due_at,
          granted_by, reference_id, cost, notes, metadata, metric, feature, product_id, tier_id, subscription_id);

-- name: write_changed
-- The writes of nearly every batch in one round trip; returns the number of rows of each. Guards: wallets by the loaded
-- version, grants by remaining and held credits, holds by status and held credits. Holds are JSON, which keeps the order
-- of an object's names: one value to encode instead of an array per column.
WITH written_receipts AS (
    {{put_receipts SELECT * FROM
        unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[])}}
    RETURNING 1
),
written_wallets AS (
    UPDATE credit_balances AS w
    SET balance = n.balance, held = n.held, overdraft = n.overdraft, version = n.version,
        next_due_at = n.next_due_at, updated_at = n.updated_at
    FROM unnest($7::text[], $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::bigint[],
                $13::bigint[], $14::timestamptz[], $15::timestamptz[], $16::bigint[])
         AS n(t, i, c, balance, held, overdraft, version, next_due_at, updated_at, loaded)
    CROSS JOIN LATERAL (
        SELECT ctid FROM credit_balances
        WHERE subject_type = n.t AND subject_id = n.i AND credit_type = n.c
        LIMIT 1
    ) AS found
    WHERE w.ctid = found.ctid AND w.version = n.loaded
    RETURNING 1
),
written_grants AS (
    UPDATE grants AS g
    SET remaining = n.remaining, held = n.held, used = n.used, started = n.started, ended_at = n.ended_at,
        end_reason = n.end_reason, live = n.live, due_at = n.due_at
    FROM unnest($17::text[], $18::text[], $19::text[], $20::text[], $21::bigint[], $22::bigint[],
                $23::boolean[], $24::timestamptz[], $25::text[], $26::boolean[], $27::timestamptz[],
                $28::bigint[], $29::boolean[], $30::bigint[], $31::bigint[])
         AS n(t, i, c, id, remaining, held, started, ended_at, end_reason, live, due_at, loaded, was_live,
              was_held, used)
    CROSS JOIN LATERAL (
        SELECT ctid FROM grants
        WHERE subject_type = n.t AND subject_id = n.i AND credit_type = n.c AND grants.id = n.id::uuid
        LIMIT 1
    ) AS found
    WHERE g.ctid = found.ctid AND g.remaining = n.loaded AND g.live = n.was_live AND g.held = n.was_held
    RETURNING 1
),
created_holds AS (
    INSERT INTO holds ({{hold_columns}})
    SELECT wallet ->> 0, wallet ->> 1, wallet ->> 2, id, user_id, org_id, requirements::text, taken, held,
           charged, returned, backing, status, expires_at, settled::text, closing::text, correlation_id,
           policy_version, actor, client, created_at, closed_at, costs::text, billed::text, member_month
    FROM json_to_recordset($32::text::json)
         AS n(wallet json, id uuid, user_id text, org_id text, requirements json, taken bigint, held bigint,
              charged bigint, returned bigint, backing jsonb, status text, expires_at timestamptz,
              settled json, closing json, correlation_id text, policy_version text, actor text, client text,
              created_at timestamptz, closed_at timestamptz, costs json, billed json, member_month text)
    RETURNING 1
),
changed_holds AS (
    UPDATE holds AS h
    SET held = n.held, charged = n.charged, returned = n.returned, backing = n.backing, status = n.status,
        expires_at = n.expires_at, settled = n.settled::text, billed = n.billed::text,
        closing = n.closing::text, closed_at = n.closed_at
    FROM ROWS FROM (
             json_to_recordset($33::text::json)
                 AS (wallet json, id uuid, held bigint, charged bigint, returned bigint, backing jsonb,
                     status text, expires_at timestamptz, settled json, billed json, closing json,
                     closed_at timestamptz),
             unnest($34::text[]), unnest($35::bigint[])
         ) AS n(wallet, id, held, charged, returned, backing, status, expires_at, settled, billed, closing,
                closed_at, was_status, was_held)
    CROSS JOIN LATERAL (
        SELECT ctid FROM holds
        WHERE subject_type = n.wallet ->> 0 AND subject_id = n.wallet ->> 1 AND credit_type = n.wallet ->> 2
          AND holds.id = n.id
        LIMIT 1
    ) AS found
    WHERE h.ctid = found.ctid AND h.status = n.was_status AND h.held = n.was_held
    RETURNING 1
)
SELECT (SELECT count(*) FROM written_receipts), (SELECT count(*) FROM written_wallets),
       (SELECT count(*) FROM written_grants), (SELECT count(*) FROM created_holds),
       (SELECT count(*) FROM changed_holds);

-- name: write_jobs
INSERT INTO jobs (digest, user_id, service_name, processing_id, metric, batch_id, units, outcome)
SELECT *
FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[])
ON CONFLICT DO NOTHING;

-- name: add_members
INSERT INTO org_members ({{member_columns}})
SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::bigint[], $6::text[], $7::bigint[])
ON CONFLICT DO NOTHING;

-- name: write_members
-- Only if the row is unchanged: a batch that locks another wallet of the org can have changed it.
UPDATE org_members AS m
SET joined_at = n.joined_at, left_at = n.left_at, monthly_cap = n.monthly_cap, month = n.month, drawn = n.drawn
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::bigint[], $6::text[], $7::bigint[],
            $8::text[], $9::bigint[], $10::timestamptz[], $11::bigint[])
    AS n(org_id, user_id, joined_at, left_at, monthly_cap, month, drawn, was_month, was_drawn, was_left_at, was_cap)
CROSS JOIN LATERAL (
    SELECT ctid FROM org_members WHERE org_id = n.org_id AND user_id = n.user_id LIMIT 1 FOR UPDATE
) AS found
WHERE m.ctid = found.ctid AND m.month = n.was_month AND m.drawn = n.was_drawn
  AND m.left_at IS NOT DISTINCT FROM n.was_left_at AND m.monthly_cap IS NOT DISTINCT FROM n.was_cap;

-- name: write_reversals
INSERT INTO reversals AS r (subject_type, subject_id, credit_type, operation_id, reversed)
SELECT $1, $2, $3, $4::text::uuid, $5
ON CONFLICT (subject_type, subject_id, credit_type, operation_id) DO UPDATE
SET reversed = excluded.reversed
WHERE r.reversed = $6;

-- name: open_debts
INSERT INTO debts (subject_type, subject_id, credit_type, operation_id, owed, metric, created_at, closed_by)
SELECT t, i, c, n::uuid, owed, metric, created_at, closed_by::uuid
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::timestamptz[], $8::text[])
     AS d(t, i, c, n, owed, metric, created_at, closed_by);

-- name: write_debts
UPDATE debts AS d SET credit_type = n.c, owed = n.owed, closed_by = n.closed_by::uuid
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::bigint[])
     AS n(t, i, c, id, owed, closed_by, was_c, was_owed)
CROSS JOIN LATERAL (
    SELECT ctid FROM debts
    WHERE subject_type = n.t AND subject_id = n.i AND credit_type = n.was_c AND debts.operation_id = n.id::uuid
      AND debts.owed IS NOT DISTINCT FROM n.was_owed
    LIMIT 1
) AS found
WHERE d.ctid = found.ctid AND d.closed_by IS NULL;

-- name: write_renewals
UPDATE grants AS g SET renews_at = n.renews_at, used_before = n.used_before, expires_at = n.expires_at
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bigint[], $7::timestamptz[])
    AS n(t, i, c, id, renews_at, used_before, expires_at)
CROSS JOIN LATERAL (
    SELECT ctid FROM grants
    WHERE subject_type = n.t AND subject_id = n.i AND credit_type = n.c AND grants.id = n.id::uuid
    LIMIT 1
) AS found
WHERE g.ctid = found.ctid;

-- name: write_revoke_reasons
UPDATE grants AS g SET revoke_reason = n.reason
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) AS n(t, i, c, id, reason)
CROSS JOIN LATERAL (
    SELECT ctid FROM grants
    WHERE subject_type = n.t AND subject_id = n.i AND credit_type = n.c AND grants.id = n.id::uuid
    LIMIT 1
) AS found
WHERE g.ctid = found.ctid;

-- name: open_accounts
INSERT INTO accounts (subject_type, subject_id, opened_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[])
ON CONFLICT DO NOTHING;

-- name: write_grant_totals
-- Written after the wallets: only grants change them, so other writes need not carry them.
UPDATE credit_balances AS w
SET balance_at_grant = n.balance, unlimited = n.unlimited, promised = n.promised
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
    AS n(t, i, c, balance, unlimited, promised)
CROSS JOIN LATERAL (
    SELECT ctid FROM credit_balances
    WHERE subject_type = n.t AND subject_id = n.i AND credit_type = n.c
    LIMIT 1
) AS found
WHERE w.ctid = found.ctid;

-- fragment: now
coalesce($4, statement_timestamp())

-- name: read_wallets
-- Sufficient if nothing is due. $4: a settable clock, else the database's.
SELECT w.*, {{now}} AS clock
FROM unnest($1::text[], $2::text[], $3::text[]) AS k(t, i, c)
CROSS JOIN LATERAL ({{wallets}} LIMIT 1) AS w;

-- name: read_books
-- Wallets and their due effects, of one moment: a due grant, or a due hold with a grant that backs it. $4 as above.
-- Unless $5, expiries that concern nothing else are only summed: there can be any number of them.
SELECT w.*, g.*, {{now}} AS clock, plain.credits AS expired
FROM unnest($1::text[], $2::text[], $3::text[]) AS k(t, i, c)
CROSS JOIN LATERAL ({{wallets}} LIMIT 1) AS w
CROSS JOIN LATERAL (
    SELECT coalesce(sum(remaining), 0)::bigint AS credits FROM grants
    WHERE NOT $5 AND {{of_wallet}} AND due_at <= {{now}} AND {{is_plain_expiry}}
) AS plain
LEFT JOIN LATERAL (
    SELECT b.*, h.*
    FROM (
        SELECT {{hold_columns}} FROM holds WHERE {{of_wallet}} AND status = 'open' AND expires_at <= {{now}}
    ) AS h
    LEFT JOIN LATERAL (
        SELECT found.*
        FROM jsonb_array_elements(h.backing) AS e(draw)
        CROSS JOIN LATERAL (
            SELECT {{grant_state_columns}} FROM grants WHERE {{of_wallet}} AND grants.id = (e.draw ->> 0)::uuid LIMIT 1
        ) AS found
    ) AS b ON true
    UNION ALL
    SELECT {{grant_state_columns}}, {{no_hold}} FROM grants
    WHERE {{of_wallet}} AND due_at <= {{now}} AND ($5 OR NOT {{is_plain_expiry}})
) AS g ON w.next_due_at <= {{now}};

-- name: soonest_expiries
-- Of grants that are not loaded. A started grant is due at its expiry. The index also has grants that start later, in
-- between: the worst wallet, with 10,000 of those or of one instant, takes 2 ms, others 0.1 ms.
SELECT k.t, k.i, k.c, first.due_at, lost.credits
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS k(t, i, c, now)
CROSS JOIN LATERAL (
    SELECT due_at FROM grants
    WHERE {{of_wallet}} AND due_at > k.now AND started AND expires_at = due_at
      AND remaining > held AND grants.id <> ALL ($5::text[]::uuid[])
    ORDER BY due_at
    LIMIT 1
) AS first
CROSS JOIN LATERAL (
    SELECT sum(remaining - held)::bigint AS credits FROM grants
    WHERE {{of_wallet}} AND due_at = first.due_at AND started AND expires_at = due_at
      AND grants.id <> ALL ($5::text[]::uuid[])
) AS lost;

-- name: clock
SELECT clock_timestamp();

-- name: owing
-- Sums have the same maximum as in the limiters.
SELECT k.t AS subject_type, k.i AS subject_id, k.c AS credit_type,
    (SELECT least(coalesce(sum(owed), 0), {{count_max}})::bigint FROM debts
     WHERE {{of_wallet}}
       AND closed_by IS NULL AND owed IS NOT NULL) AS owed
FROM unnest($1::text[], $2::text[], $3::text[]) AS k(t, i, c);

-- name: unpriced_work
SELECT operation_id::text FROM debts
WHERE closed_by IS NULL AND owed IS NULL AND ($1::text[] IS NULL OR metric = ANY ($1))
  AND debts.operation_id <> ALL ($2::text[]::uuid[])
ORDER BY created_at, debts.operation_id LIMIT $3;

-- name: unpriced_total
SELECT count(*) AS total FROM (SELECT 1 FROM debts WHERE closed_by IS NULL AND owed IS NULL LIMIT $1) AS d;

-- name: due_wallets
-- The clock must be constant within the statement, or no index could be used; receipts likewise. Excluded keys are
-- hashed once.
SELECT subject_type, subject_id, credit_type FROM credit_balances
WHERE next_due_at <= coalesce($1, statement_timestamp())
  AND (subject_type, subject_id, credit_type) NOT IN (SELECT * FROM unnest($3::text[], $4::text[], $5::text[]))
ORDER BY next_due_at LIMIT $2;
