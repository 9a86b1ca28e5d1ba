//! All keys of a store sealed anew under another key, or begun again without those that the
//! sealing key was lost of.
//!
//! No gateway may use the store meanwhile, as with a copy. Either is one transaction: whoever
//! is killed leaves all keys as they were, or all as they are to be.

use std::io;
use std::path::{Path, PathBuf};

use domain::{Address, Bytes, PodId, UnixMillis};
use seal::{Key, Sealer};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::config::Config;
use crate::error::StoreError;
use crate::keys::{SealedRow, SecretName};
use crate::postgres::PostgresKeys;
use crate::sealed::{SealedKeysError, key_of, make, opens, seal_check};
use crate::sqlite::SqliteKeys;
use crate::table::CopyError;
use crate::url::Place;

/// Why the keys are as they were.
#[derive(Debug, thiserror::Error)]
pub enum ResealError {
    /// The database, or who uses it.
    #[error(transparent)]
    Database(#[from] CopyError),
    /// The keys, or what they are sealed with.
    #[error(transparent)]
    Keys(#[from] SealedKeysError),
    /// The new key's file.
    #[error("the new sealing key")]
    NewKey(#[source] seal::KeyError),
    /// A new key of the agents' tokens.
    #[error("make a key of the agents' tokens")]
    Random(#[source] io::Error),
    /// What is set aside cannot be written.
    #[error("write what is set aside to {path}")]
    Aside {
        /// Where to.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl From<StoreError> for ResealError {
    fn from(error: StoreError) -> Self {
        Self::Database(error.into())
    }
}

/// What was sealed anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resealed {
    /// How many keys.
    pub keys: usize,
    /// Whether they were sealed with that key already.
    pub already: bool,
}

/// Keys that the sealing key does not open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LostKeys {
    /// Whether the key of the agents' tokens is among them.
    pub tokens: bool,
    /// The PODs, and their keys' addresses.
    pub pods: Vec<(PodId, Address)>,
}

impl LostKeys {
    fn of(rows: &[SealedRow]) -> Self {
        let mut lost = Self::default();
        for row in rows {
            match row {
                SealedRow::Secret { name, .. } => lost.tokens |= name == SecretName::Tokens.as_str(),
                SealedRow::Identity { pod, identity, .. } => lost.pods.push((*pod, identity.address)),
            }
        }
        lost
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.tokens && self.pods.is_empty()
    }
}

/// A database that no gateway uses, in a transaction.
enum KeyTable {
    Sqlite(Box<SqliteKeys>),
    Postgres(Box<PostgresKeys>),
}

impl KeyTable {
    async fn open(config: &Config) -> Result<Self, CopyError> {
        Ok(match config.place() {
            Place::Sqlite(directory) => Self::Sqlite(Box::new(SqliteKeys::open(&directory)?)),
            Place::Postgres(options) => Self::Postgres(Box::new(PostgresKeys::open(&options, &config.name()).await?)),
        })
    }

    async fn rows(&mut self) -> Result<Vec<SealedRow>, StoreError> {
        match self {
            Self::Sqlite(table) => table.rows(),
            Self::Postgres(table) => table.rows().await,
        }
    }

    /// Writes a key where it lies.
    async fn put(&mut self, row: &SealedRow) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(table) => table.put(row),
            Self::Postgres(table) => table.put(row).await,
        }
    }

    async fn delete(&mut self, row: &SealedRow) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(table) => table.delete(row),
            Self::Postgres(table) => table.delete(row).await,
        }
    }

    async fn insert_secret(&mut self, name: SecretName, sealed: &[u8], now: UnixMillis) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(table) => table.insert_secret(name, sealed, now),
            Self::Postgres(table) => table.insert_secret(name, sealed, now).await,
        }
    }

    async fn commit(self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(table) => table.commit(),
            Self::Postgres(table) => table.commit().await,
        }
    }
}

/// Seals all keys of a store with the key in the file `new`, which is made where there is
/// none. For a program of its own, as [`copy`](crate::copy()) is.
///
/// # Errors
/// [`ResealError`]; every key is sealed as it was.
pub async fn reseal(config: &Config, new: &Path) -> Result<Resealed, ResealError> {
    let mut table = KeyTable::open(config).await?;
    let rows = table.rows().await?;
    let check = check_in(&rows).ok_or_else(|| SealedKeysError::Unsealed(config.name()))?;
    let keys = rows.iter().filter(|row| !is_check(row)).count();
    // Whoever was killed after the end is told that it is done.
    if seal::read(new).is_ok_and(|key| opens(&key, check)) {
        return Ok(Resealed { keys, already: true });
    }
    let before = Sealer::new(&key_of(config, check)?);
    let after = Sealer::new(&seal::read_or_create("new-sealing.key", new).map_err(ResealError::NewKey)?);
    for row in rows {
        let (place, of) = (row.place(), row.of());
        let clear = before.open(row.sealed(), &place);
        let clear = clear.map_err(|source| SealedKeysError::Damaged { of, source })?;
        let anew = after.seal(&clear, &place).map_err(SealedKeysError::Seal)?;
        table.put(&row.with_sealed(anew)).await?;
    }
    table.commit().await?;
    Ok(Resealed { keys, already: false })
}

/// The keys of a store that the sealing key does not open, be it lost or another one.
///
/// # Errors
/// [`ResealError`].
pub async fn find_lost_keys(config: &Config) -> Result<LostKeys, ResealError> {
    let rows = KeyTable::open(config).await?.rows().await?;
    let key = key_unless_lost(config, &rows)?;
    Ok(LostKeys::of(&lost_rows(key.as_ref(), rows)))
}

/// Begins again without the keys that the sealing key does not open: they are written to the
/// file `aside`, sealed as they are, and then deleted. The sealing key is made where there
/// is none, and a new key of the tokens where that one was lost.
///
/// # Errors
/// [`ResealError`]; the database is as it was.
pub async fn forget_lost_keys(config: &Config, aside: &Path, now: UnixMillis) -> Result<LostKeys, ResealError> {
    let mut table = KeyTable::open(config).await?;
    let rows = table.rows().await?;
    let key = key_unless_lost(config, &rows)?;
    let rows = lost_rows(key.as_ref(), rows);
    let lost = LostKeys::of(&rows);
    if rows.is_empty() {
        return Ok(lost);
    }
    set_aside(config, &rows, aside, now).map_err(|source| ResealError::Aside { path: aside.to_owned(), source })?;
    for row in &rows {
        table.delete(row).await?;
    }
    let key = key.map_or_else(|| make(config), Ok)?;
    if rows.iter().any(is_check) {
        table.insert_secret(SecretName::Check, &seal_check(&key)?, now).await?;
    }
    if lost.tokens {
        let tokens = seal::generate().map_err(ResealError::Random)?;
        table.insert_secret(SecretName::Tokens, &seal_tokens(&key, &tokens)?, now).await?;
    }
    table.commit().await?;
    Ok(lost)
}

fn seal_tokens(key: &Key, tokens: &Key) -> Result<Vec<u8>, SealedKeysError> {
    let row = SealedRow::Secret { name: SecretName::Tokens.as_str().to_owned(), sealed: Vec::new() };
    Sealer::new(key).seal(tokens.expose_secret(), &row.place()).map_err(SealedKeysError::Seal)
}

/// The sealing key; none where it is lost, or another one lies in its place.
fn key_unless_lost(config: &Config, rows: &[SealedRow]) -> Result<Option<Key>, SealedKeysError> {
    let check = check_in(rows).ok_or_else(|| SealedKeysError::Unsealed(config.name()))?;
    match key_of(config, check) {
        Err(SealedKeysError::Missing { .. } | SealedKeysError::Foreign { .. }) => Ok(None),
        found => found.map(Some),
    }
}

/// Those of the rows that do not open.
fn lost_rows(key: Option<&Key>, rows: Vec<SealedRow>) -> Vec<SealedRow> {
    let Some(sealer) = key.map(Sealer::new) else { return rows };
    rows.into_iter().filter(|row| sealer.open(row.sealed(), &row.place()).is_err()).collect()
}

fn check_in(rows: &[SealedRow]) -> Option<&[u8]> {
    rows.iter().find(|row| is_check(row)).map(SealedRow::sealed)
}

fn is_check(row: &SealedRow) -> bool {
    matches!(row, SealedRow::Secret { name, .. } if name == SecretName::Check.as_str())
}

/// Writes rows to a new file of its owner's alone.
fn set_aside(config: &Config, rows: &[SealedRow], path: &Path, now: UnixMillis) -> io::Result<()> {
    let keys: Vec<Value> = rows.iter().map(shown).collect();
    let text = json!({ "store": config.name(), "set_aside_at": now.0, "keys": keys }).to_string();
    durable::make_dir("lost keys folder", durable::parent(path))?;
    durable::create("lost keys", path, text.as_bytes())
}

fn shown(row: &SealedRow) -> Value {
    let sealed = Bytes::copy_from_slice(row.sealed());
    match row {
        SealedRow::Secret { name, .. } => json!({ "secret": name, "sealed": sealed }),
        SealedRow::Identity { pod, identity, .. } => {
            json!({ "pod": pod, "address": identity.address, "sealed": sealed })
        }
    }
}
