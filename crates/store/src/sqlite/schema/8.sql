-- When a POD of this id was last removed, and its key erased. Unlike `removed_at` it stays when
-- its holder takes the id again: no file of an earlier version is that POD's key.
ALTER TABLE pods ADD COLUMN erased_at INTEGER;
UPDATE pods SET erased_at = removed_at WHERE removed_at IS NOT NULL;
