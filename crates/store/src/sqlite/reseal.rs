//! All sealed keys at once, in a database that nobody else uses.

use std::path::Path;

use domain::{Address, UnixMillis};
use rusqlite::{Connection, Row};

use super::connection::connect;
use super::files::{self, Files};
use super::handle::Sqlite;
use super::schema;
use crate::codec::integer;
use crate::error::StoreError;
use crate::keys::{SealedIdentity, SealedRow, SecretName};
use crate::pod::id_from;
use crate::record::PodRowId;

const NAME: &str = "seal the keys anew";

/// The database, locked, in a transaction.
pub(crate) struct SqliteKeys {
    conn: Connection,
    _files: Files,
}

impl SqliteKeys {
    pub(crate) fn open(directory: &Path) -> Result<Self, StoreError> {
        Sqlite::find(directory)?;
        let files = files::take(directory)?;
        let conn = connect(&files)?;
        schema::look(&conn, &files.database)?.must_be_current()?;
        conn.execute_batch("BEGIN IMMEDIATE").map_err(sql)?;
        Ok(Self { conn, _files: files })
    }

    pub(crate) fn rows(&self) -> Result<Vec<SealedRow>, StoreError> {
        let mut secrets = self.conn.prepare("SELECT name, sealed FROM secrets").map_err(sql)?;
        let secret = |row: &Row<'_>| Ok(SealedRow::Secret { name: row.get(0)?, sealed: row.get(1)? });
        let secrets = secrets.query_map((), secret).map_err(sql)?.collect::<Result<Vec<_>, _>>().map_err(sql)?;
        let identities = "SELECT key, name, address, sealed FROM identities JOIN pods ON pods.key = identities.pod \
                          ORDER BY key";
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
        .map(drop)
        .map_err(sql)
    }

    pub(crate) fn delete(&self, row: &SealedRow) -> Result<(), StoreError> {
        match row {
            SealedRow::Secret { name, .. } => self.conn.execute("DELETE FROM secrets WHERE name = ?1", (name,)),
            SealedRow::Identity { row, .. } => {
                self.conn.execute("DELETE FROM identities WHERE pod = ?1", (row.0.cast_signed(),))
            }
        }
        .map(drop)
        .map_err(sql)
    }

    pub(crate) fn insert_secret(&self, name: SecretName, sealed: &[u8], now: UnixMillis) -> Result<(), StoreError> {
        let insert = "INSERT INTO secrets (name, sealed, made_at) VALUES (?1, ?2, ?3)";
        self.conn.execute(insert, (name.as_str(), sealed, integer(now.0))).map(drop).map_err(sql)
    }

    /// The log goes with the connection: nothing of what was there before lies in it.
    pub(crate) fn commit(self) -> Result<(), StoreError> {
        durable::failpoint("reseal", "committing");
        self.conn.execute_batch("COMMIT").map_err(sql)?;
        durable::failpoint("reseal", "committed");
        self.conn.close().map_err(|(_, error)| sql(error))
    }
}

fn identity(row: &Row<'_>) -> Result<SealedRow, StoreError> {
    let key = PodRowId(row.get::<_, i64>(0).map_err(sql)?.cast_unsigned());
    let pod = id_from(key, row.get(1).map_err(sql)?)?;
    let address = Address::from(row.get::<_, [u8; 20]>(2).map_err(sql)?);
    let sealed = row.get(3).map_err(sql)?;
    Ok(SealedRow::Identity { row: key, pod, identity: SealedIdentity { address, sealed } })
}

fn sql(error: rusqlite::Error) -> StoreError {
    StoreError::sql(NAME, error)
}
