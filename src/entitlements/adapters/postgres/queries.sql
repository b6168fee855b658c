-- Named statements. Keys come as arrays and are looked up one by one (LATERAL with LIMIT 1, OFFSET 0 or FOR UPDATE), so
-- that no plan can turn a batch into a scan of the table. Updates join by row position (ctid), which the locks keep
-- stable: with a join by key, a table that had one row when it was last analysed would be scanned for every batch.
-- Columns are selected by name, so that columns of later migrations change no result. {hold}, {record} and {letter} are
-- replaced by the lists in columns.py.

-- name: begin
-- Set per transaction, so that it also applies behind a transaction pooler.
BEGIN;
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

-- name: lock_wallets
-- In the given order, which is sorted, so that batches do not deadlock. A locked row is returned as the last
-- transaction left it; everything else must be read by later statements.
SELECT w.*, clock_timestamp() AS clock
FROM unnest($1::text[], $2::text[], $3::text[]) AS k(t, i, c)
CROSS JOIN LATERAL (
    SELECT subject_type, subject_id, credit_type, balance, held, overdraft, version, next_due_at, updated_at,
           balance_at_grant
    FROM credit_balances
    WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c
    FOR UPDATE
) AS w;

-- name: lock_wallets_skipping
SELECT w.*, clock_timestamp() AS clock
FROM unnest($1::text[], $2::text[], $3::text[]) AS k(t, i, c)
CROSS JOIN LATERAL (
    SELECT subject_type, subject_id, credit_type, balance, held, overdraft, version, next_due_at, updated_at,
           balance_at_grant
    FROM credit_balances
    WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c
    FOR UPDATE SKIP LOCKED
) AS w;

-- name: load
-- At least one row, with the active version. Its other columns are a receipt, or a live grant in burn order (one more
-- per wallet than wanted, to show whether there are more), or a part of a named hold. The holds come first and
-- determine the types of the columns.
SELECT p.version, found.*
FROM policies AS p
LEFT JOIN LATERAL (
    SELECT NULL::text, NULL::text, NULL::text, NULL::text, NULL::timestamptz, NULL::timestamptz,
           NULL::text, NULL::text, NULL::text, NULL::text, NULL::bigint, NULL::bigint, NULL::bigint, NULL::int,
           NULL::timestamptz, NULL::timestamptz, NULL::text, NULL::boolean, NULL::timestamptz, NULL::text, h.*
    FROM unnest($7::text[], $8::text[], $9::text[], $10::text[]) AS k(t, i, c, n)
    CROSS JOIN LATERAL (
        SELECT {hold} FROM holds
        WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c AND holds.id = k.n::uuid
        LIMIT 1
    ) AS h
    UNION ALL
    SELECT r.*, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, {no_hold}
    FROM unnest($1::text[], $2::text[]) AS k(c, n)
    CROSS JOIN LATERAL (
        SELECT client, key, fingerprint, outcome, created_at, expires_at FROM receipts
        WHERE client = k.c AND key = k.n
        LIMIT 1
    ) AS r
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, g.*, {no_hold}
    FROM unnest($3::text[], $4::text[], $5::text[], $6::int[]) AS k(t, i, c, depth)
    CROSS JOIN LATERAL (
        SELECT subject_type, subject_id, credit_type, id::text, quantity, remaining, held, priority,
               granted_at, expires_at, reason, started, ended_at, end_reason
        FROM grants
        WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c AND live
        ORDER BY priority, expires_at, granted_at, grants.id
        LIMIT k.depth + 1
    ) AS g
) AS found ON true
WHERE p.active;

-- name: load_fifo
SELECT p.version, found.*
FROM policies AS p
LEFT JOIN LATERAL (
    SELECT NULL::text, NULL::text, NULL::text, NULL::text, NULL::timestamptz, NULL::timestamptz,
           NULL::text, NULL::text, NULL::text, NULL::text, NULL::bigint, NULL::bigint, NULL::bigint, NULL::int,
           NULL::timestamptz, NULL::timestamptz, NULL::text, NULL::boolean, NULL::timestamptz, NULL::text, h.*
    FROM unnest($7::text[], $8::text[], $9::text[], $10::text[]) AS k(t, i, c, n)
    CROSS JOIN LATERAL (
        SELECT {hold} FROM holds
        WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c AND holds.id = k.n::uuid
        LIMIT 1
    ) AS h
    UNION ALL
    SELECT r.*, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, {no_hold}
    FROM unnest($1::text[], $2::text[]) AS k(c, n)
    CROSS JOIN LATERAL (
        SELECT client, key, fingerprint, outcome, created_at, expires_at FROM receipts
        WHERE client = k.c AND key = k.n
        LIMIT 1
    ) AS r
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, g.*, {no_hold}
    FROM unnest($3::text[], $4::text[], $5::text[], $6::int[]) AS k(t, i, c, depth)
    CROSS JOIN LATERAL (
        SELECT subject_type, subject_id, credit_type, id::text, quantity, remaining, held, priority,
               granted_at, expires_at, reason, started, ended_at, end_reason
        FROM grants
        WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c AND live
        ORDER BY priority, granted_at, grants.id
        LIMIT k.depth + 1
    ) AS g
) AS found ON true
WHERE p.active;

-- name: load_due_grants
SELECT g.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS k(t, i, c, now)
CROSS JOIN LATERAL (
    SELECT subject_type, subject_id, credit_type, id::text, quantity, remaining, held, priority, granted_at,
           expires_at, reason, started, ended_at, end_reason
    FROM grants
    WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c AND due_at <= k.now
    ORDER BY due_at, started DESC, grants.id
    LIMIT $5
) AS g;

-- name: grants_ahead
SELECT g.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS k(t, i, c, now)
CROSS JOIN LATERAL (
    SELECT subject_type, subject_id, credit_type, id::text, quantity, remaining, held, priority, granted_at,
           expires_at, reason, started, ended_at, end_reason
    FROM grants
    WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c AND due_at > k.now
    ORDER BY due_at, started DESC, grants.id
    LIMIT $5
) AS g;

-- name: due_after
-- The first due time of each wallet after those that `load_due_grants` returns.
SELECT k.t, k.i, k.c, g.due_at
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::int[]) AS k(t, i, c, now, loaded)
LEFT JOIN LATERAL (
    SELECT due_at FROM grants
    WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c AND due_at IS NOT NULL
    ORDER BY due_at, started DESC, id
    OFFSET k.loaded LIMIT 1
) AS g ON true;

-- name: load_grants_named
SELECT g.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS k(t, i, c, n)
CROSS JOIN LATERAL (
    SELECT subject_type, subject_id, credit_type, id::text, quantity, remaining, held, priority, granted_at,
           expires_at, reason, started, ended_at, end_reason
    FROM grants
    WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c AND grants.id = k.n::uuid
    LIMIT 1
) AS g;

-- name: load_due_holds
SELECT h.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS k(t, i, c, now)
CROSS JOIN LATERAL (
    SELECT {hold} FROM holds
    WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c AND status = 'open'
      AND expires_at <= k.now
    ORDER BY expires_at, holds.id
    LIMIT $5
) AS h;

-- name: holds_ahead
SELECT h.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS k(t, i, c, now)
CROSS JOIN LATERAL (
    SELECT {hold} FROM holds
    WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c AND status = 'open'
      AND expires_at > k.now
    ORDER BY expires_at, holds.id
    LIMIT $5
) AS h;

-- name: hold_due_after
-- The first lapse in each wallet after those that `load_due_holds` returns.
SELECT k.t, k.i, k.c, h.expires_at
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::int[]) AS k(t, i, c, now, loaded)
CROSS JOIN LATERAL (
    SELECT expires_at FROM holds
    WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c AND status = 'open'
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

-- name: load_reversals
SELECT k.n, coalesce(r.reversed, 0) AS reversed
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS k(t, i, c, n)
LEFT JOIN LATERAL (
    SELECT reversed FROM reversals
    WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c AND operation_id = k.n::uuid
    LIMIT 1
) AS r ON true;

-- name: load_repayments
-- Operations that changed the overdraft since an operation; a reversal has the number of the one it reversed.
SELECT k.n, o.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[]) AS k(t, i, c, seq, n)
CROSS JOIN LATERAL (
    SELECT subject_type, subject_id, credit_type, seq, id, kind, user_id, org_id, metric, quantity, amount, delta,
           balance_after, owed, draws, batch_id, consumed_from, correlation_id, operation_status, reason,
           policy_version, actor, client, reverses, hold_id, counted, created_at, effective_at, overdraft_after,
           (SELECT r.seq FROM credit_operations AS r WHERE r.id = moved.reverses LIMIT 1) AS reverses_seq
    FROM credit_operations AS moved
    WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c AND seq > k.seq
      AND overdraft_after IS NOT NULL AND kind <> 'consume'
    ORDER BY seq
    LIMIT 1000000
) AS o;

-- name: load_debts
SELECT d.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS k(t, i, c, n)
CROSS JOIN LATERAL (
    SELECT subject_type, subject_id, credit_type, operation_id::text, owed, metric, created_at,
           closed_by::text
    FROM debts
    WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c AND debts.operation_id = k.n::uuid
    LIMIT 1
) AS d;

-- name: load_filed_debts
SELECT d.*
FROM unnest($1::text[]) AS k(n)
CROSS JOIN LATERAL (
    SELECT subject_type, subject_id, credit_type, operation_id::text, owed, metric, created_at, closed_by::text
    FROM debts WHERE debts.operation_id = k.n::uuid LIMIT 1
) AS d;

-- name: load_operations
SELECT o.*
FROM unnest($1::text[]) AS k(n)
CROSS JOIN LATERAL (
    SELECT subject_type, subject_id, credit_type, seq, id, kind, user_id, org_id, metric, quantity, amount, delta,
           balance_after, owed, draws, batch_id, consumed_from, correlation_id, operation_status, reason,
           policy_version, actor, client, reverses, hold_id, counted, created_at, effective_at,
           overdraft_after
    FROM credit_operations WHERE credit_operations.id = k.n::uuid LIMIT 1
) AS o;

-- name: load_oldest_debts
SELECT d.*
FROM unnest($1::text[], $2::text[], $3::text[], $4::int[]) AS k(t, i, c, depth)
CROSS JOIN LATERAL (
    SELECT subject_type, subject_id, credit_type, operation_id::text, owed, metric, created_at,
           closed_by::text
    FROM debts
    WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c
      AND closed_by IS NULL AND owed IS NOT NULL
    ORDER BY created_at, debts.operation_id
    LIMIT k.depth
) AS d;

-- name: load_accounts
SELECT a.subject_type, a.subject_id
FROM unnest($1::text[], $2::text[]) AS k(t, i)
CROSS JOIN LATERAL (
    SELECT subject_type, subject_id FROM accounts WHERE subject_type = k.t AND subject_id = k.i LIMIT 1
) AS a;

-- name: policy_content
SELECT content FROM policies WHERE version = $1;

-- name: create_grants
INSERT INTO grants (subject_type, subject_id, credit_type, id, quantity, remaining, held, priority, granted_at,
                    expires_at, reason, started, ended_at, end_reason, live, due_at, granted_by, reference_id,
                    cost_microcents, notes, metadata, created_at)
SELECT t, i, c, id::uuid, quantity, remaining, held, priority, granted_at, expires_at, reason, started,
       ended_at, end_reason, live, due_at, granted_by, reference_id, cost, notes, metadata::jsonb, $22
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
            $8::int[], $9::timestamptz[], $10::timestamptz[], $11::text[], $12::boolean[], $13::timestamptz[],
            $14::text[], $15::boolean[], $16::timestamptz[], $17::text[], $18::text[], $19::bigint[],
            $20::text[], $21::text[])
     AS n(t, i, c, id, quantity, remaining, held, priority, granted_at, expires_at, reason, started, ended_at,
          end_reason, live, due_at, granted_by, reference_id, cost, notes, metadata);

-- name: write_changed
-- The writes of nearly every batch in one round trip; returns the number of rows of each. An expired receipt is
-- replaced, a valid one of another transaction is not. Guards: wallets by the loaded version, grants by remaining and
-- held credits, holds by status and held credits. Holds are JSON, which keeps the order of an object's names: one value
-- to encode instead of an array per column.
WITH written_receipts AS (
    INSERT INTO receipts AS r (client, key, fingerprint, outcome, created_at, expires_at)
    SELECT *
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[])
    ON CONFLICT (client, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, outcome = excluded.outcome, created_at = excluded.created_at,
        expires_at = excluded.expires_at
    WHERE r.expires_at <= excluded.created_at
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
    SET remaining = n.remaining, held = n.held, started = n.started, ended_at = n.ended_at,
        end_reason = n.end_reason, live = n.live, due_at = n.due_at
    FROM unnest($17::text[], $18::text[], $19::text[], $20::text[], $21::bigint[], $22::bigint[],
                $23::boolean[], $24::timestamptz[], $25::text[], $26::boolean[], $27::timestamptz[],
                $28::bigint[], $29::boolean[], $30::bigint[])
         AS n(t, i, c, id, remaining, held, started, ended_at, end_reason, live, due_at, loaded, was_live,
              was_held)
    CROSS JOIN LATERAL (
        SELECT ctid FROM grants
        WHERE subject_type = n.t AND subject_id = n.i AND credit_type = n.c AND grants.id = n.id::uuid
        LIMIT 1
    ) AS found
    WHERE g.ctid = found.ctid AND g.remaining = n.loaded AND g.live = n.was_live AND g.held = n.was_held
    RETURNING 1
),
created_holds AS (
    INSERT INTO holds (subject_type, subject_id, credit_type, id, user_id, org_id, requirements, taken, held,
                       charged, returned, backing, status, expires_at, settled, closing, correlation_id,
                       policy_version, actor, client, created_at, closed_at, costs, billed)
    SELECT wallet ->> 0, wallet ->> 1, wallet ->> 2, id, user_id, org_id, requirements::text, taken, held,
           charged, returned, backing, status, expires_at, settled::text, closing::text, correlation_id,
           policy_version, actor, client, created_at, closed_at, costs::text, billed::text
    FROM json_to_recordset($31::text::json)
         AS n(wallet json, id uuid, user_id text, org_id text, requirements json, taken bigint, held bigint,
              charged bigint, returned bigint, backing jsonb, status text, expires_at timestamptz,
              settled json, closing json, correlation_id text, policy_version text, actor text, client text,
              created_at timestamptz, closed_at timestamptz, costs json, billed json)
    RETURNING 1
),
changed_holds AS (
    UPDATE holds AS h
    SET held = n.held, charged = n.charged, returned = n.returned, backing = n.backing, status = n.status,
        expires_at = n.expires_at, settled = n.settled::text, billed = n.billed::text,
        closing = n.closing::text, closed_at = n.closed_at
    FROM ROWS FROM (
             json_to_recordset($32::text::json)
                 AS (wallet json, id uuid, held bigint, charged bigint, returned bigint, backing jsonb,
                     status text, expires_at timestamptz, settled json, billed json, closing json,
                     closed_at timestamptz),
             unnest($33::text[]), unnest($34::bigint[])
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

-- name: open_accounts
INSERT INTO accounts (subject_type, subject_id, opened_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[])
ON CONFLICT DO NOTHING;

-- name: write_balances_at_grant
-- Written after the wallets: only grants change it, so other writes need not carry it.
UPDATE credit_balances AS w
SET balance_at_grant = n.balance
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS n(t, i, c, balance)
CROSS JOIN LATERAL (
    SELECT ctid FROM credit_balances
    WHERE subject_type = n.t AND subject_id = n.i AND credit_type = n.c
    LIMIT 1
) AS found
WHERE w.ctid = found.ctid;

-- name: write_audit
INSERT INTO audit_log (id, at, actor, client, action, subject_type, subject_id, reason, detail, correlation_id)
VALUES ($1::text::uuid, $2, $3, $4, $5, $6, $7, $8, $9::text::jsonb, $10);

-- name: receipt
SELECT client, key, fingerprint, outcome, created_at, expires_at FROM receipts WHERE client = $1 AND key = $2;

-- name: write_receipt
-- For an act outside of the ledger. An expired receipt is replaced, a valid one of another transaction is not.
INSERT INTO receipts AS r (client, key, fingerprint, outcome, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (client, key) DO UPDATE
SET fingerprint = excluded.fingerprint, outcome = excluded.outcome, created_at = excluded.created_at,
    expires_at = excluded.expires_at
WHERE r.expires_at <= excluded.created_at;

-- name: read_wallets
-- Sufficient if nothing is due. $4: a settable clock, else the database's.
SELECT w.*, coalesce($4, statement_timestamp()) AS clock
FROM unnest($1::text[], $2::text[], $3::text[]) AS k(t, i, c)
CROSS JOIN LATERAL (
    SELECT subject_type, subject_id, credit_type, balance, held, overdraft, version, next_due_at, updated_at,
           balance_at_grant
    FROM credit_balances
    WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c
    LIMIT 1
) AS w;

-- name: read_books
-- Wallets and their due effects, of one moment: a due grant, or a due hold with a grant that backs it. $4 as above.
SELECT w.*, g.*, coalesce($4, statement_timestamp()) AS clock
FROM unnest($1::text[], $2::text[], $3::text[]) AS k(t, i, c)
CROSS JOIN LATERAL (
    SELECT subject_type, subject_id, credit_type, balance, held, overdraft, version, next_due_at, updated_at,
           balance_at_grant
    FROM credit_balances
    WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c
    LIMIT 1
) AS w
LEFT JOIN LATERAL (
    SELECT b.*, h.*
    FROM (
        SELECT {hold} FROM holds
        WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c AND status = 'open'
          AND expires_at <= coalesce($4, statement_timestamp())
    ) AS h
    LEFT JOIN LATERAL (
        SELECT found.*
        FROM jsonb_array_elements(h.backing) AS e(draw)
        CROSS JOIN LATERAL (
            SELECT id::text, quantity, remaining, held, priority, granted_at, expires_at, reason, started,
                   ended_at, end_reason
            FROM grants
            WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c
              AND grants.id = (e.draw ->> 0)::uuid
            LIMIT 1
        ) AS found
    ) AS b ON true
    UNION ALL
    SELECT id::text, quantity, remaining, held, priority, granted_at, expires_at, reason, started, ended_at,
           end_reason, {no_hold}
    FROM grants
    WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c
      AND due_at <= coalesce($4, statement_timestamp())
) AS g ON w.next_due_at <= coalesce($4, statement_timestamp());

-- name: soonest_expiries
-- A started grant is due at its expiry. The index also has grants that start later, in between: the worst wallet, with
-- 10,000 of those or of one instant, takes 2 ms, others 0.1 ms.
SELECT k.t, k.i, k.c, first.due_at, lost.credits
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS k(t, i, c, now)
CROSS JOIN LATERAL (
    SELECT due_at FROM grants
    WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c AND due_at > k.now AND started
      AND remaining > held
    ORDER BY due_at
    LIMIT 1
) AS first
CROSS JOIN LATERAL (
    SELECT sum(remaining - held)::bigint AS credits FROM grants
    WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c AND due_at = first.due_at AND started
) AS lost;

-- name: clock
SELECT clock_timestamp();

-- name: takes_writes
SELECT current_setting('transaction_read_only') = 'off' AS takes_writes;

-- name: pin_plans
-- For listings: plans use the index of the ORDER BY, whatever the table's size when they were made.
SET LOCAL jit = off;
SET LOCAL plan_cache_mode = force_generic_plan;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_sort = off;

-- name: operation
SELECT subject_type, subject_id, credit_type, seq, id, kind, user_id, org_id, metric, quantity, amount, delta,
       balance_after, owed, draws, batch_id, consumed_from, correlation_id, operation_status, reason, policy_version,
       actor, client, reverses, hold_id, counted, created_at, effective_at, overdraft_after
FROM credit_operations WHERE id = $1::text::uuid;

-- name: operation_ids
SELECT id::text FROM credit_operations WHERE id BETWEEN $1::text::uuid AND $2::text::uuid LIMIT 2;

-- name: grant
SELECT subject_type, subject_id, credit_type, id::text, quantity, remaining, held, priority, granted_at,
       expires_at, reason, started, ended_at, end_reason
FROM grants WHERE grants.id = $1::text::uuid;

-- name: holds_named
-- Ordered and limited, so that it uses the index, whatever the table's size when it was planned.
SELECT h.*
FROM unnest($1::text[]) AS k(n)
CROSS JOIN LATERAL (SELECT {hold} FROM holds WHERE holds.id = k.n::uuid ORDER BY holds.id LIMIT 1000) AS h;

-- name: wallet_keys
SELECT subject_type, subject_id, credit_type FROM credit_balances
WHERE subject_type = $1 AND subject_id = $2 ORDER BY credit_type;

-- name: orgs_of
SELECT org_id FROM org_members WHERE user_id = $1 ORDER BY org_id LIMIT $2;

-- name: debt
SELECT subject_type, subject_id, credit_type, operation_id::text, owed, metric, created_at, closed_by::text
FROM debts WHERE debts.operation_id = $1::text::uuid;

-- name: owing
-- Sums have the same maximum as in the limiters.
SELECT k.t AS subject_type, k.i AS subject_id, k.c AS credit_type,
    (SELECT least(coalesce(sum(owed), 0), 9007199254740991)::bigint FROM debts
     WHERE subject_type = k.t AND subject_id = k.i AND credit_type = k.c
       AND closed_by IS NULL AND owed IS NOT NULL) AS owed
FROM unnest($1::text[], $2::text[], $3::text[]) AS k(t, i, c);

-- name: unpriced_work
SELECT operation_id::text FROM debts
WHERE closed_by IS NULL AND owed IS NULL AND ($1::text[] IS NULL OR metric = ANY ($1))
  AND debts.operation_id <> ALL ($2::text[]::uuid[])
ORDER BY created_at, debts.operation_id LIMIT $3;

-- name: unpriced_total
SELECT count(*) AS total FROM (SELECT 1 FROM debts WHERE closed_by IS NULL AND owed IS NULL LIMIT $1) AS d;

-- name: debts
-- As below, with closed debts, which have their own index.
SELECT subject_type, subject_id, credit_type, operation_id::text, owed, metric, created_at, closed_by::text
FROM (
    (SELECT subject_type, subject_id, credit_type, operation_id, owed, metric, created_at, closed_by FROM debts
     WHERE closed_by IS NULL
       AND (created_at, operation_id)
         > (coalesce($1, '-infinity'::timestamptz), coalesce($2::text, '00000000-0000-0000-0000-000000000000')::uuid)
     ORDER BY created_at, operation_id LIMIT $3)
    UNION ALL
    (SELECT subject_type, subject_id, credit_type, operation_id, owed, metric, created_at, closed_by FROM debts
     WHERE closed_by IS NOT NULL
       AND (created_at, operation_id)
         > (coalesce($1, '-infinity'::timestamptz), coalesce($2::text, '00000000-0000-0000-0000-000000000000')::uuid)
     ORDER BY created_at, operation_id LIMIT $3)
) AS d
ORDER BY created_at, d.operation_id LIMIT $3;

-- name: debts_open
-- The index starts after the cursor; without a cursor, before every debt.
SELECT subject_type, subject_id, credit_type, operation_id::text, owed, metric, created_at, closed_by::text
FROM debts
WHERE debts.closed_by IS NULL
  AND (created_at, debts.operation_id)
    > (coalesce($1, '-infinity'::timestamptz), coalesce($2::text, '00000000-0000-0000-0000-000000000000')::uuid)
ORDER BY created_at, debts.operation_id LIMIT $3;

-- name: due_wallets
-- The clock must be constant within the statement, or no index could be used; receipts likewise. Excluded keys are
-- hashed once.
SELECT subject_type, subject_id, credit_type FROM credit_balances
WHERE next_due_at <= coalesce($1, statement_timestamp())
  AND (subject_type, subject_id, credit_type) NOT IN (SELECT * FROM unnest($3::text[], $4::text[], $5::text[]))
ORDER BY next_due_at LIMIT $2;

-- name: api_key
SELECT id::text, name, role, prefix, secret_sha256, created_at, revoked_at, last_used_at
FROM api_keys WHERE secret_sha256 = $1;

-- name: api_keys
SELECT id::text, name, role, prefix, secret_sha256, created_at, revoked_at, last_used_at
FROM api_keys ORDER BY created_at, api_keys.id;

-- name: add_api_key
INSERT INTO api_keys (id, name, role, prefix, secret_sha256, created_at)
VALUES ($1::text::uuid, $2, $3, $4, $5, $6);

-- name: revoke_api_key
UPDATE api_keys SET revoked_at = $2 WHERE id = $1::text::uuid AND revoked_at IS NULL;

-- name: touch_api_keys
UPDATE api_keys AS k SET last_used_at = n.at
FROM unnest($1::text[], $2::timestamptz[]) AS n(id, at)
WHERE k.id = n.id::uuid AND (k.last_used_at IS NULL OR k.last_used_at < n.at);

-- name: lock_policies
-- Waits for running batches and blocks later ones; reads continue. Its timeout is shorter than that of batches: if a
-- batch hangs, this statement fails and is retried, and no other batch fails. Programs of the previous version lock the
-- policies table itself; this statement does too where the role may.
SET LOCAL lock_timeout = '200ms';
DO $$ BEGIN
    IF has_table_privilege('policies', 'UPDATE') THEN
        LOCK TABLE policies IN EXCLUSIVE MODE;
    END IF;
END $$;
LOCK TABLE policy_lock IN EXCLUSIVE MODE;

-- name: policy_known
SELECT 1 FROM policies WHERE version = $1;

-- name: retire_policies
UPDATE policies SET active = false WHERE active;

-- name: activate_policy
-- The time is taken under the lock: it is later than every operation of the previous version, even if the clock was set
-- back.
INSERT INTO policies (version, content, activated_at, actor, active)
SELECT $1, $2, greatest(coalesce($4, clock_timestamp()), max(activated_at) + interval '1 microsecond'), $3, true
FROM policies;

-- name: active_policy
SELECT version FROM policies WHERE active;

-- name: policies
SELECT version, activated_at, actor, active FROM policies
WHERE starts_with(version, $1) AND ($2::timestamptz IS NULL OR activated_at < $2)
ORDER BY activated_at DESC LIMIT $3;

-- name: past_uses
-- Slices are counted as in core/windows.py; sums have the same maximum as in the limiters. A request of many
-- adjustments counts once: what one commit adjusts for one operator is one use.
WITH resets AS (
    SELECT subject_id, detail ->> 'metric' AS metric, max(at) AS at
    FROM audit_log WHERE at >= $3 AND action = 'rate_limit.reset' GROUP BY 1, 2
), used AS (
    SELECT user_id, org_id, metric, coalesce(counted, quantity) AS units, created_at
    FROM credit_operations
    WHERE created_at >= $3 AND created_at < $4 AND kind IN ('consume', 'hold')
      AND operation_status = 'completed'
    UNION ALL
    SELECT DISTINCT actor, NULL, 'credit_adjustment', 1, created_at
    FROM credit_operations
    WHERE created_at >= $3 AND created_at < $4 AND kind = 'manual_adjustment'
      AND operation_status = 'completed'
)
SELECT used.user_id, used.org_id, used.metric,
       floor(extract(epoch FROM created_at) * 1000)::bigint * 60 / ($2::bigint * 1000) AS slice,
       least(sum(units), 9007199254740991)::bigint AS units,
       coalesce(created_at > u.at, true) AS of_user, coalesce(created_at > o.at, true) AS of_org
FROM used
LEFT JOIN resets AS u ON u.subject_id = used.user_id AND u.metric = used.metric
LEFT JOIN resets AS o ON o.subject_id = used.org_id AND o.metric = used.metric
WHERE used.metric = ANY($1::text[])
GROUP BY used.user_id, used.org_id, used.metric, slice, of_user, of_org
ORDER BY slice;

-- name: announce_limiter
INSERT INTO lone_limiters (name, expires_at)
VALUES ($1, coalesce($2, clock_timestamp()) + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE SET expires_at = excluded.expires_at;

-- name: limiters_gone
-- Also deletes leases that end later than possible: they were written before the clock was set back.
DELETE FROM lone_limiters WHERE name IN (
    SELECT name FROM lone_limiters
    WHERE expires_at <= coalesce($1, clock_timestamp())
       OR expires_at > coalesce($1, clock_timestamp()) + make_interval(secs => $2)
    FOR UPDATE SKIP LOCKED
);

-- name: other_limiters
SELECT count(*) AS limiters FROM lone_limiters
WHERE name <> $1 AND expires_at > coalesce($2, clock_timestamp());

-- name: add_limit_exceeded
INSERT INTO limit_exceeded (subject_type, subject_id, metric, minute, event_id, event_type, key,
                            payload, created_at)
SELECT a, b, c, d, e::uuid, f, g, h, i
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[],
            $8::text[], $9::timestamptz[]) AS n(a, b, c, d, e, f, g, h, i)
ON CONFLICT DO NOTHING;

-- name: purge_limit_exceeded
DELETE FROM limit_exceeded WHERE (subject_type, subject_id, metric, minute) IN (
    SELECT subject_type, subject_id, metric, minute FROM limit_exceeded
    WHERE created_at < coalesce($1, statement_timestamp()) - interval '1 day'
    ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
);

-- name: purge_receipts
-- Skips rows that another process is deleting: two orders of deletion would deadlock.
DELETE FROM receipts WHERE (client, key) IN (
    SELECT client, key FROM receipts WHERE expires_at <= coalesce($1, statement_timestamp())
    ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
);

-- name: load_records
SELECT r.*
FROM unnest($1::text[], $2::text[]) AS k(u, e)
CROSS JOIN LATERAL (
    SELECT {record} FROM consumption_records WHERE user_id = k.u AND event_id = k.e LIMIT 1
) AS r;

-- name: load_members
SELECT m.org_id, m.user_id
FROM unnest($1::text[], $2::text[]) AS k(o, u)
CROSS JOIN LATERAL (
    SELECT org_id, user_id FROM org_members WHERE org_id = k.o AND user_id = k.u LIMIT 1
) AS m;

-- name: add_members
INSERT INTO org_members (org_id, user_id, joined_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[])
ON CONFLICT DO NOTHING;

-- name: add_conflict
INSERT INTO consumption_records (id, user_id, event_id, event_type, source_service, org_id, resource_type, units,
                                 service_name, processing_id, batch_id, hold_id, outcome, operation_id, credits,
                                 owed, reason, correlation_id, trace_id, reported_at, consumed_at, recorded_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)
ON CONFLICT DO NOTHING;

-- name: add_dead_letters
INSERT INTO dead_letters (id, topic, partition, position, key, value, headers, reason, detail, died_at, state)
SELECT a::uuid, b, c, d, e, f, g, h, i, j, 'open'
FROM unnest($1::text[], $2::text[], $3::int[], $4::bigint[], $5::bytea[], $6::bytea[], $7::text[], $8::text[],
            $9::text[], $10::timestamptz[]) AS n(a, b, c, d, e, f, g, h, i, j)
ON CONFLICT DO NOTHING;

-- name: dead_letter
SELECT {letter} FROM dead_letters WHERE id = $1::text::uuid;

-- name: close_dead_letter
UPDATE dead_letters SET state = $2, closed_at = $3 WHERE id = $1::text::uuid AND state = 'open';

-- name: note_replay
UPDATE dead_letters SET reason = $2, detail = $3 WHERE id = $1::text::uuid AND state = 'open';

-- name: open_dead_letters
SELECT count(*) AS letters FROM (SELECT 1 FROM dead_letters WHERE state = 'open' LIMIT 1000) AS waiting;
