-- When a POD of this id was last removed, and its key erased. Unlike `removed_at` it stays when
-- its holder takes the id again: no file of an earlier version is that POD's key.
ALTER TABLE pods ADD COLUMN erased_at BIGINT;
UPDATE pods SET erased_at = removed_at WHERE removed_at IS NOT NULL;

-- By a trigger, as gateways of the last version may still remove PODs here.
CREATE FUNCTION note_erasure() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.erased_at := NEW.removed_at;
  RETURN NEW;
END
$$;
CREATE TRIGGER pods_erased BEFORE UPDATE OF removed_at ON pods
  FOR EACH ROW WHEN (NEW.removed_at IS NOT NULL) EXECUTE FUNCTION note_erasure();
