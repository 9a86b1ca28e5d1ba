CREATE TABLE agents (
  n              INTEGER PRIMARY KEY,
  id             INTEGER NOT NULL,
  wallet         BLOB NOT NULL,
  generation     INTEGER NOT NULL,
  state          TEXT NOT NULL,
  reason         TEXT,
  agent_type     TEXT NOT NULL,
  image          BLOB NOT NULL,
  tier           TEXT NOT NULL,
  tier_min       INTEGER NOT NULL,
  cores          INTEGER NOT NULL,
  memory_mib     INTEGER NOT NULL,
  public         INTEGER NOT NULL,
  spawned_at     INTEGER NOT NULL,
  ended_at       INTEGER,
  epoch          INTEGER NOT NULL,
  changes        INTEGER NOT NULL DEFAULT 1,
  node           TEXT,
  runtime        TEXT,
  restarts       INTEGER NOT NULL DEFAULT 0,
  was_ready      INTEGER NOT NULL DEFAULT 0,
  closed_ms      INTEGER NOT NULL DEFAULT 0,
  ready_since    INTEGER,
  mark_seq       INTEGER NOT NULL DEFAULT 0,
  mark_cursor    INTEGER,
  below_readings INTEGER NOT NULL DEFAULT 0,
  below_since    INTEGER
) STRICT;

CREATE UNIQUE INDEX agents_id ON agents (id);
-- One live agent per wallet, whatever races.
CREATE UNIQUE INDEX agents_live ON agents (wallet) WHERE ended_at IS NULL;
CREATE INDEX agents_ended ON agents (wallet, n) WHERE ended_at IS NOT NULL;
CREATE INDEX agents_graves ON agents (ended_at) WHERE ended_at IS NOT NULL;
-- Who is on the clock of which journal: asked when a node comes with a new one.
CREATE INDEX agents_open ON agents (mark_cursor) WHERE ready_since IS NOT NULL;

CREATE TABLE changes (
  agent  INTEGER NOT NULL,
  seq    INTEGER NOT NULL,
  at     INTEGER NOT NULL,
  state  TEXT NOT NULL,
  reason TEXT,
  PRIMARY KEY (agent, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE spent (
  key        BLOB PRIMARY KEY,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX spent_expiry ON spent (expires_at);

CREATE TABLE idempotency (
  wallet     BLOB NOT NULL,
  key        TEXT NOT NULL,
  request    BLOB NOT NULL,
  agent      INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (wallet, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_expiry ON idempotency (expires_at);

CREATE TABLE cursors (
  n        INTEGER PRIMARY KEY,
  node     TEXT NOT NULL,
  journal  TEXT NOT NULL,
  seq      INTEGER NOT NULL,
  heard_at INTEGER NOT NULL,
  UNIQUE (node, journal)
) STRICT;

CREATE TABLE totals (
  wallet    BLOB PRIMARY KEY,
  uptime_ms INTEGER NOT NULL,
  core_ms   INTEGER NOT NULL,
  mib_ms    INTEGER NOT NULL,
  spawns    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
