-- Named statements of the inbox: usage records and dead letters.

-- name: add_conflict
INSERT INTO consumption_records ({{record_columns}})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)
ON CONFLICT DO NOTHING;

-- name: add_dead_letters
INSERT INTO dead_letters (id, topic, partition, position, key, value, headers, reason, detail, died_at, state)
SELECT a::uuid, b, c, d, e, f, g, h, i, j, 'open'
FROM unnest($1::text[], $2::text[], $3::int[], $4::bigint[], $5::bytea[], $6::bytea[], $7::text[], $8::text[],
            $9::text[], $10::timestamptz[]) AS n(a, b, c, d, e, f, g, h, i, j)
ON CONFLICT DO NOTHING;

-- name: dead_letter
SELECT {{letter_columns}} FROM dead_letters WHERE id = $1::text::uuid;

-- name: close_dead_letter
UPDATE dead_letters SET state = $2, closed_at = $3 WHERE id = $1::text::uuid AND state = 'open';

-- name: note_replay
UPDATE dead_letters SET reason = $2, detail = $3 WHERE id = $1::text::uuid AND state = 'open';

-- name: open_dead_letters
SELECT count(*) AS letters FROM (SELECT 1 FROM dead_letters WHERE state = 'open' LIMIT {{letters_max}}) AS waiting;
