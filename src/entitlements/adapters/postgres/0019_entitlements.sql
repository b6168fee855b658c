-- Grants of every type. Those that cannot be consumed have no quantity and are in their subject's wallet of credits.
-- Programs of the version before write neither these columns nor grants of other types.
ALTER TABLE credit_balances
    ADD COLUMN unlimited bigint NOT NULL DEFAULT 0 CHECK (unlimited >= 0), -- live unlimited grants
    ADD COLUMN promised bigint NOT NULL DEFAULT 0 CHECK (promised >= 0); -- credits of scheduled grants

ALTER TABLE grants
    ADD COLUMN consumption text NOT NULL DEFAULT 'decremental',
    ADD COLUMN unlimited boolean NOT NULL DEFAULT false,
    ADD COLUMN used bigint, -- null: of a version that did not count it, and not changed since
    ADD COLUMN period text, -- of renewable and accumulative grants, as JSON
    ADD COLUMN renews_at timestamptz,
    ADD COLUMN used_before bigint NOT NULL DEFAULT 0, -- before the current period
    ADD COLUMN metric text,
    ADD COLUMN feature text,
    ADD COLUMN product_id text,
    ADD COLUMN tier_id text,
    ADD COLUMN subscription_id text,
    ADD COLUMN revoke_reason text,
    DROP CONSTRAINT grants_check,
    ADD CONSTRAINT grants_remaining CHECK (
        0 <= held AND held <= remaining AND (remaining <= quantity OR consumption = 'accumulative')
    ) NOT VALID,
    ADD CONSTRAINT grants_renewals CHECK (renews_at IS NULL OR period IS NOT NULL) NOT VALID,
    DROP CONSTRAINT grants_check2,
    ADD CONSTRAINT grants_live CHECK (live = (started AND ended_at IS NULL AND (remaining > 0 OR unlimited))) NOT VALID,
    ADD CONSTRAINT grants_unlimited CHECK (NOT unlimited OR (quantity = 0 AND held = 0)) NOT VALID;

-- What a subject has: a draw changes none of these columns.
CREATE INDEX grants_had ON grants (subject_type, subject_id, entitlement_type)
    WHERE ended_at IS NULL AND (live OR NOT started OR consumption <> 'decremental');
CREATE INDEX grants_reference ON grants (reference_id, id) WHERE reference_id IS NOT NULL;

-- What unlimited grants pay is in the amount, not in the delta. Existing rows satisfy a stricter rule.
ALTER TABLE credit_operations
    ADD COLUMN context text,
    DROP CONSTRAINT credit_operations_check,
    ADD CONSTRAINT credit_operations_delta CHECK (abs(delta) <= amount) NOT VALID;
