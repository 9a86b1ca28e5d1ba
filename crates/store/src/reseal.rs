//! All keys of a store sealed anew under another key, or begun again without those that the
//! sealing key was lost of, or these put back.
//!
//! No gateway may use the store meanwhile, as with a copy. Either is one transaction: whoever
//! is killed leaves all keys as they were, or all as they are to be.

use std::io;
use std::path::{Path, PathBuf};

use domain::{Address, PodId, UnixMillis};
use seal::{Key, Sealer};
use secrecy::ExposeSecret;

use crate::aside::{AsideFile, AsideIdentity};
use crate::config::Config;
use crate::error::StoreError;
use crate::found::FoundDatabase;
use crate::keys::{RestoredKey, SealedIdentity, SealedRow, SecretName};
use crate::postgres::PostgresKeys;
use crate::record::PodRowId;
use crate::sealed::{SealedKeysError, TriedKey, key_of, make, opens, place_of_identity, seal_check, tried_keys};
use crate::sqlite::SqliteKeys;
use crate::table::CopyError;
use crate::url::Place;

/// Why the keys are as they were, or why nobody knows: [`ResealError::Unknown`].
#[derive(Debug, thiserror::Error)]
pub enum ResealError {
    /// The end was asked for, and no answer came that says which it was.
    #[error(
        "whether it was done is not known: keep every sealing key, the old one and the new, and run the same command \
         again"
    )]
    Unknown(#[source] StoreError),
    /// The database, or who uses it.
    #[error(transparent)]
    Database(#[from] CopyError),
    /// The keys, or what they are sealed with.
    #[error(transparent)]
    Keys(#[from] SealedKeysError),
    /// The new key's file.
    #[error("the new sealing key")]
    NewKey(#[source] seal::KeyError),
    /// The new key is no other one.
    #[error("{new} holds the same key as {file}, with which they are sealed: name a file that is not there")]
    SameKey {
        /// The new key's file.
        new: PathBuf,
        /// The sealing key.
        file: PathBuf,
    },
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
    /// What was set aside cannot be read.
    #[error("read what was set aside in {path}")]
    SetAside {
        /// Where from.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The key that it is sealed with.
    #[error("the sealing key of what was set aside")]
    AsideKey(#[source] seal::KeyError),
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
    /// Whether the text is among them that the sealing key is known by: no gateway starts without.
    pub check: bool,
    /// Whether the key of the agents' tokens is among them.
    pub tokens: bool,
    /// The PODs, and their keys' addresses.
    pub pods: Vec<(PodId, Address)>,
    /// What was tried as the sealing key, where none of it is.
    pub tried: Vec<TriedKey>,
}

impl LostKeys {
    fn of(rows: &[SealedRow], tried: Vec<TriedKey>) -> Self {
        let mut lost = Self { tried, ..Self::default() };
        for row in rows {
            match row {
                row if is_check(row) => lost.check = true,
                SealedRow::Secret { name, .. } => lost.tokens |= name == SecretName::Tokens.as_str(),
                SealedRow::Identity { pod, identity, .. } => lost.pods.push((*pod, identity.address)),
            }
        }
        lost
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.check && !self.tokens && self.pods.is_empty()
    }
}

/// What came of keys that were set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoredKeys {
    /// How many are their PODs' again.
    pub restored: usize,
    /// How many were not put back, as their PODs have a key.
    pub has_key: usize,
    /// How many are of PODs that were removed.
    pub removed: usize,
    /// How many the sealing key does not open.
    pub closed: usize,
    /// What came of the key of the agents' tokens, if it is among them and opens.
    pub tokens: Option<RestoredTokens>,
}

/// What came of the key of the agents' tokens that was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoredTokens {
    /// It is that key again: tokens of before are good, and those given since are not.
    Restored,
    /// It is there already.
    Same,
    /// Another one is in its place, and stays.
    Left,
}

/// A database that no gateway uses, in a transaction.
enum KeyTable {
    Sqlite(Box<SqliteKeys>),
    Postgres(Box<PostgresKeys>),
}

impl KeyTable {
    /// Opens it, unless `refuse` says no to what it is; its schema stays as it is.
    async fn open(
        config: &Config,
        refuse: impl FnOnce(&FoundDatabase) -> Result<(), StoreError>,
    ) -> Result<Self, CopyError> {
        Ok(match config.place() {
            Place::Sqlite(directory) => Self::Sqlite(Box::new(SqliteKeys::open(&directory, refuse)?)),
            Place::Postgres(options) => Self::Postgres(Box::new(PostgresKeys::open(*options, config, refuse).await?)),
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

    /// Forgets a POD's key, and the vault that was only drafted for it. Nobody pays for one that is
    /// on its way for that key: it is its owner's to sign for again.
    async fn forget(&mut self, pod: PodRowId) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(table) => table.forget(pod),
            Self::Postgres(table) => table.forget(pod).await,
        }
    }

    /// Gives a POD its key again.
    async fn restore(&mut self, aside: &AsideIdentity, now: UnixMillis) -> Result<RestoredKey, StoreError> {
        match self {
            Self::Sqlite(table) => table.restore(aside, now),
            Self::Postgres(table) => table.restore(aside, now).await,
        }
    }

    /// Once this has gone well, no error of the connection says otherwise.
    async fn commit(self) -> Result<(), ResealError> {
        let committed = match self {
            Self::Sqlite(table) => table.commit(),
            Self::Postgres(table) => table.commit().await,
        };
        committed.map_err(|error| if error.leaves_open() { ResealError::Unknown(error) } else { error.into() })
    }
}

/// Seals all keys of a store with the key in the file `new`, which is made where there is
/// none. For a program of its own, as [`copy`](crate::copy()) is.
///
/// # Errors
/// [`ResealError`]; but after [`ResealError::Unknown`], every key is sealed as it was.
pub async fn reseal(config: &Config, new: &Path) -> Result<Resealed, ResealError> {
    let mut table = KeyTable::open(config, FoundDatabase::must_seal_keys).await?;
    let rows = table.rows().await?;
    let check = check_in(&rows).ok_or_else(|| SealedKeysError::Unsealed(config.name()))?;
    let keys = rows.iter().filter(|row| !is_check(row)).count();
    // Whoever was killed after the end is told that it is done.
    if seal::read(new).is_ok_and(|key| opens(&key, check)) {
        return match config.sealing_key_file.found(|key| opens(key, check)) {
            Some(file) if !is_same(file, new) => {
                Err(ResealError::SameKey { new: new.to_owned(), file: file.to_owned() })
            }
            Some(_) | None => Ok(Resealed { keys, already: true }),
        };
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
    let rows = KeyTable::open(config, FoundDatabase::must_seal_keys).await?.rows().await?;
    let (key, tried) = key_unless_lost(config, &rows)?;
    Ok(LostKeys::of(&lost_rows(key.as_ref(), rows), tried))
}

/// Begins again without the keys that the sealing key does not open: they are written to the
/// file `aside`, sealed as they are, and then deleted. The sealing key is made where there
/// is none, and a new key of the tokens where that one was lost.
///
/// # Errors
/// [`ResealError`]; but after [`ResealError::Unknown`], the database is as it was.
pub async fn forget_lost_keys(config: &Config, aside: &Path, now: UnixMillis) -> Result<LostKeys, ResealError> {
    let mut table = KeyTable::open(config, FoundDatabase::must_seal_keys).await?;
    let rows = table.rows().await?;
    let (key, tried) = key_unless_lost(config, &rows)?;
    let rows = lost_rows(key.as_ref(), rows);
    let lost = LostKeys::of(&rows, tried);
    if rows.is_empty() {
        return Ok(lost);
    }
    let written = AsideFile::new(config.name(), &rows, now).write(aside);
    written.map_err(|source| ResealError::Aside { path: aside.to_owned(), source })?;
    let key = key.map_or_else(|| make(config), Ok)?;
    for row in rows {
        match &row {
            SealedRow::Identity { row, .. } => table.forget(*row).await?,
            // In its place: since when keys are sealed here stays known.
            SealedRow::Secret { .. } => {
                let anew = new_secret(&key, &row)?;
                table.put(&row.with_sealed(anew)).await?;
            }
        }
    }
    table.commit().await?;
    Ok(lost)
}

/// What comes into the place of a secret that is lost.
fn new_secret(key: &Key, row: &SealedRow) -> Result<Vec<u8>, ResealError> {
    if is_check(row) {
        return Ok(seal_check(key)?);
    }
    let secret = seal::generate().map_err(ResealError::Random)?;
    Ok(Sealer::new(key).seal(secret.expose_secret(), &row.place()).map_err(SealedKeysError::Seal)?)
}

/// Gives the PODs their keys again that [`forget_lost_keys`] has set aside: those that open with
/// the sealing key in the file `opens_with`, or else with the store's, of PODs that are still
/// there and have no key. The key of the agents' tokens stays the one that is there, unless
/// `with_tokens`.
///
/// # Errors
/// [`ResealError`]; but after [`ResealError::Unknown`], the database is as it was.
pub async fn restore_keys(
    config: &Config,
    aside: &Path,
    opens_with: Option<&Path>,
    with_tokens: bool,
    now: UnixMillis,
) -> Result<RestoredKeys, ResealError> {
    let mut table = KeyTable::open(config, FoundDatabase::must_be_current).await?;
    let rows = table.rows().await?;
    let own = key_of(config, check_in(&rows).ok_or_else(|| SealedKeysError::Unsealed(config.name()))?)?;
    let given = opens_with.map(seal::read).transpose().map_err(ResealError::AsideKey)?;
    let (before, after) = (Sealer::new(given.as_ref().unwrap_or(&own)), Sealer::new(&own));
    let file = AsideFile::read(aside).map_err(|source| ResealError::SetAside { path: aside.to_owned(), source })?;
    let mut done = RestoredKeys::default();
    if let Some(row) = file.tokens() {
        match before.open(row.sealed(), &row.place()) {
            Ok(clear) => done.tokens = Some(restore_tokens(&mut table, &rows, row, &clear, &after, with_tokens).await?),
            Err(_) => done.closed += 1,
        }
        if done.tokens == Some(RestoredTokens::Restored) {
            // A gateway that was only held up has the other one in memory, and finds out by this.
            let anew = seal_check(&own)?;
            for check in rows.iter().filter(|row| is_check(row)) {
                table.put(&check.clone().with_sealed(anew.clone())).await?;
            }
        }
    }
    for aside in file.identities() {
        let place = place_of_identity(aside.pod, aside.identity.address);
        let Ok(clear) = before.open(&aside.identity.sealed, &place) else {
            done.closed += 1;
            continue;
        };
        let sealed = after.seal(&clear, &place).map_err(SealedKeysError::Seal)?;
        let anew = AsideIdentity { identity: SealedIdentity { sealed, ..aside.identity }, ..aside };
        match table.restore(&anew, now).await? {
            RestoredKey::Restored => done.restored += 1,
            RestoredKey::HasKey => done.has_key += 1,
            RestoredKey::Removed => done.removed += 1,
        }
    }
    table.commit().await?;
    Ok(done)
}

/// Puts the key of the agents' tokens into the place of the one that is there, if that is wanted.
async fn restore_tokens(
    table: &mut KeyTable,
    rows: &[SealedRow],
    row: SealedRow,
    clear: &[u8],
    sealer: &Sealer,
    wanted: bool,
) -> Result<RestoredTokens, ResealError> {
    let there = rows.iter().find(|there| there.place() == row.place());
    if there.is_some_and(|there| sealer.open(there.sealed(), &there.place()).is_ok_and(|key| *key == *clear)) {
        return Ok(RestoredTokens::Same);
    }
    if !wanted {
        return Ok(RestoredTokens::Left);
    }
    let sealed = sealer.seal(clear, &row.place()).map_err(SealedKeysError::Seal)?;
    table.put(&row.with_sealed(sealed)).await?;
    Ok(RestoredTokens::Restored)
}

/// The sealing key, or another one that lies in its place; none where it is lost. And, unless it
/// is the sealing key, what was tried.
fn key_unless_lost(config: &Config, rows: &[SealedRow]) -> Result<(Option<Key>, Vec<TriedKey>), SealedKeysError> {
    let check = check_in(rows).ok_or_else(|| SealedKeysError::Unsealed(config.name()))?;
    let key = match key_of(config, check) {
        Err(SealedKeysError::Missing { .. }) => None,
        // It may have sealed some of them.
        Err(SealedKeysError::Foreign { file, .. }) => Some(seal::read(&file)?),
        found => return found.map(|key| (Some(key), Vec::new())),
    };
    Ok((key, tried_keys(config)?))
}

/// Those of the rows that do not open.
fn lost_rows(key: Option<&Key>, rows: Vec<SealedRow>) -> Vec<SealedRow> {
    let Some(sealer) = key.map(Sealer::new) else { return rows };
    rows.into_iter().filter(|row| sealer.open(row.sealed(), &row.place()).is_err()).collect()
}

/// Whether both name one file.
fn is_same(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

fn check_in(rows: &[SealedRow]) -> Option<&[u8]> {
    rows.iter().find(|row| is_check(row)).map(SealedRow::sealed)
}

fn is_check(row: &SealedRow) -> bool {
    matches!(row, SealedRow::Secret { name, .. } if name == SecretName::Check.as_str())
}
