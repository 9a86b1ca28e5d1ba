-- Until when a node keeps the disks of an agent that ended without its owner's word.
ALTER TABLE agents ADD COLUMN data_kept_until INTEGER;
