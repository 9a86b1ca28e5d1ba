//! Connections to the database's file.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::files;
use crate::error::StoreError;

/// How long SQLite waits for another program's lock.
const BUSY: Duration = Duration::from_secs(5);
/// Prepared statements kept by one connection.
const STATEMENTS: usize = 64;

/// The one that writes. What is deleted is overwritten in the file, and so is what a page
/// leaves behind that is split: no removed POD's key lies there until something else needs
/// the room. Not reached are the log, whose pages are overwritten in turn, and every backup.
pub(crate) fn connect(files: &files::Files) -> Result<Connection, StoreError> {
    let sql = |error| StoreError::sql("open the database", error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(&files.database, flags).map_err(sql)?;
    conn.busy_timeout(BUSY).map_err(sql)?;
    keep_statements(&conn).map_err(sql)?;
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY; \
         PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 67108864; PRAGMA secure_delete = ON;",
    )
    .map_err(sql)?;
    Ok(conn)
}

/// One that reads.
pub(crate) fn connect_to_read(database: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let sql = |error| StoreError::sql("open the database to read", error);
    let conn = Connection::open_with_flags(database, flags).map_err(sql)?;
    conn.busy_timeout(BUSY).map_err(sql)?;
    keep_statements(&conn).map_err(sql)?;
    Ok(conn)
}

/// A statement is prepared once. SQLite would plan some of them anew for each value that is
/// bound, those that a partial index may serve among them: more than a third of the writer's time.
fn keep_statements(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::sqlite::schema::{look, migrate};
    use crate::sqlite::{files, row};

    #[test]
    fn a_statement_is_planned_once_however_often_it_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let files = files::take(dir.path()).unwrap();
        let mut conn = connect(&files).unwrap();
        let found = look(&conn, &files.database).unwrap();
        migrate(&mut conn, &found, None).unwrap();
        let mut live = conn.prepare_cached(row::LIVE_OF).unwrap();
        for wallet in 0_u8..4 {
            assert!(!live.exists(([wallet; 32],)).unwrap());
        }
        assert_eq!(live.get_status(StatementStatus::RePrepare), 0);
    }
}
