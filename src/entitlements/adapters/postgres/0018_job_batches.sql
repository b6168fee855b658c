-- A job has a batch, empty where none is named. Its key is a digest: five long ids are more than an index row can hold.
-- Programs of the version before go on writing rows without batch and digest; such a row is the job's whatever its
-- batch, as it is to them.
ALTER TABLE jobs ADD COLUMN batch_id text COLLATE "C", ADD COLUMN digest bytea;

-- Settlements of holds name no batch; the reports that settled them may.
WITH reported AS (
    SELECT DISTINCT ON (user_id, service_name, processing_id, resource_type)
           user_id, service_name, processing_id, resource_type AS metric, batch_id
    FROM consumption_records
    WHERE service_name IS NOT NULL AND processing_id IS NOT NULL AND batch_id IS NOT NULL
      AND (outcome IN ('charged', 'free', 'failed', 'settled') OR outcome = 'duplicate' AND hold_id IS NOT NULL)
    ORDER BY user_id, service_name, processing_id, resource_type, id
),
known AS (
    SELECT user_id, service_name, processing_id, metric, coalesce(o.batch_id, r.batch_id, '') AS batch_id
    FROM jobs AS j
    LEFT JOIN (SELECT id, batch_id FROM credit_operations) AS o ON o.id = (j.outcome::jsonb ->> 'operation_id')::uuid
    LEFT JOIN reported AS r USING (user_id, service_name, processing_id, metric)
)
UPDATE jobs AS j
SET batch_id = known.batch_id,
    digest = sha256(convert_to(
        concat_ws(chr(31), j.user_id, j.service_name, j.processing_id, j.metric, known.batch_id), 'UTF8'))
FROM known
WHERE j.user_id = known.user_id AND j.service_name = known.service_name
  AND j.processing_id = known.processing_id AND j.metric = known.metric;

ALTER TABLE jobs
    DROP CONSTRAINT jobs_pkey,
    ADD CHECK ((digest IS NULL) = (batch_id IS NULL));
CREATE UNIQUE INDEX jobs_digest ON jobs (digest);
CREATE UNIQUE INDEX jobs_without_batch ON jobs (user_id, service_name, processing_id, metric) WHERE batch_id IS NULL;
-- By which programs of the version before find jobs.
CREATE INDEX jobs_user ON jobs (user_id, processing_id);
