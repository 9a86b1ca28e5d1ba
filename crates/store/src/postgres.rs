//! The store in PostgreSQL, for as many gateways as there are.
//!
//! Each command is a transaction of its own, on a connection of a bounded pool (`sqlx`).
//! What SQLite's one writer keeps apart by its order, unique indexes, `ON CONFLICT` and
//! row locks keep apart here; nothing is remembered in the process between two commands.
//!
//! | file | holds |
//! |---|---|
//! | `database` | [`Postgres`]: the pool, and how a command becomes a transaction |
//! | `lease` | which gateways use the database |
//! | `news` | changes of state, told to the listeners of all of them |
//! | `schema`, `row`, `json`, `error` | the stored form |
//! | the others | the ports of the same names |

mod admission;
mod apikeys;
mod billing;
mod copy;
mod counted;
mod database;
mod deploys;
mod disks;
mod error;
mod images;
mod index;
mod json;
mod keys;
mod lease;
mod life;
mod links;
mod mounts;
mod news;
mod outbox;
mod payments;
mod pod;
mod prices;
mod prune;
mod purposes;
mod relays;
mod reseal;
mod row;
mod schema;
mod secrets;
mod snapshots;
mod totals;
mod volumes;

pub(crate) use copy::PostgresEnd;
pub use database::Postgres;
pub(crate) use reseal::PostgresKeys;
