-- Credits set aside before work: a row for each credit type of a hold, naming the grants that back it.

CREATE TABLE holds (
    subject_type   text COLLATE "C" NOT NULL,
    subject_id     text COLLATE "C" NOT NULL,
    credit_type    text COLLATE "C" NOT NULL,
    id             uuid NOT NULL,
    user_id        text NOT NULL,
    org_id         text,
    requirements   text, -- units by metric, as JSON; none: taken for credits
    taken          bigint NOT NULL CHECK (taken BETWEEN 0 AND 1000000000000000),
    held           bigint NOT NULL,
    charged        bigint NOT NULL,
    returned       bigint NOT NULL,
    backing        jsonb NOT NULL, -- [[grant, what is still held of it], ...]
    status         text NOT NULL CHECK (status IN ('open', 'settled', 'released', 'lapsed')),
    expires_at     timestamptz NOT NULL,
    settled        text NOT NULL, -- units by metric so far, as JSON
    closing        text, -- what closed it, and its answer, as JSON
    correlation_id text NOT NULL,
    policy_version text NOT NULL,
    actor          text NOT NULL,
    client         text NOT NULL,
    created_at     timestamptz NOT NULL,
    closed_at      timestamptz,
    PRIMARY KEY (subject_type, subject_id, credit_type, id),
    CHECK (held >= 0 AND charged >= 0 AND returned >= 0 AND held + charged + returned = taken),
    CHECK (status = 'open' OR held = 0),
    CHECK ((held = 0) = (backing = '[]')),
    CHECK ((status = 'open') = (closed_at IS NULL)),
    CHECK (expires_at > created_at)
);

CREATE INDEX holds_id ON holds (id);
CREATE INDEX holds_due ON holds (subject_type, subject_id, credit_type, expires_at, id) WHERE status = 'open';

ALTER TABLE credit_operations
    ADD COLUMN hold_id uuid,
    ADD COLUMN counted bigint CHECK (counted >= 0);
