-- Volumes: disks of a wallet that outlive every run. `node` holds the disk; `state` is creating,
-- ready or removing.
CREATE TABLE volumes (
  id         INTEGER PRIMARY KEY,
  wallet     BLOB NOT NULL,
  name       TEXT NOT NULL,
  size_mib   INTEGER NOT NULL,
  node       TEXT NOT NULL,
  state      TEXT NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX volumes_of_wallet ON volumes (wallet, name);
CREATE INDEX volumes_unsettled ON volumes (created_at) WHERE state <> 'ready';

-- Which volumes a POD's runs have, and where; `run` is the live one that has it.
CREATE TABLE volume_mounts (
  pod    INTEGER NOT NULL,
  volume INTEGER NOT NULL,
  name   TEXT NOT NULL,
  path   TEXT NOT NULL,
  run    INTEGER,
  PRIMARY KEY (pod, volume)
) STRICT, WITHOUT ROWID;
-- One writer of a volume, whatever races.
CREATE UNIQUE INDEX volume_mounts_live ON volume_mounts (volume) WHERE run IS NOT NULL;
CREATE INDEX volume_mounts_of_run ON volume_mounts (run) WHERE run IS NOT NULL;

-- A run that ends gives its volumes back, and a POD that is removed wants none any more: in the
-- same transaction, whoever writes that.
CREATE TRIGGER volume_mounts_of_ended_run AFTER UPDATE OF ended_at ON runs WHEN NEW.ended_at IS NOT NULL
BEGIN
  UPDATE volume_mounts SET run = NULL WHERE run = NEW.id;
END;
CREATE TRIGGER volume_mounts_of_removed_pod AFTER UPDATE OF removed_at ON pods WHEN NEW.removed_at IS NOT NULL
BEGIN
  DELETE FROM volume_mounts WHERE pod = NEW.key;
END;
