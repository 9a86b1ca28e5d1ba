-- When runs that were given a time to live are stopped: what is shown of it, and what decides.
ALTER TABLE runs ADD COLUMN expires_at INTEGER;
ALTER TABLE runs ADD COLUMN expires_counted_ms INTEGER;

-- The time that was counted, whatever clocks said: a row for each start of a machine that counts.
CREATE TABLE counted_time (
  boot       BLOB PRIMARY KEY,
  steady_ms  INTEGER NOT NULL,
  counted_ms INTEGER NOT NULL
) STRICT;
