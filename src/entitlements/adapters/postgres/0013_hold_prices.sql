-- What a hold's metrics cost when it was taken, and what its parts were charged so far. Holds of earlier programs have
-- neither: their units are priced by the policy alone.
ALTER TABLE holds
    ADD COLUMN costs text NOT NULL DEFAULT '{}', -- by metric, as JSON: {"credits", "credit_type", "per"}
    ADD COLUMN billed text NOT NULL DEFAULT '{}'; -- by metric, as JSON: [credit type, units, credits]
