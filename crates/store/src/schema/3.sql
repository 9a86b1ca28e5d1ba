-- The financial layer.
--
-- Which owner a holder belongs to, and what both have signed.
CREATE TABLE links (
  holder           BLOB PRIMARY KEY,
  owner            BLOB NOT NULL,
  text             TEXT NOT NULL,
  holder_signature TEXT NOT NULL,
  owner_signature  TEXT NOT NULL,
  signed_at        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What requests to an agent cost, in micro-USDC.
CREATE TABLE prices (
  agent  INTEGER NOT NULL,
  path   TEXT NOT NULL,
  amount INTEGER NOT NULL,
  PRIMARY KEY (agent, path)
) STRICT, WITHOUT ROWID;

-- Vaults that agents are to have.
CREATE TABLE deploys (
  agent        INTEGER PRIMARY KEY,
  owner        BLOB NOT NULL,
  agent_wallet BLOB NOT NULL,
  address      BLOB NOT NULL,
  state        TEXT NOT NULL,
  deadline     INTEGER,
  signature    BLOB,
  tx           BLOB,
  reason       TEXT,
  changed_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX deploys_on_their_way ON deploys (changed_at) WHERE state = 'deploying';
