-- A holder may have several live runs, as many as its tier allows: each has a slot of its own.
ALTER TABLE runs ADD COLUMN slot INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN tier_agents INTEGER NOT NULL DEFAULT 1;
DROP INDEX runs_live;
-- One live run in a slot of a wallet, whatever races.
CREATE UNIQUE INDEX runs_live ON runs (wallet, slot) WHERE ended_at IS NULL;

-- What wallets let programs do in their names. Of a key only the SHA-256 is kept; `id` is the
-- part of it that is no secret.
CREATE TABLE api_keys (
  id          INTEGER PRIMARY KEY,
  wallet      BLOB NOT NULL,
  name        TEXT,
  form        TEXT NOT NULL,
  scope       TEXT NOT NULL,
  digest      BLOB NOT NULL,
  created_at  INTEGER NOT NULL,
  expires_at  INTEGER NOT NULL,
  used_at     INTEGER,
  idempotency TEXT,
  request     BLOB
) STRICT;
CREATE INDEX api_keys_of_wallet ON api_keys (wallet, created_at);
CREATE INDEX api_keys_expiry ON api_keys (expires_at);
CREATE UNIQUE INDEX api_keys_idempotency ON api_keys (wallet, idempotency) WHERE idempotency IS NOT NULL;
