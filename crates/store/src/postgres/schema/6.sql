-- When runs that were given a time to live are stopped: what is shown of it, and what decides. A
-- gateway of the last version, which may still work with this database, starts none and cannot
-- read that one was stopped for it: a time should be given when all are of this one.
ALTER TABLE runs ADD COLUMN expires_at BIGINT;
ALTER TABLE runs ADD COLUMN expires_counted_ms BIGINT;

-- The time that was counted, whatever clocks said: a row for each start of a machine that counts.
CREATE TABLE counted_time (
  boot       BYTEA PRIMARY KEY,
  steady_ms  BIGINT NOT NULL,
  counted_ms BIGINT NOT NULL
);
