//! Columns of JSON text. Not of `jsonb`, whose numbers and order are not those that
//! were written: a digest of a copied table would differ.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::postgres::PgRow;

/// A value as JSON text.
pub(crate) fn to_json(value: &impl Serialize) -> sqlx::Result<String> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}

/// A column of JSON text.
pub(crate) fn parse_json<T: DeserializeOwned>(row: &PgRow, column: usize) -> sqlx::Result<T> {
    let text: &str = row.try_get(column)?;
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
