-- Messages lie in the order in which they expire, which is nearly the order in
-- which they come: a new one lands on a page that is being written anyway. Equal
-- messages expire at the same instant, so this key finds them as well.
CREATE TABLE spent_by_time (
  expires_at INTEGER NOT NULL,
  key        BLOB NOT NULL,
  PRIMARY KEY (expires_at, key)
) STRICT, WITHOUT ROWID;

INSERT INTO spent_by_time (expires_at, key) SELECT expires_at, key FROM spent;
DROP TABLE spent;
ALTER TABLE spent_by_time RENAME TO spent;
