-- Keys that were in files of one machine, sealed with a key that is not in here. `check`
-- among the secrets is a known text, which tells whether a sealing key is the right one.
CREATE TABLE secrets (
  name    TEXT PRIMARY KEY,
  sealed  BLOB NOT NULL,
  made_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE identities (
  pod     INTEGER PRIMARY KEY,
  address BLOB NOT NULL,
  sealed  BLOB NOT NULL,
  made_at INTEGER NOT NULL
) STRICT;
