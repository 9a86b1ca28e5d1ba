-- Images that holders bring, from the first word of their upload until their node has nothing
-- of them any more. `pin` is what their node knows them by: tags of one upload share it.
CREATE TABLE images (
  id         BIGINT PRIMARY KEY,
  pin        BIGINT NOT NULL,
  wallet     BYTEA NOT NULL,
  name       TEXT NOT NULL,
  tag        TEXT NOT NULL,
  state      TEXT NOT NULL,
  node       TEXT NOT NULL,
  size       BIGINT NOT NULL,
  archive    BYTEA NOT NULL,
  digest     BYTEA,
  bytes      BIGINT,
  needs      TEXT,
  code       TEXT,
  error      TEXT,
  published  BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL
);
-- One image of a name, whatever races.
CREATE UNIQUE INDEX images_ready ON images (wallet, name, tag) WHERE state = 'ready';
CREATE INDEX images_of_wallet ON images (wallet, created_at);
CREATE INDEX images_of_pin ON images (pin);
CREATE INDEX images_over ON images (expires_at) WHERE state <> 'ready';
CREATE INDEX images_published ON images (created_at) WHERE published = 1;
