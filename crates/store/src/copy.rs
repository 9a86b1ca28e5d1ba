//! From one database to another, whole: every table, every row, compared at the end.
//!
//! Neither database may be in use: of SQLite the lock on its files says so, of PostgreSQL
//! the gateways' leases. The target must hold nothing. It is filled in one transaction, or
//! in a directory that gets its name when everything is there: a copy that is broken off
//! leaves no store that could be taken for one.
//!
//! Tables and columns are found by asking the source, so that none is forgotten. Rows are
//! compared by a digest that does not depend on their order: the databases sort texts
//! differently.

use std::path::PathBuf;

use crate::error::StoreError;
use crate::keys::SECRETS;
use crate::postgres::PostgresEnd;
use crate::sealing;
use crate::sqlite::SqliteEnd;
use crate::table::{Copied, CopiedTable, CopyError, RowsDigest, Table, Value};
use crate::url::{Place, StoreUrl};

/// One of the two databases.
enum End {
    Sqlite(Box<SqliteEnd>),
    Postgres(Box<PostgresEnd>),
}

impl End {
    async fn source(url: &StoreUrl) -> Result<Self, CopyError> {
        Ok(match url.place() {
            Place::Sqlite(directory) => Self::Sqlite(Box::new(SqliteEnd::source(&directory)?)),
            Place::Postgres(options) => Self::Postgres(Box::new(PostgresEnd::open(&options, url).await?)),
        })
    }

    async fn target(url: &StoreUrl) -> Result<Self, CopyError> {
        Ok(match url.place() {
            Place::Sqlite(directory) => Self::Sqlite(Box::new(SqliteEnd::target(&directory, url)?)),
            Place::Postgres(options) => Self::Postgres(Box::new(PostgresEnd::open(&options, url).await?)),
        })
    }

    fn tables(&self) -> Result<Vec<Table>, StoreError> {
        match self {
            Self::Sqlite(end) => end.tables(),
            Self::Postgres(end) => Ok(end.tables()),
        }
    }

    /// Gives each row of a table.
    async fn each(
        &mut self,
        table: &Table,
        give: impl AsyncFnMut(Vec<Value>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(end) => end.each(table, give).await,
            Self::Postgres(end) => end.each(table, give).await,
        }
    }

    async fn insert(&mut self, table: &Table, row: Vec<Value>) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(end) => end.insert(table, &row),
            Self::Postgres(end) => end.insert(table, row).await,
        }
    }

    /// All its rows, as one sum.
    async fn sum(&mut self, table: &Table) -> Result<CopiedTable, StoreError> {
        let mut sum = RowsDigest::default();
        let add = async |row: Vec<Value>| {
            sum.add(&row);
            Ok(())
        };
        self.each(table, add).await?;
        Ok(sum.of(table))
    }

    /// What was written becomes the store.
    async fn keep(self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(end) => end.keep(),
            Self::Postgres(end) => end.keep().await,
        }
    }
}

/// Copies a store to an empty one, and says what is in it now. For a program of its own:
/// it works with SQLite on the thread it is called on.
///
/// # Errors
/// [`CopyError`]; the target is as empty as it was.
pub async fn copy(from: &StoreUrl, to: &StoreUrl) -> Result<Copied, CopyError> {
    let (mut source, mut target) = (End::source(from).await?, End::target(to).await?);
    let tables = source.tables()?;
    if let Some(table) = different(&tables, &target.tables()?) {
        return Err(CopyError::Shape { from: from.to_string(), to: to.to_string(), table });
    }
    for table in &tables {
        if target.sum(table).await?.rows > 0 {
            return Err(CopyError::NotEmpty(to.to_string()));
        }
    }
    let mut copied = Vec::new();
    for table in &tables {
        let sent = send(&mut source, &mut target, table).await?;
        if target.sum(table).await? != sent {
            return Err(CopyError::Differs(table.name.clone()));
        }
        copied.push(sent);
    }
    target.keep().await?;
    let is_sealed = copied.iter().any(|table| table.table == SECRETS && table.rows > 0);
    Ok(Copied { tables: copied, is_sealed, default_key: default_key(from) })
}

/// The sealing key in the folder of a store.
fn default_key(of: &StoreUrl) -> Option<PathBuf> {
    match of.place() {
        Place::Sqlite(directory) => Some(directory.join(sealing::NAME)).filter(|key| key.exists()),
        Place::Postgres(_) => None,
    }
}

/// The name of a table that is not the same in both.
fn different(one: &[Table], other: &[Table]) -> Option<String> {
    let lacks = |of: &[Table], table: &Table| !of.contains(table);
    let differing = one.iter().find(|table| lacks(other, table));
    differing.or_else(|| other.iter().find(|table| lacks(one, table))).map(|table| table.name.clone())
}

async fn send(source: &mut End, target: &mut End, table: &Table) -> Result<CopiedTable, StoreError> {
    let mut sum = RowsDigest::default();
    let pass = async |row: Vec<Value>| {
        sum.add(&row);
        target.insert(table, row).await
    };
    source.each(table, pass).await?;
    Ok(sum.of(table))
}
