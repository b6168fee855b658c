-- Grants of every type. Those that cannot be consumed have no quantity and are in their subject's wallet of credits.
ALTER TABLE credit_balances ADD COLUMN unlimited INTEGER NOT NULL DEFAULT 0 CHECK (unlimited >= 0);
ALTER TABLE credit_balances ADD COLUMN promised INTEGER NOT NULL DEFAULT 0 CHECK (promised >= 0);
-- Live unlimited grants, and the credits of scheduled grants.

ALTER TABLE grants ADD COLUMN consumption TEXT NOT NULL DEFAULT 'decremental';
ALTER TABLE grants ADD COLUMN unlimited INTEGER NOT NULL DEFAULT 0
    CHECK (unlimited IN (0, 1) AND (NOT unlimited OR (quantity = 0 AND held = 0)));
ALTER TABLE grants ADD COLUMN used INTEGER; -- null: of a version that did not count it, and not changed since
ALTER TABLE grants ADD COLUMN period TEXT CHECK (json_valid(period)); -- of renewable and accumulative grants
ALTER TABLE grants ADD COLUMN renews_at INTEGER CHECK (renews_at IS NULL OR period IS NOT NULL);
ALTER TABLE grants ADD COLUMN used_before INTEGER NOT NULL DEFAULT 0; -- before the current period
ALTER TABLE grants ADD COLUMN metric TEXT;
ALTER TABLE grants ADD COLUMN feature TEXT;
ALTER TABLE grants ADD COLUMN product_id TEXT;
ALTER TABLE grants ADD COLUMN tier_id TEXT;
ALTER TABLE grants ADD COLUMN subscription_id TEXT;
ALTER TABLE grants ADD COLUMN revoke_reason TEXT;
ALTER TABLE credit_operations ADD COLUMN context TEXT CHECK (json_valid(context));

-- Three checks are loosened in the text of the schema, as SQLite's documentation of ALTER TABLE describes it: no row
-- changes, and copying the operations could take minutes.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema
SET sql = replace(sql, 'CHECK (0 <= held AND held <= remaining AND remaining <= quantity)',
    'CHECK (0 <= held AND held <= remaining AND (remaining <= quantity OR consumption = ''accumulative''))')
WHERE type = 'table' AND name = 'grants';
UPDATE sqlite_schema
SET sql = replace(sql, 'CHECK (live = (started AND ended_at IS NULL AND remaining > 0))',
    'CHECK (live = (started AND ended_at IS NULL AND (remaining > 0 OR unlimited)))')
WHERE type = 'table' AND name = 'grants';
-- What unlimited grants pay is in the amount, not in the delta.
UPDATE sqlite_schema
SET sql = replace(sql, 'CHECK (delta = 0 OR abs(delta) = amount)', 'CHECK (abs(delta) <= amount)')
WHERE type = 'table' AND name = 'credit_operations';
PRAGMA writable_schema = RESET;

-- What a subject has: a draw changes none of these columns.
CREATE INDEX grants_had ON grants (subject_type, subject_id, entitlement_type)
    WHERE ended_at IS NULL AND (live = 1 OR started = 0 OR consumption <> 'decremental');
CREATE INDEX grants_reference ON grants (reference_id, id) WHERE reference_id IS NOT NULL;
