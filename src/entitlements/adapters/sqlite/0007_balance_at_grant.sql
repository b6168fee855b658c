-- What a wallet held right after its last grant: thresholds in percent are of it. Of earlier grants it is not
-- known; their wallets learn it with the next.
ALTER TABLE credit_balances ADD COLUMN balance_at_grant INTEGER NOT NULL DEFAULT 0;
