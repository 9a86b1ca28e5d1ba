-- Snapshots of volumes, on the nodes that hold these. `state` is creating, ready, restoring or
-- removing; while one is made or put back its volume is copying, and no run gets it. `ordered`
-- rises with each order to put a volume back, so that none that comes late is done.
CREATE TABLE snapshots (
  id         INTEGER PRIMARY KEY,
  volume     INTEGER NOT NULL,
  wallet     BLOB NOT NULL,
  node       TEXT NOT NULL,
  state      TEXT NOT NULL,
  size_mib   INTEGER NOT NULL,
  bytes      INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  ordered    INTEGER NOT NULL,
  error      TEXT
) STRICT;
CREATE INDEX snapshots_of_volume ON snapshots (volume);
CREATE INDEX snapshots_of_wallet ON snapshots (wallet);
CREATE INDEX snapshots_unsettled ON snapshots (created_at) WHERE state <> 'ready';

ALTER TABLE volumes ADD COLUMN ordered INTEGER NOT NULL DEFAULT 0;
