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

use sha2::{Digest, Sha256};

use crate::config::Place;
use crate::error::StoreError;
use crate::postgres::PostgresEnd;
use crate::sqlite::SqliteEnd;
use crate::url::StoreUrl;

/// What is in a column, in either database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    /// Whole numbers; yes and no are 1 and 0.
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// A table and its columns, sorted by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) columns: Vec<String>,
}

/// How many rows a table has, and what is in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The table.
    pub table: String,
    /// Its rows.
    pub rows: u64,
    /// The sum of their digests, as hexadecimal digits.
    pub digest: String,
}

/// Why nothing was copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// One of the two.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody works with it.
    #[error("a gateway uses {0}: stop it first; one that was killed counts for 20 seconds more")]
    InUse(String),
    /// It would be mixed up.
    #[error("{0} is not empty: copy to a new one")]
    NotEmpty(String),
    /// The two have different tables.
    #[error("{from} and {to} do not have the same columns in the table {table}")]
    Shape {
        /// The source.
        from: String,
        /// The target.
        to: String,
        /// The table.
        table: String,
    },
    /// What arrived is not what was sent.
    #[error("the copy of the table {0} differs from it; nothing was kept")]
    Differs(String),
}

/// A digest of rows, whatever their order: the sum of each one's SHA-256, modulo 2^256.
#[derive(Clone, Default)]
pub(crate) struct Sum {
    rows: u64,
    sum: [u8; 32],
}

impl Sum {
    pub(crate) fn add(&mut self, row: &[Value]) {
        let mut carry = 0_u16;
        for (digit, more) in self.sum.iter_mut().zip(digest(row)) {
            let [low, high] = (u16::from(*digit) + u16::from(more) + carry).to_le_bytes();
            (*digit, carry) = (low, u16::from(high));
        }
        self.rows += 1;
    }

    pub(crate) fn of(self, table: &Table) -> Copied {
        let digest = self.sum.iter().rev().map(|byte| format!("{byte:02x}")).collect();
        Copied { table: table.name.clone(), rows: self.rows, digest }
    }
}

fn digest(row: &[Value]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut part = |kind: u8, bytes: &[u8]| {
        hash.update([kind]);
        hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(bytes);
    };
    for value in row {
        match value {
            Value::Null => part(0, &[]),
            Value::Integer(number) => part(1, &number.to_le_bytes()),
            Value::Text(text) => part(2, text.as_bytes()),
            Value::Bytes(bytes) => part(3, bytes),
        }
    }
    hash.finalize().into()
}

/// One of the two databases.
enum End {
    Sqlite(SqliteEnd),
    Postgres(Box<PostgresEnd>),
}

impl End {
    async fn source(url: &StoreUrl) -> Result<Self, CopyError> {
        Ok(match url.place() {
            Place::Sqlite(directory) => Self::Sqlite(SqliteEnd::source(&directory)?),
            Place::Postgres(options) => Self::Postgres(Box::new(PostgresEnd::open(&options, url).await?)),
        })
    }

    async fn target(url: &StoreUrl) -> Result<Self, CopyError> {
        Ok(match url.place() {
            Place::Sqlite(directory) => Self::Sqlite(SqliteEnd::target(&directory, url)?),
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
    async fn sum(&mut self, table: &Table) -> Result<Copied, StoreError> {
        let mut sum = Sum::default();
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
pub async fn copy(from: &StoreUrl, to: &StoreUrl) -> Result<Vec<Copied>, CopyError> {
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
    Ok(copied)
}

/// The name of a table that is not the same in both.
fn different(one: &[Table], other: &[Table]) -> Option<String> {
    let lacks = |of: &[Table], table: &Table| !of.contains(table);
    let differing = one.iter().find(|table| lacks(other, table));
    differing.or_else(|| other.iter().find(|table| lacks(one, table))).map(|table| table.name.clone())
}

async fn send(source: &mut End, target: &mut End, table: &Table) -> Result<Copied, StoreError> {
    let mut sum = Sum::default();
    let pass = async |row: Vec<Value>| {
        sum.add(&row);
        target.insert(table, row).await
    };
    source.each(table, pass).await?;
    Ok(sum.of(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(rows: &[Vec<Value>]) -> Copied {
        let mut sum = Sum::default();
        rows.iter().for_each(|row| sum.add(row));
        sum.of(&Table { name: "t".to_owned(), columns: Vec::new() })
    }

    #[test]
    fn a_sum_knows_every_value_and_no_order() {
        let row = |n| vec![Value::Integer(n), Value::Text("a".to_owned())];
        assert_eq!(sum(&[row(1), row(2)]), sum(&[row(2), row(1)]));
        assert_ne!(sum(&[row(1), row(1)]), sum(&[row(2), row(2)]));
        assert_ne!(sum(&[vec![Value::Text("a".into())]]), sum(&[vec![Value::Bytes(b"a".to_vec())]]));
        assert_ne!(sum(&[vec![Value::Null]]), sum(&[vec![Value::Integer(0)]]));
        let (ab, a) = (Value::Text("ab".into()), Value::Text("a".into()));
        assert_ne!(sum(&[vec![ab, a.clone()]]), sum(&[vec![a, Value::Text("ba".into())]]));
    }
}
