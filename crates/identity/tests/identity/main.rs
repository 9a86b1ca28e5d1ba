//! A POD's key on real disks: where it lies, who races for it, what other tools write.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod foreign;
mod keyfile;
mod race;
mod signing;
