-- Limits that were exceeded, once for each subject, metric and minute: events without an operation.

CREATE TABLE limit_exceeded (
    subject_type text COLLATE "C" NOT NULL CHECK (subject_type IN ('org', 'user')),
    subject_id   text COLLATE "C" NOT NULL,
    metric       text COLLATE "C" NOT NULL,
    minute       bigint NOT NULL CHECK (minute > 0), -- since 1970
    event_id     uuid NOT NULL,
    event_type   text NOT NULL,
    key          text NOT NULL,
    payload      text NOT NULL,
    created_at   timestamptz NOT NULL,
    published_at timestamptz,
    PRIMARY KEY (subject_type, subject_id, metric, minute)
);

CREATE INDEX limit_exceeded_created ON limit_exceeded (created_at);
CREATE INDEX limit_exceeded_unpublished ON limit_exceeded (created_at) WHERE published_at IS NULL;
