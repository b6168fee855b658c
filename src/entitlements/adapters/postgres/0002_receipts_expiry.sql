-- Finds what is to be purged; without it every round reads the whole table.
CREATE INDEX receipts_expiry ON receipts (expires_at);
