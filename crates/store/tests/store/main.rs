//! The store from outside: what it promises, over races, crashes and full disks.
//!
//! What both databases promise is in the suite; `files`, `child` and `disk` are SQLite's
//! alone, `server` is PostgreSQL's.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod admission;
mod apikeys;
mod billing;
mod child;
mod copies;
mod copy;
mod disk;
mod files;
mod finance;
mod help;
mod images;
mod index;
mod keys;
mod life;
mod meters;
mod mounts;
mod outbox;
mod payments;
mod pods;
mod prune;
mod relays;
mod server;
mod suite;
mod volumes;
