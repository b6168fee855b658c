-- Named statements of committed state: reads by id, receipts, and the audit log.

-- name: operation
SELECT {{operation_columns}} FROM credit_operations WHERE id = ?;

-- name: operation_ids
SELECT id FROM credit_operations WHERE id BETWEEN ? AND ? LIMIT 2;

-- name: grant
SELECT {{stored_grant_columns}} FROM grants WHERE id = ?;

-- name: grant_ids
SELECT id FROM grants WHERE id BETWEEN ? AND ? LIMIT 2;

-- name: current_grants
-- Grants of a subject that give something, or will.
SELECT {{stored_grant_columns}} FROM grants
WHERE subject_type = ? AND subject_id = ? AND entitlement_type = ?
  AND ended_at IS NULL AND (live = 1 OR started = 0 OR consumption <> 'decremental')
  AND (expires_at IS NULL OR expires_at > ?)
ORDER BY priority, coalesce(expires_at, 253402300799999999), granted_at, id
LIMIT ?;

-- name: used_totals
SELECT credit_type, sum(coalesce(used, quantity - remaining)) AS used FROM grants
WHERE subject_type = ? AND subject_id = ? AND consumption <> 'none'
GROUP BY credit_type ORDER BY credit_type;

-- name: holds_named
SELECT {{hold_columns}} FROM holds WHERE id = ?;

-- name: wallet_keys
SELECT subject_type, subject_id, credit_type FROM credit_balances
WHERE subject_type = ? AND subject_id = ? ORDER BY credit_type;

-- name: members_of
SELECT {{member_columns}} FROM org_members
WHERE org_id = ?1 AND user_id > ?2 AND left_at IS NULL ORDER BY user_id LIMIT ?3;

-- name: orgs_of
SELECT org_id FROM org_members WHERE user_id = ? AND left_at IS NULL ORDER BY org_id LIMIT ?;

-- name: debt
SELECT {{debt_columns}} FROM debts WHERE operation_id = ?;

-- fragment: debts_after
SELECT {{debt_columns}} FROM debts WHERE closed_by {{}} AND (created_at, operation_id) > (?1, ?2)
ORDER BY created_at, operation_id LIMIT ?3

-- name: debts_open
{{debts_after IS NULL}};

-- name: debts
-- Closed debts have their own index.
SELECT * FROM ({{debts_after IS NULL}}) UNION ALL SELECT * FROM ({{debts_after IS NOT NULL}})
ORDER BY created_at, operation_id LIMIT ?3;

-- name: receipt
SELECT {{receipt_columns}} FROM receipts WHERE client = ? AND key = ?;

-- name: receipts
SELECT {{receipt_columns}} FROM receipts WHERE client = ? AND key IN (SELECT value FROM json_each(?));

-- name: write_receipt
-- An expired receipt is replaced by a new one; a valid one is not.
INSERT INTO receipts ({{receipt_columns}}) VALUES ({{receipt_values}})
ON CONFLICT DO UPDATE SET fingerprint = excluded.fingerprint, outcome = excluded.outcome,
    created_at = excluded.created_at, expires_at = excluded.expires_at
WHERE expires_at <= excluded.created_at;

-- name: purge_receipts
DELETE FROM receipts WHERE (client, key) IN
    (SELECT client, key FROM receipts WHERE expires_at <= ? ORDER BY expires_at LIMIT ?);

-- name: write_audit
INSERT INTO audit_log ({{audit_columns}}) VALUES ({{audit_values}});
