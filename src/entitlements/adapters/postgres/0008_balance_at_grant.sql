-- What a wallet held right after its last grant: thresholds in percent are of it. Of earlier grants it is not
-- known; their wallets learn it with the next. No check, which would read the whole table under a lock.
ALTER TABLE credit_balances ADD COLUMN balance_at_grant bigint NOT NULL DEFAULT 0;
