-- Snapshots of volumes, on the nodes that hold these. `state` is creating, ready, restoring or
-- removing; while one is made or put back its volume is copying, and no run gets it. `ordered`
-- rises with each order to put a volume back, so that none that comes late is done.
CREATE TABLE snapshots (
  id         BIGINT PRIMARY KEY,
  volume     BIGINT NOT NULL,
  wallet     BYTEA NOT NULL,
  node       TEXT NOT NULL,
  state      TEXT NOT NULL,
  size_mib   BIGINT NOT NULL,
  bytes      BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  ordered    BIGINT NOT NULL,
  error      TEXT
);
CREATE INDEX snapshots_of_volume ON snapshots (volume);
CREATE INDEX snapshots_of_wallet ON snapshots (wallet);
CREATE INDEX snapshots_unsettled ON snapshots (created_at) WHERE state <> 'ready';

ALTER TABLE volumes ADD COLUMN ordered BIGINT NOT NULL DEFAULT 0;
