//! Rows of any table, on their way from one database to the other.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::error::StoreError;

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
pub struct CopiedTable {
    /// The table.
    pub table: String,
    /// Its rows.
    pub rows: u64,
    /// The sum of their digests, as hexadecimal digits.
    pub digest: String,
}

/// What was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Every table.
    pub tables: Vec<CopiedTable>,
    /// Whether keys are sealed in it: the copy's gateways need the sealing key of before.
    pub is_sealed: bool,
    /// Where that key lies by default, if one is there: in the folder of the source.
    pub default_key: Option<PathBuf>,
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
    /// A key, and no database.
    #[error(
        "{0} is there, and a copy goes into an empty folder: move it out of the way, and after the copy back to where its \
         gateway looks for it"
    )]
    HoldsKey(PathBuf),
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
pub(crate) struct RowsDigest {
    rows: u64,
    sum: [u8; 32],
}

impl RowsDigest {
    pub(crate) fn add(&mut self, row: &[Value]) {
        let mut carry = 0_u16;
        for (digit, more) in self.sum.iter_mut().zip(digest(row)) {
            let [low, high] = (u16::from(*digit) + u16::from(more) + carry).to_le_bytes();
            (*digit, carry) = (low, u16::from(high));
        }
        self.rows += 1;
    }

    /// What it is of.
    pub(crate) fn of(self, table: &Table) -> CopiedTable {
        let digest = self.sum.iter().rev().map(|byte| format!("{byte:02x}")).collect();
        CopiedTable { table: table.name.clone(), rows: self.rows, digest }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(rows: &[Vec<Value>]) -> CopiedTable {
        let mut sum = RowsDigest::default();
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
