-- A job has a batch, empty where none is named. Programs of the version before go on writing rows without one; such a
-- row is the job's whatever its batch, as it is to them.
CREATE TABLE jobs_with_batches (
    user_id       TEXT NOT NULL,
    service_name  TEXT NOT NULL,
    processing_id TEXT NOT NULL,
    metric        TEXT NOT NULL,
    units         INTEGER NOT NULL CHECK (units >= 0),
    outcome       TEXT NOT NULL,
    batch_id      TEXT
) STRICT;

-- Settlements of holds name no batch; the reports that settled them may.
INSERT INTO jobs_with_batches (user_id, service_name, processing_id, metric, units, outcome, batch_id)
SELECT j.user_id, j.service_name, j.processing_id, j.metric, j.units, j.outcome, coalesce(o.batch_id, r.batch_id, '')
FROM jobs AS j
LEFT JOIN credit_operations AS o ON o.id = j.outcome ->> 'operation_id'
LEFT JOIN (
    SELECT user_id, service_name, processing_id, resource_type, batch_id, min(id)
    FROM consumption_records
    WHERE service_name IS NOT NULL AND processing_id IS NOT NULL AND batch_id IS NOT NULL
      AND (outcome IN ('charged', 'free', 'failed', 'settled') OR outcome = 'duplicate' AND hold_id IS NOT NULL)
    GROUP BY user_id, service_name, processing_id, resource_type
) AS r ON r.user_id = j.user_id AND r.service_name = j.service_name
    AND r.processing_id = j.processing_id AND r.resource_type = j.metric;

DROP TABLE jobs;
ALTER TABLE jobs_with_batches RENAME TO jobs;
CREATE UNIQUE INDEX jobs_key ON jobs (user_id, service_name, processing_id, metric, batch_id);
CREATE UNIQUE INDEX jobs_without_batch ON jobs (user_id, service_name, processing_id, metric) WHERE batch_id IS NULL;
