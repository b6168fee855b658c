-- Named statements of committed state: reads by id, receipts, and the audit log.

-- name: operation
SELECT {{operation_columns}} FROM credit_operations WHERE id = $1::text::uuid;

-- name: operation_ids
SELECT id::text FROM credit_operations WHERE id BETWEEN $1::text::uuid AND $2::text::uuid LIMIT 2;

-- name: grant
SELECT {{stored_grant_columns}} FROM grants WHERE grants.id = $1::text::uuid;

-- name: grant_ids
SELECT id::text FROM grants WHERE id BETWEEN $1::text::uuid AND $2::text::uuid LIMIT 2;

-- name: current_grants
-- Grants of subjects that give something, or will. $5: a settable clock, else the database's.
SELECT g.*
FROM unnest($1::text[], $2::text[], $3::text[]) AS k(t, i, kind)
CROSS JOIN LATERAL (
    SELECT {{stored_grant_columns}} FROM grants
    WHERE subject_type = k.t AND subject_id = k.i AND entitlement_type = k.kind
      AND ended_at IS NULL AND (live OR NOT started OR consumption <> 'decremental')
      AND (expires_at IS NULL OR expires_at > coalesce($5, statement_timestamp()))
    ORDER BY priority, expires_at, granted_at, grants.id
    LIMIT $4
) AS g;

-- name: used_totals
SELECT credit_type, sum(coalesce(used, quantity - remaining))::bigint AS used FROM grants
WHERE subject_type = $1 AND subject_id = $2 AND consumption <> 'none'
GROUP BY credit_type ORDER BY credit_type;

-- name: holds_named
-- Ordered and limited, so that it uses the index, whatever the table's size when it was planned.
SELECT h.*
FROM unnest($1::text[]) AS k(n)
CROSS JOIN LATERAL (SELECT {{hold_columns}} FROM holds WHERE holds.id = k.n::uuid ORDER BY holds.id LIMIT 1000) AS h;

-- name: wallet_keys
SELECT subject_type, subject_id, credit_type FROM credit_balances
WHERE subject_type = $1 AND subject_id = $2 ORDER BY credit_type;

-- name: members_of
SELECT {{member_columns}} FROM org_members
WHERE org_id = $1 AND user_id > $2 AND left_at IS NULL ORDER BY user_id LIMIT $3;

-- name: orgs_of
SELECT org_id FROM org_members WHERE user_id = $1 AND left_at IS NULL ORDER BY org_id LIMIT $2;

-- name: debt
SELECT {{debt_columns}} FROM debts WHERE debts.operation_id = $1::text::uuid;

-- fragment: debts_after
-- The index starts after the cursor; without a cursor, before every debt.
SELECT {{debt_columns}}, operation_id AS place FROM debts
WHERE debts.closed_by {{}}
  AND (created_at, debts.operation_id)
    > (coalesce($1, '-infinity'::timestamptz), coalesce($2::text, '00000000-0000-0000-0000-000000000000')::uuid)
ORDER BY created_at, debts.operation_id LIMIT $3

-- name: debts_open
{{debts_after IS NULL}};

-- name: debts
-- Closed debts have their own index.
SELECT * FROM (({{debts_after IS NULL}}) UNION ALL ({{debts_after IS NOT NULL}})) AS d
ORDER BY created_at, place LIMIT $3;

-- name: receipt
SELECT {{receipt_columns}} FROM receipts WHERE client = $1 AND key = $2;

-- name: receipts
SELECT {{receipt_columns}} FROM receipts WHERE client = $1 AND key = ANY ($2::text[]);

-- fragment: put_receipts
-- An expired receipt is replaced, a valid one of another transaction is not.
INSERT INTO receipts AS r ({{receipt_columns}})
{{}}
ON CONFLICT (client, key) DO UPDATE
SET fingerprint = excluded.fingerprint, outcome = excluded.outcome, created_at = excluded.created_at,
    expires_at = excluded.expires_at
WHERE r.expires_at <= excluded.created_at

-- name: write_receipt
-- For an act outside of the ledger.
{{put_receipts VALUES ($1, $2, $3, $4, $5, $6)}};

-- name: purge_receipts
-- Skips rows that another process is deleting: two orders of deletion would deadlock.
DELETE FROM receipts WHERE (client, key) IN (
    SELECT client, key FROM receipts WHERE expires_at <= coalesce($1, statement_timestamp())
    ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
);

-- name: write_audit
INSERT INTO audit_log ({{audit_columns}})
VALUES ($1::text::uuid, $2, $3, $4, $5, $6, $7, $8, $9::text::jsonb, $10);
