-- What nodes hold of disks now, of whom, and since when: what was held before is in the totals.
-- `kind` is volume or data, `id` the volume's or the POD's key; `cursor` is the journal that said so.
CREATE TABLE disk_meters (
  node   TEXT NOT NULL,
  kind   TEXT NOT NULL,
  id     INTEGER NOT NULL,
  wallet BLOB NOT NULL,
  mib    INTEGER NOT NULL,
  since  INTEGER NOT NULL,
  cursor INTEGER NOT NULL,
  PRIMARY KEY (node, kind, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX disk_meters_of_wallet ON disk_meters (wallet);
CREATE INDEX disk_meters_of_disk ON disk_meters (kind, id);

ALTER TABLE totals ADD COLUMN disk_mib_ms INTEGER NOT NULL DEFAULT 0;
