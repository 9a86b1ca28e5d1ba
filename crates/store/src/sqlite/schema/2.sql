-- Rows lie in the order in which they come, so that a new one lands on a page that
-- is being written anyway.
--
-- Messages: by when they expire. Equal messages expire at the same instant, so
-- this key finds them as well.
CREATE TABLE spent_by_time (
  expires_at INTEGER NOT NULL,
  key        BLOB NOT NULL,
  PRIMARY KEY (expires_at, key)
) STRICT, WITHOUT ROWID;

INSERT INTO spent_by_time (expires_at, key) SELECT expires_at, key FROM spent;
DROP TABLE spent;
ALTER TABLE spent_by_time RENAME TO spent;

-- Agents: by their ids, which begin with the time.
CREATE TABLE agents_by_id (
  id             INTEGER PRIMARY KEY,
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

INSERT INTO agents_by_id
  SELECT id, wallet, generation, state, reason, agent_type, image, tier, tier_min, cores, memory_mib, public,
         spawned_at, ended_at, epoch, changes, node, runtime, restarts, was_ready, closed_ms, ready_since,
         mark_seq, mark_cursor, below_readings, below_since
  FROM agents;

CREATE TABLE changes_by_id (
  agent  INTEGER NOT NULL,
  seq    INTEGER NOT NULL,
  at     INTEGER NOT NULL,
  state  TEXT NOT NULL,
  reason TEXT,
  PRIMARY KEY (agent, seq)
) STRICT, WITHOUT ROWID;

INSERT INTO changes_by_id (agent, seq, at, state, reason)
  SELECT agents.id, changes.seq, changes.at, changes.state, changes.reason
  FROM changes JOIN agents ON agents.n = changes.agent;

-- Their indexes go with them.
DROP TABLE changes;
DROP TABLE agents;
ALTER TABLE changes_by_id RENAME TO changes;
ALTER TABLE agents_by_id RENAME TO agents;

-- One live agent per wallet, whatever races.
CREATE UNIQUE INDEX agents_live ON agents (wallet) WHERE ended_at IS NULL;
CREATE INDEX agents_ended ON agents (wallet, id) WHERE ended_at IS NOT NULL;
CREATE INDEX agents_graves ON agents (ended_at) WHERE ended_at IS NOT NULL;
-- Who is on the clock of which journal: asked when a node comes with a new one.
CREATE INDEX agents_open ON agents (mark_cursor) WHERE ready_since IS NOT NULL;
