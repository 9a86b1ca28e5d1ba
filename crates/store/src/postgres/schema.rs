//! The stored form, and how an older one becomes the newest.
//!
//! `palatine` has one row: the mark of our databases and the number of migrations that
//! were run. They run under a lock, so that of two gateways that start at once one waits.
//! A version only ever adds to the end of [`MIGRATIONS`]; a database that is ahead is
//! refused. Tables and columns are named as in SQLite, whose list says what they hold;
//! besides them there are:
//!
//! | table | key | holds |
//! |---|---|---|
//! | `palatine` | – | the schema's version |
//! | `gateways` | epoch | who uses this database, and until when that is sure |
//! | `news` | transaction | changes of state for other gateways, for an hour |

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, query, raw_sql};

use super::secrets;
use crate::error::StoreError;
use crate::found::{FirstCheck, FoundDatabase};
use crate::keys::SecretName;

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
];
/// The first one with sealed keys.
const SEALS_KEYS: i64 = 2;
/// The first one that notes when a POD's key was erased.
pub(crate) const NOTES_ERASURE: i64 = 3;
/// Milliseconds that one step of a migration may take, which may touch every row: more than a caller waits.
const MIGRATION_MS: u64 = 3_600_000;
/// "PLTN": names the lock.
const LOCK: i64 = 0x504C_544E;

/// The newest schema known here.
pub(crate) fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Brings the database to the newest schema, unless `judge` says no to what it is before. What
/// that returns is kept under the same lock: who waits for it finds it.
pub(crate) async fn migrate<E: From<StoreError>>(
    conn: &mut PgConnection,
    place: &str,
    judge: impl FnOnce(&FoundDatabase) -> Result<Option<FirstCheck>, E> + Send,
) -> Result<(), E> {
    let sql = |error| StoreError::postgres("migrate the schema", error);
    let mut tx = conn.begin().await.map_err(sql)?;
    query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx).await.map_err(sql)?;
    let found = look(&mut tx, place).await?;
    let first = judge(&found)?;
    // Until the end of the transaction.
    let bound = format!("SET LOCAL statement_timeout = {MIGRATION_MS}");
    raw_sql(AssertSqlSafe(bound)).execute(&mut *tx).await.map_err(sql)?;
    for (version, migration) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > found.schema) {
        raw_sql(AssertSqlSafe(*migration)).execute(&mut *tx).await.map_err(sql)?;
        query("UPDATE palatine SET version = $1").bind(version).execute(&mut *tx).await.map_err(sql)?;
        tracing::info!(version, "the store's schema was migrated");
    }
    if let Some(FirstCheck { sealed, now }) = &first {
        secrets::insertion(SecretName::Check, sealed, *now).execute(&mut *tx).await.map_err(sql)?;
    }
    Ok(tx.commit().await.map_err(sql)?)
}

/// What the database is; nothing of it is changed.
pub(crate) async fn look(conn: &mut PgConnection, place: &str) -> Result<FoundDatabase, StoreError> {
    let found = version(conn, place).await?;
    if !(0..=known()).contains(&found) {
        return Err(StoreError::Newer { place: place.to_owned(), found, known: known() });
    }
    let check = if found < SEALS_KEYS { None } else { check(conn).await? };
    Ok(FoundDatabase { place: place.to_owned(), schema: found, known: known(), seals_keys: SEALS_KEYS, check })
}

async fn check(conn: &mut PgConnection) -> Result<Option<Vec<u8>>, StoreError> {
    let sql = |error| StoreError::postgres("read the schema", error);
    let check = query("SELECT sealed FROM secrets WHERE name = $1").bind(SecretName::Check.as_str());
    let found = check.fetch_optional(conn).await.map_err(sql)?;
    found.map(|row| row.try_get(0).map_err(sql)).transpose()
}

/// How many migrations were run; 0 for an empty database.
async fn version(conn: &mut PgConnection, place: &str) -> Result<i64, StoreError> {
    let sql = |error| StoreError::postgres("read the schema", error);
    let tables = "SELECT count(*), count(*) FILTER (WHERE tablename = 'palatine') FROM pg_tables \
                  WHERE schemaname = current_schema()";
    let row = query(tables).fetch_one(&mut *conn).await.map_err(sql)?;
    let (all, ours): (i64, i64) = (row.try_get(0).map_err(sql)?, row.try_get(1).map_err(sql)?);
    if ours == 0 && all > 0 {
        return Err(StoreError::Foreign(place.to_owned()));
    }
    if ours == 0 {
        return Ok(0);
    }
    let row = query("SELECT version FROM palatine").fetch_one(conn).await.map_err(sql)?;
    row.try_get(0).map_err(sql)
}
