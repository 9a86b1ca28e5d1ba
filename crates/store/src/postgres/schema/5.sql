-- Volumes: disks of a wallet that outlive every run. `node` holds the disk; `state` is creating,
-- ready or removing.
CREATE TABLE volumes (
  id         BIGINT PRIMARY KEY,
  wallet     BYTEA NOT NULL,
  name       TEXT NOT NULL,
  size_mib   BIGINT NOT NULL,
  node       TEXT NOT NULL,
  state      TEXT NOT NULL,
  created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX volumes_of_wallet ON volumes (wallet, name);
CREATE INDEX volumes_unsettled ON volumes (created_at) WHERE state <> 'ready';

-- Which volumes a POD's runs have, and where; `run` is the live one that has it.
CREATE TABLE volume_mounts (
  pod    BIGINT NOT NULL,
  volume BIGINT NOT NULL,
  name   TEXT NOT NULL,
  path   TEXT NOT NULL,
  run    BIGINT,
  PRIMARY KEY (pod, volume)
);
-- One writer of a volume, whatever races.
CREATE UNIQUE INDEX volume_mounts_live ON volume_mounts (volume) WHERE run IS NOT NULL;
CREATE INDEX volume_mounts_of_run ON volume_mounts (run) WHERE run IS NOT NULL;

-- A run that ends gives its volumes back, and a POD that is removed wants none any more: in the
-- same transaction, whoever writes that, also a gateway of the last version.
CREATE FUNCTION detach_volumes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE volume_mounts SET run = NULL WHERE run = NEW.id;
  RETURN NULL;
END
$$;
CREATE TRIGGER runs_ended AFTER UPDATE OF ended_at ON runs
  FOR EACH ROW WHEN (NEW.ended_at IS NOT NULL) EXECUTE FUNCTION detach_volumes();
CREATE FUNCTION forget_mounts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM volume_mounts WHERE pod = NEW.key;
  RETURN NULL;
END
$$;
CREATE TRIGGER pods_removed_mounts AFTER UPDATE OF removed_at ON pods
  FOR EACH ROW WHEN (NEW.removed_at IS NOT NULL) EXECUTE FUNCTION forget_mounts();
