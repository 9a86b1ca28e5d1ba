//! Connections to the database's file.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::files;
use super::schema;
use crate::error::StoreError;

/// How long SQLite waits for another program's lock.
const BUSY: Duration = Duration::from_secs(5);
/// Prepared statements kept by one connection.
const STATEMENTS: usize = 64;

/// The one that writes; brings the schema up.
pub(crate) fn connect(files: &files::Files) -> Result<Connection, StoreError> {
    let sql = |error| StoreError::sql("open the database", error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(&files.database, flags).map_err(sql)?;
    conn.busy_timeout(BUSY).map_err(sql)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY; \
         PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 67108864;",
    )
    .map_err(sql)?;
    schema::migrate(&mut conn, &files.database)?;
    Ok(conn)
}

/// One that reads.
pub(crate) fn connect_to_read(database: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let sql = |error| StoreError::sql("open the database to read", error);
    let conn = Connection::open_with_flags(database, flags).map_err(sql)?;
    conn.busy_timeout(BUSY).map_err(sql)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(conn)
}
