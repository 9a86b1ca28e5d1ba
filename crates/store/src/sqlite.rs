//! The store in one SQLite file, for one process.
//!
//! All writes go through one thread that takes what is queued, runs it as one
//! transaction, waits for one `fsync`, and only then answers everybody: what was
//! answered survives `kill -9` and loss of power, and thousands of durable writes a
//! second cost a few hundred syncs. Reads have connections of their own and never wait
//! for a writer. It stands on `rusqlite`, not on `sqlx` as PostgreSQL's does: there each
//! statement hops to a thread and back, where here a whole batch runs on one.
//!
//! | file | holds |
//! |---|---|
//! | `handle` | [`Sqlite`], and the way to the threads |
//! | `connection`, `writer`, `reader` | the connections, their threads, and how an error is shared |
//! | `checkpoint` | the log's way into the database file |
//! | `files`, `schema`, `row`, `json`, `error` | the stored form |
//! | `health` | how the disk is, and room for when it is full |
//! | `cache` | what the writer need not look up |
//! | the others | the ports of the same names |

mod admission;
mod apikeys;
mod billing;
mod cache;
mod checkpoint;
mod connection;
mod copy;
mod counted;
mod deploys;
mod disks;
mod error;
mod files;
mod handle;
mod health;
mod images;
mod index;
mod json;
mod keys;
mod life;
mod links;
mod mounts;
mod outbox;
mod payments;
mod pod;
mod prices;
mod prune;
mod purposes;
mod reader;
mod relays;
mod reseal;
mod row;
mod schema;
mod secrets;
mod snapshots;
mod totals;
mod volumes;
mod writer;

pub(crate) use copy::SqliteEnd;
pub use handle::Sqlite;
pub(crate) use reseal::SqliteKeys;
