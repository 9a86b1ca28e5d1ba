//! All sealed keys at once, in a database that nobody else uses.

use std::path::Path;

use domain::{Address, UnixMillis};
use rusqlite::{Connection, OptionalExtension, Row};

use super::connection::connect;
use super::files::{self, Files};
use super::handle::Sqlite;
use super::schema;
use crate::aside::AsideIdentity;
use crate::codec::{id_column, integer, millis};
use crate::error::StoreError;
use crate::found::FoundDatabase;
use crate::keys::{KEY_FORGOTTEN, RestoredKey, SealedIdentity, SealedRow};
use crate::pod::id_from;
use crate::record::PodRowId;

const NAME: &str = "seal the keys anew";
const IDENTITIES: &str = "SELECT key, name, address, sealed, erased_at FROM identities JOIN pods \
                          ON pods.key = identities.pod ORDER BY key";
/// The same where erasures are not noted yet.
const IDENTITIES_BEFORE: &str = "SELECT key, name, address, sealed, NULL FROM identities JOIN pods \
                                 ON pods.key = identities.pod ORDER BY key";

/// The database, locked, in a transaction.
pub(crate) struct SqliteKeys {
    conn: Connection,
    /// Whether its schema knows when keys were erased.
    notes_erasure: bool,
    _files: Files,
}

impl SqliteKeys {
    /// Opens it, unless `refuse` says no to what it is.
    pub(crate) fn open(
        directory: &Path,
        refuse: impl FnOnce(&FoundDatabase) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        Sqlite::find(directory)?;
        let files = files::take(directory)?;
        let conn = connect(&files)?;
        let found = schema::look(&conn, &files.database)?;
        refuse(&found)?;
        conn.execute_batch("BEGIN IMMEDIATE").map_err(sql)?;
        Ok(Self { conn, notes_erasure: found.schema >= schema::NOTES_ERASURE, _files: files })
    }

    pub(crate) fn rows(&self) -> Result<Vec<SealedRow>, StoreError> {
        let mut secrets = self.conn.prepare("SELECT name, sealed FROM secrets").map_err(sql)?;
        let secret = |row: &Row<'_>| Ok(SealedRow::Secret { name: row.get(0)?, sealed: row.get(1)? });
        let secrets = secrets.query_map((), secret).map_err(sql)?.collect::<Result<Vec<_>, _>>().map_err(sql)?;
        let identities = if self.notes_erasure { IDENTITIES } else { IDENTITIES_BEFORE };
        let mut identities = self.conn.prepare(identities).map_err(sql)?;
        let mut rows = identities.query(()).map_err(sql)?;
        let mut all = secrets;
        while let Some(row) = rows.next().map_err(sql)? {
            all.push(identity(row)?);
        }
        Ok(all)
    }

    pub(crate) fn put(&self, row: &SealedRow) -> Result<(), StoreError> {
        match row {
            SealedRow::Secret { name, sealed } => {
                self.conn.execute("UPDATE secrets SET sealed = ?2 WHERE name = ?1", (name, sealed))
            }
            SealedRow::Identity { row, identity, .. } => self
                .conn
                .execute("UPDATE identities SET sealed = ?2 WHERE pod = ?1", (row.0.cast_signed(), &identity.sealed)),
        }
        .map_err(sql)
        .and_then(is_one)
    }

    pub(crate) fn forget(&self, pod: PodRowId) -> Result<(), StoreError> {
        let key = pod.0.cast_signed();
        for delete in
            ["DELETE FROM identities WHERE pod = ?1", "DELETE FROM deploys WHERE pod = ?1 AND state = 'unsigned'"]
        {
            self.conn.execute(delete, (key,)).map_err(sql)?;
        }
        let unsign = "UPDATE deploys SET state = 'unsigned', deadline = NULL, signature = NULL, reason = ?2 \
                      WHERE pod = ?1 AND state = 'deploying'";
        self.conn.execute(unsign, (key, KEY_FORGOTTEN)).map(drop).map_err(sql)
    }

    pub(crate) fn restore(&self, aside: &AsideIdentity, now: UnixMillis) -> Result<RestoredKey, StoreError> {
        let AsideIdentity { pod, identity, erased_at } = aside;
        // One of this id that was removed since then took its key with it, whoever has the id now.
        let find = "SELECT key FROM pods WHERE removed_at IS NULL AND erased_at IS ?3 \
                    AND (name = ?2 OR key = ?1 AND name IS NULL)";
        let name = pod.first_run().is_none().then(|| pod.as_str());
        let ids = (pod.first_run().map(id_column), name, erased_at.map(|at| integer(at.0)));
        let found = self.conn.query_row(find, ids, |row| row.get::<_, i64>(0)).optional().map_err(sql)?;
        let Some(key) = found else { return Ok(RestoredKey::Removed) };
        let insert =
            "INSERT INTO identities (pod, address, sealed, made_at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
        let row = (key, identity.address.0.0, &identity.sealed, integer(now.0));
        let inserted = self.conn.execute(insert, row).map_err(sql)?;
        Ok(if inserted == 0 { RestoredKey::HasKey } else { RestoredKey::Restored })
    }

    /// The log goes with the connection: nothing of what was there before lies in it.
    pub(crate) fn commit(self) -> Result<(), StoreError> {
        durable::failpoint("reseal", "committing");
        self.conn.execute_batch("COMMIT").map_err(sql)?;
        durable::failpoint("reseal", "committed");
        if let Err((_, error)) = self.conn.close() {
            tracing::warn!(%error, "it is done, and the database's log is still there: the next start takes it in");
        }
        Ok(())
    }
}

fn identity(row: &Row<'_>) -> Result<SealedRow, StoreError> {
    let key = PodRowId(row.get::<_, i64>(0).map_err(sql)?.cast_unsigned());
    let pod = id_from(key, row.get(1).map_err(sql)?)?;
    let address = Address::from(row.get::<_, [u8; 20]>(2).map_err(sql)?);
    let sealed = row.get(3).map_err(sql)?;
    let erased_at = row.get::<_, Option<i64>>(4).map_err(sql)?.map(millis);
    Ok(SealedRow::Identity { row: key, pod, identity: SealedIdentity { address, sealed }, erased_at })
}

fn is_one(changed: usize) -> Result<(), StoreError> {
    if changed == 1 { Ok(()) } else { Err(StoreError::Value("a key whose row is not there")) }
}

fn sql(error: rusqlite::Error) -> StoreError {
    StoreError::sql(NAME, error)
}
