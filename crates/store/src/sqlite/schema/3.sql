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

-- Payments: unique by what makes one itself. `stage` is reserved, settled, answered
-- or failed; `outcome` the transaction, or why it failed.
CREATE TABLE payments (
  chain_id     INTEGER NOT NULL,
  asset        BLOB NOT NULL,
  payer        BLOB NOT NULL,
  nonce        BLOB NOT NULL,
  payee        BLOB NOT NULL,
  value        INTEGER NOT NULL,
  valid_after  INTEGER NOT NULL,
  valid_before INTEGER NOT NULL,
  signature    BLOB NOT NULL,
  request      BLOB NOT NULL,
  resource     TEXT NOT NULL,
  seen_at      INTEGER NOT NULL,
  stage        TEXT NOT NULL,
  tx           BLOB,
  reason       TEXT,
  claim        INTEGER,
  claim_until  INTEGER,
  PRIMARY KEY (chain_id, asset, payer, nonce)
) STRICT, WITHOUT ROWID;
CREATE INDEX payments_open ON payments (seen_at) WHERE stage = 'reserved';
CREATE INDEX payments_old ON payments (valid_before);

-- The books of all vaults of one factory on one chain, and how far they are read.
-- Bodies are JSON of the domain's types; what is asked for has columns of its own.
CREATE TABLE books (
  id       INTEGER PRIMARY KEY,
  chain_id INTEGER NOT NULL,
  factory  BLOB NOT NULL,
  number   INTEGER,
  hash     BLOB,
  time     INTEGER,
  UNIQUE (chain_id, factory)
) STRICT;

CREATE TABLE book_blocks (
  book   INTEGER NOT NULL,
  number INTEGER NOT NULL,
  hash   BLOB NOT NULL,
  time   INTEGER NOT NULL,
  PRIMARY KEY (book, number)
) STRICT, WITHOUT ROWID;

-- Events, with what they changed as it was before: a roll-back puts it back.
CREATE TABLE book_events (
  book      INTEGER NOT NULL,
  block     INTEGER NOT NULL,
  log_index INTEGER NOT NULL,
  vault     BLOB NOT NULL,
  task      BLOB,
  body      TEXT NOT NULL,
  undo      TEXT NOT NULL,
  PRIMARY KEY (book, block, log_index)
) STRICT, WITHOUT ROWID;
CREATE INDEX book_events_of_vault ON book_events (book, vault, block, log_index);

CREATE TABLE vaults (
  book    INTEGER NOT NULL,
  address BLOB NOT NULL,
  body    TEXT NOT NULL,
  PRIMARY KEY (book, address)
) STRICT, WITHOUT ROWID;

-- `n` is the order of creation.
CREATE TABLE tasks (
  book  INTEGER NOT NULL,
  vault BLOB NOT NULL,
  task  BLOB NOT NULL,
  n     INTEGER NOT NULL,
  body  TEXT NOT NULL,
  PRIMARY KEY (book, vault, task)
) STRICT, WITHOUT ROWID;
CREATE INDEX tasks_in_order ON tasks (book, vault, n);

CREATE TABLE credits (
  book    INTEGER NOT NULL,
  vault   BLOB NOT NULL,
  account BLOB NOT NULL,
  amount  INTEGER NOT NULL,
  PRIMARY KEY (book, vault, account)
) STRICT, WITHOUT ROWID;

-- Transactions of our own accounts, written before anybody hears of them.
CREATE TABLE outbox (
  chain_id INTEGER NOT NULL,
  account  BLOB NOT NULL,
  nonce    INTEGER NOT NULL,
  key      TEXT NOT NULL,
  pending  INTEGER NOT NULL,
  body     TEXT NOT NULL,
  PRIMARY KEY (chain_id, account, nonce),
  UNIQUE (chain_id, account, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX outbox_pending ON outbox (chain_id, account, nonce) WHERE pending = 1;

-- What the relayer took on. `lane` is a forwarder's nonce: no two entries that
-- hold one share it. The rest of an entry is the relayer's own, in JSON.
CREATE TABLE relays (
  id        BLOB PRIMARY KEY,
  attempt   INTEGER NOT NULL,
  at        INTEGER NOT NULL,
  lane      BLOB,
  holds     INTEGER NOT NULL,
  gives_way INTEGER NOT NULL,
  progress  TEXT NOT NULL,
  body      TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX relays_lane ON relays (lane) WHERE holds = 1 AND lane IS NOT NULL;
CREATE INDEX relays_open ON relays (at) WHERE progress = 'open';
CREATE INDEX relays_progress ON relays (progress);

-- Payments of fees, each with the group of entries that it is for, for ever.
CREATE TABLE relay_payments (
  name  BLOB PRIMARY KEY,
  "group" BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- How much each asked for on a day.
CREATE TABLE relay_quotas (
  day     INTEGER NOT NULL,
  subject TEXT NOT NULL,
  count   INTEGER NOT NULL,
  PRIMARY KEY (day, subject)
) STRICT, WITHOUT ROWID;
