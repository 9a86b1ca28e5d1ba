-- Keys that were in files of one machine, sealed with a key that is not in here. `check`
-- among the secrets is a known text, which tells whether a sealing key is the right one.
CREATE TABLE secrets (
  name    TEXT PRIMARY KEY,
  sealed  BYTEA NOT NULL,
  made_at BIGINT NOT NULL
);

CREATE TABLE identities (
  pod     BIGINT PRIMARY KEY,
  address BYTEA NOT NULL,
  sealed  BYTEA NOT NULL,
  made_at BIGINT NOT NULL
);

-- A POD's key goes in the transaction that removes the POD, whoever does that: gateways of
-- the last version may still work with this database, and know nothing of keys. Its bytes
-- go when the server tidies up (`VACUUM`); until then, and in backups, they are sealed.
CREATE FUNCTION erase_identity() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM identities WHERE pod = NEW.key;
  RETURN NULL;
END
$$;
CREATE TRIGGER pods_removed AFTER UPDATE OF removed_at ON pods
  FOR EACH ROW WHEN (NEW.removed_at IS NOT NULL) EXECUTE FUNCTION erase_identity();
