-- What a holder's image was built in, if its node has built it.
ALTER TABLE images ADD COLUMN built_in TEXT;
