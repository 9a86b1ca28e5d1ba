-- A POD lasts; a run is one start of it. What was an agent until now is a POD with one
-- run, both of the same number.
DROP INDEX agents_live;
DROP INDEX agents_ended;
DROP INDEX agents_graves;
DROP INDEX agents_open;
ALTER TABLE agents RENAME TO runs;
ALTER TABLE runs ADD COLUMN pod INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN disk_mib INTEGER NOT NULL DEFAULT 10240;
UPDATE runs SET pod = id;

-- One live run per wallet, whatever races.
CREATE UNIQUE INDEX runs_live ON runs (wallet) WHERE ended_at IS NULL;
CREATE INDEX runs_ended ON runs (wallet, id) WHERE ended_at IS NOT NULL;
CREATE INDEX runs_old ON runs (ended_at) WHERE ended_at IS NOT NULL;
-- Who is on the clock of which journal: asked when a node comes with a new one.
CREATE INDEX runs_open ON runs (mark_cursor) WHERE ready_since IS NOT NULL;

-- `key` is the number of its first run, which is its id unless `name` was chosen. A POD
-- that was removed keeps its row: nobody else ever has its id.
CREATE TABLE pods (
  key        INTEGER PRIMARY KEY,
  name       TEXT,
  wallet     BLOB NOT NULL,
  last_run   INTEGER NOT NULL,
  brought    INTEGER NOT NULL,
  ephemeral  INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  stopped_at INTEGER,
  removed_at INTEGER,
  data_node  TEXT,
  data_until INTEGER,
  data_bytes INTEGER
) STRICT;
CREATE UNIQUE INDEX pods_name ON pods (name) WHERE name IS NOT NULL;
CREATE INDEX pods_stopped ON pods (wallet, key) WHERE stopped_at IS NOT NULL AND removed_at IS NULL;

INSERT INTO pods (key, name, wallet, last_run, brought, ephemeral, created_at, stopped_at, data_node, data_until, data_bytes)
  SELECT id, NULL, wallet, id, 0, 0, spawned_at, ended_at,
         iif(data_kept_until IS NULL, NULL, node), data_kept_until, iif(data_kept_until IS NULL, NULL, 0)
  FROM runs;
ALTER TABLE runs DROP COLUMN data_kept_until;

-- Until now a holder's stop was the word that the data goes. Who has given it and is
-- still waited for gets what was promised.
UPDATE runs SET reason = 'removed' WHERE state = 'stopping' AND reason = 'requested';

-- The history of a POD goes on from run to run.
ALTER TABLE changes RENAME COLUMN agent TO pod;
ALTER TABLE prices RENAME COLUMN agent TO pod;
ALTER TABLE deploys RENAME COLUMN agent TO pod;
ALTER TABLE idempotency RENAME COLUMN agent TO run;
