//! What isolates an agent: the Runtime trait, its drivers, guest networks and disks.
