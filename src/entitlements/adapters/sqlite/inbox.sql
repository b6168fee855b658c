-- Named statements of the inbox: usage records and dead letters.

-- name: add_conflict
INSERT INTO consumption_records ({{record_columns}}) VALUES ({{record_values}}) ON CONFLICT DO NOTHING;

-- name: add_dead_letters
INSERT INTO dead_letters ({{letter_columns}}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open', NULL) ON CONFLICT DO NOTHING;

-- name: dead_letter
SELECT {{letter_columns}} FROM dead_letters WHERE id = ?;

-- name: close_dead_letter
UPDATE dead_letters SET state = ?2, closed_at = ?3 WHERE id = ?1 AND state = 'open';

-- name: note_replay
UPDATE dead_letters SET reason = ?2, detail = ?3 WHERE id = ?1 AND state = 'open';

-- name: open_dead_letters
SELECT count(*) FROM (SELECT 1 FROM dead_letters WHERE state = 'open' LIMIT {{letters_max}});
