-- The metrics that allowances were granted for. Batches read only how many there are, so that the work of other metrics
-- looks for no allowances.
CREATE TABLE allowance_metrics (metric TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;

INSERT INTO allowance_metrics
SELECT DISTINCT substr(credit_type, 7) FROM credit_balances WHERE credit_type LIKE 'units:_%';

-- The first operation of a consumption or hold that several wallets pay.
ALTER TABLE credit_operations ADD COLUMN group_id TEXT;

CREATE INDEX credit_operations_group ON credit_operations (group_id) WHERE group_id IS NOT NULL;

-- What an org paid or holds for a member in a month, of work under enforced memberships. Operations and holds say in
-- which month they count.
ALTER TABLE org_members ADD COLUMN left_at INTEGER;
ALTER TABLE org_members ADD COLUMN month TEXT NOT NULL DEFAULT '';
ALTER TABLE org_members ADD COLUMN drawn INTEGER NOT NULL DEFAULT 0 CHECK (drawn >= 0);
ALTER TABLE credit_operations ADD COLUMN member_month TEXT;
ALTER TABLE holds ADD COLUMN member_month TEXT;
