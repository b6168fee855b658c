-- Named statements of the history of an older service.

-- name: add_imported_operations
INSERT INTO imported_operations ({{imported_operation_columns}})
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[],
                     $9::text[], $10::text[], $11::timestamptz[])
ON CONFLICT DO NOTHING;

-- name: known_imported_operations
SELECT count(*) AS known FROM imported_operations
WHERE (subject_type, subject_id, id) IN (SELECT * FROM unnest($1::text[], $2::text[], $3::text[]));

-- name: origin_columns
SELECT attname AS name FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped;
