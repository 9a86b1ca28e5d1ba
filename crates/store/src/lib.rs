//! The only SQL: agents, spent messages, idempotency, usage.
//!
//! One SQLite file, one process. All writes go through one thread that takes
//! what is queued, runs it as one transaction, waits for one `fsync`, and only
//! then answers everybody: what was answered survives `kill -9` and loss of
//! power, and thousands of durable writes a second cost a few hundred syncs.
//! Reads have connections of their own and never wait for a writer.
//!
//! | file | holds |
//! |---|---|
//! | `handle` | [`Store`], what callers see |
//! | `writer`, `reader` | the threads, and how an error is shared |
//! | `admission` | spent messages, reservations, idempotency |
//! | `life` | steps of a run, and their history |
//! | `pod` | what lasts of a POD, and its removal |
//! | `billing` | marks, usage |
//! | `links`, `prices`, `deploys` | owners, prices, vaults to be |
//! | `payments`, `purposes` | what was paid for requests; what each authorization pays for |
//! | `books` | the vaults' books |
//! | `outbox`, `relays` | transactions of our own accounts; what the relayer took on |
//! | `prune` | what is forgotten, and when |
//! | `checkpoint` | the log's way into the database file |
//! | `schema`, `files`, `codec`, `row` | the stored form |
//! | `rows` | what the writer need not look up |

mod admission;
mod billing;
mod books;
mod checkpoint;
mod codec;
mod config;
mod deploys;
mod error;
mod files;
mod handle;
mod health;
mod life;
mod links;
mod outbox;
mod payments;
mod pod;
mod prices;
mod prune;
mod purposes;
mod reader;
mod record;
mod relays;
mod row;
mod rows;
mod schema;
mod writer;

pub use admission::{Admission, Idempotency, PodChoice, Reservation, Stamp};
pub use billing::{Counted, Cursor};
pub use books::{BookBatch, BookId, BookRefusal, VaultBooks};
pub use config::{Config, ConfigError};
pub use deploys::{Consent, Deploy};
pub use error::StoreError;
pub use handle::Store;
pub use life::{Advanced, Observation};
pub use links::Link;
pub use outbox::Posted;
pub use payments::StorePayments;
pub use pod::{KeptPod, MAX_STOPPED_PODS};
pub use prices::Prices;
pub use prune::Pruned;
pub use record::{Below, Epoch, KeptData, PodKey, Record};
pub use relays::StoreJournal;
