-- What each payer's authorization pays for: `purpose` is empty for a request to an
-- agent, and the group of calls for a fee of the relayer's. One record for both, so
-- that one authorization never pays twice.
CREATE TABLE spent_payments (
  chain_id     INTEGER NOT NULL,
  asset        BLOB NOT NULL,
  payer        BLOB NOT NULL,
  nonce        BLOB NOT NULL,
  purpose      BLOB NOT NULL,
  valid_before INTEGER NOT NULL,
  PRIMARY KEY (chain_id, asset, payer, nonce)
) STRICT, WITHOUT ROWID;
CREATE INDEX spent_payments_old ON spent_payments (valid_before);

INSERT INTO spent_payments (chain_id, asset, payer, nonce, purpose, valid_before)
SELECT chain_id, asset, payer, nonce, X'', iif(valid_before < 0, 9223372036854775807, valid_before) FROM payments;

-- Fees were written down without their chain: it is one of those whose books are
-- kept here. When they end was not written down either: they are kept for ever.
INSERT OR IGNORE INTO spent_payments (chain_id, asset, payer, nonce, purpose, valid_before)
SELECT chains.chain_id, substr(name, 1, 20), substr(name, 21, 20), substr(name, 41, 32), "group", 9223372036854775807
FROM relay_payments, (SELECT DISTINCT chain_id FROM books) AS chains;
DROP TABLE relay_payments;

-- When an open payment was looked at last, so that each has its turn.
ALTER TABLE payments ADD COLUMN looked_at INTEGER NOT NULL DEFAULT 0;
DROP INDEX payments_open;
CREATE INDEX payments_open ON payments (looked_at, seen_at) WHERE stage = 'reserved';
