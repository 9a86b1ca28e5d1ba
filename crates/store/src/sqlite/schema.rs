//! The stored form, and how an older one becomes the newest.
//!
//! `user_version` counts the migrations that were run. A version only ever adds
//! to the end of [`MIGRATIONS`]; a database that is ahead is refused.
//!
//! | table | key | holds |
//! |---|---|---|
//! | `pods` | key | one row a POD, for ever: `removed_at` keeps its id from others, `erased_at` old files from it |
//! | `runs` | id | one row a run; live while `ended_at` is null |
//! | `changes` | pod, seq | its changes of state but the first, which is `created_at` |
//! | `spent` | expiry, key | messages that were used, until nobody could accept them |
//! | `idempotency` | wallet, key | which run a key stands for |
//! | `cursors` | node, journal | the last mark that was counted |
//! | `counted_time` | boot | milliseconds that were counted, by each start of a machine |
//! | `totals` | wallet | usage of runs that were forgotten, and of disks that were held |
//! | `disk_meters` | node, disk | what nodes hold of disks now, and since when |
//! | `api_keys` | id | what wallets let programs do in their names: digests of keys |
//! | `volumes` | id | disks of wallets, and which node holds each |
//! | `volume_mounts` | pod, volume | which PODs have which volumes; the live run that has one |
//! | `snapshots` | id | copies of volumes, and which is made, put back or removed |
//! | `images` | id | images that holders bring, from their upload until their node has forgotten them |
//! | `secrets` | name | keys of the gateways' own, sealed |
//! | `identities` | pod | the PODs' keys, sealed |
//! | `links` | holder | which owner a holder belongs to |
//! | `prices` | pod, path | what requests cost |
//! | `deploys` | pod | vaults that PODs are to have |
//! | `payments` | chain, token, payer, number | what was paid for requests |
//! | `spent_payments` | chain, token, payer, number | what each authorization pays for |
//! | `books`, `book_blocks`, `book_events` | chain, factory, block, log | what was read of a chain |
//! | `vaults`, `tasks`, `credits` | address | what follows from that |
//! | `outbox` | account, nonce | transactions of our own |
//! | `relays`, `relay_quotas` | name | what the relayer took on |
//!
//! Ids and expiries rise, so that new rows land on the same few pages: only the index
//! of live wallets is written at random places, and API keys and images, which are few.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::secrets;
use crate::error::StoreError;
use crate::found::{FirstCheck, FoundDatabase};
use crate::keys::SecretName;

/// "PLTN": so that no other program's database is taken for ours.
const APPLICATION: i64 = 0x504C_544E;

const MIGRATIONS: &[&str] = &[
    include_str!("schema/1.sql"),
    include_str!("schema/2.sql"),
    include_str!("schema/3.sql"),
    include_str!("schema/4.sql"),
    include_str!("schema/5.sql"),
    include_str!("schema/6.sql"),
    include_str!("schema/7.sql"),
    include_str!("schema/8.sql"),
    include_str!("schema/9.sql"),
    include_str!("schema/10.sql"),
    include_str!("schema/11.sql"),
    include_str!("schema/12.sql"),
    include_str!("schema/13.sql"),
    include_str!("schema/14.sql"),
    include_str!("schema/15.sql"),
];

/// The first one with sealed keys.
const SEALS_KEYS: i64 = 7;
/// The first one that notes when a POD's key was erased.
pub(crate) const NOTES_ERASURE: i64 = 8;

/// The newest schema known here.
pub(crate) fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// What the database is; nothing of it is changed.
pub(crate) fn look(conn: &Connection, path: &Path) -> Result<FoundDatabase, StoreError> {
    let sql = |error| StoreError::sql("read the schema", error);
    let found: i64 = conn.query_row("PRAGMA user_version", (), |row| row.get(0)).map_err(sql)?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0)).map_err(sql)?;
    let application: i64 = conn.query_row("PRAGMA application_id", (), |row| row.get(0)).map_err(sql)?;
    if application != APPLICATION && tables > 0 {
        return Err(StoreError::Foreign(path.display().to_string()));
    }
    if !(0..=known()).contains(&found) {
        return Err(StoreError::Newer { place: path.display().to_string(), found, known: known() });
    }
    let check = if found < SEALS_KEYS { None } else { check(conn).map_err(sql)? };
    Ok(FoundDatabase {
        place: path.display().to_string(),
        schema: found,
        known: known(),
        seals_keys: SEALS_KEYS,
        check,
    })
}

fn check(conn: &Connection) -> rusqlite::Result<Option<Vec<u8>>> {
    let sql = "SELECT sealed FROM secrets WHERE name = ?1";
    conn.query_row(sql, (SecretName::Check.as_str(),), |row| row.get(0)).optional()
}

/// Brings the database to the newest schema, and keeps what the first sealing key is known by.
pub(crate) fn migrate(
    conn: &mut Connection,
    found: &FoundDatabase,
    first: Option<&FirstCheck>,
) -> Result<(), StoreError> {
    for (version, migration) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > found.schema) {
        run(conn, version, migration).map_err(|error| StoreError::sql("migrate the schema", error))?;
        tracing::info!(version, "the store's schema was migrated");
    }
    let Some(FirstCheck { sealed, now }) = first else { return Ok(()) };
    let kept = secrets::insert(conn, SecretName::Check, sealed, *now);
    kept.map_err(|error| StoreError::sql("keep what the sealing key is known by", error))
}

fn run(conn: &mut Connection, version: i64, migration: &str) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(migration)?;
    tx.pragma_update(None, "application_id", APPLICATION)?;
    tx.pragma_update(None, "user_version", version)?;
    tx.commit()
}
