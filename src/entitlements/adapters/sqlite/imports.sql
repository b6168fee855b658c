-- Named statements of the history of an older service.

-- name: add_imported_operations
INSERT INTO imported_operations ({{imported_operation_columns}}) VALUES ({{imported_operation_values}})
ON CONFLICT DO NOTHING;

-- name: known_imported_operations
SELECT count(*) FROM imported_operations WHERE (subject_type, subject_id, id) IN
    (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?));

-- name: origin_columns
SELECT name FROM pragma_table_info(?);
