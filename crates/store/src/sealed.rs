//! [`SealedKeys`]: the keys of a store, in the clear for whoever has its sealing key.
//!
//! The sealing key is a file, and never in the database: who has only a copy of the database
//! has no key. All gateways of a store are given the same file. Another one is found at
//! the start, by a text that is sealed in the store from the first start on; no new key is
//! ever made over what is sealed with an old one.
//!
//! Each key is sealed for its row (table, name or POD and address): none can be put in
//! the place of another.

use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::{Address, PodId, UnixMillis};
use seal::{Key, KeyError, SealError, Sealer};
use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox};

use crate::config::Config;
use crate::error::StoreError;
use crate::found::{FirstCheck, FoundDatabase};
use crate::keys::{SealedIdentity, SealedRow, SecretName};
use crate::store::Store;

/// Between two looks for another sealing key: as long as a gateway waits with its lease.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// What is sealed as [`SecretName::Check`].
const KNOWN: &[u8] = b"palatine";

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SealedKeysError {
    /// The sealing key is lost.
    #[error(
        "{file} is not there{}, and the keys in {store} are sealed with it: put it back from its backup, or copy it \
         from another gateway of this store; a new one would open none of them ([store] sealing_key_file)",
        nor_in(.former.as_deref())
    )]
    Missing {
        /// Where it should be.
        file: PathBuf,
        /// Where it is not either.
        former: Option<PathBuf>,
        /// The database.
        store: String,
    },
    /// Another sealing key.
    #[error(
        "{file} does not open the keys in {store}: they are sealed with another key; put that one in its place, from \
         its backup or from another gateway of this store ([store] sealing_key_file)"
    )]
    Foreign {
        /// The sealing key.
        file: PathBuf,
        /// The database.
        store: String,
    },
    /// It may be where it lay by default before, which cannot be looked at.
    #[error(
        "{is_not}. Whether it is where it lay by default before cannot be told by who runs this: do so as the gateway's \
         user, or set [store] sealing_key_file, which is looked for nowhere else"
    )]
    Former {
        /// [`SealedKeysError::Missing`] or [`SealedKeysError::Foreign`].
        is_not: Box<SealedKeysError>,
        /// Why not.
        source: KeyError,
    },
    /// Nothing was ever sealed in it.
    #[error("no key was ever sealed in {0}: start its gateway once, which does that")]
    Unsealed(String),
    /// The sealing key's file.
    #[error("[store] sealing_key_file")]
    Key(#[from] KeyError),
    /// One of the keys.
    #[error("the key of {of} in the store does not open")]
    Damaged {
        /// Whose it is.
        of: String,
        /// Why not.
        source: SealError,
    },
    /// One of the keys is no key.
    #[error("the key of {0} in the store has another length")]
    Length(String),
    /// A new key.
    #[error("seal a key")]
    Seal(#[source] SealError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A file that was tried as the sealing key, and is not it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TriedKey {
    /// The file.
    pub file: PathBuf,
    /// Whether another key is in it; else it is not there.
    pub is_foreign: bool,
}

/// The keys of a store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SealedKeys {
    store: Store,
    sealer: Sealer,
    /// What the sealing key was known by: as long as that is in the store, keys are sealed with it.
    check: Vec<u8>,
}

impl SealedKeys {
    /// Opens a store with its keys; makes the sealing key where nothing was ever sealed, of several
    /// gateways that begin at once in one place alone. Where that key is refused, nothing of the database is changed, its schema neither.
    ///
    /// # Errors
    /// [`SealedKeysError`], those of [`Store::open`] among them.
    pub async fn open_store(config: &Config, now: UnixMillis) -> Result<(Store, Self), SealedKeysError> {
        let judge = |found: &FoundDatabase| match found.check.as_deref() {
            Some(check) => key_of(config, check).map(|_| None),
            None => Ok(Some(FirstCheck { sealed: seal_check(&make(config)?)?, now })),
        };
        let store = Store::open_unless(config, judge).await?;
        let keys = Self::open_or_create(&store, config, now).await?;
        Ok((store, keys))
    }

    /// Opens the keys of a store; makes the sealing key where nothing was ever sealed.
    ///
    /// # Errors
    /// [`SealedKeysError`] names the file, and says what to do.
    pub async fn open_or_create(store: &Store, config: &Config, now: UnixMillis) -> Result<Self, SealedKeysError> {
        if let Some(check) = store.secret(SecretName::Check).await? {
            return Ok(Self::with(store, &key_of(config, &check)?, check));
        }
        let key = make(config)?;
        // Of two gateways with two keys that begin at once, one finds the other's here.
        let check = store.keep_secret(SecretName::Check, seal_check(&key)?, None, now).await?;
        if opens(&key, &check) { Ok(Self::with(store, &key, check)) } else { Err(foreign(config)) }
    }

    /// Opens the keys of a store that a gateway has sealed.
    ///
    /// # Errors
    /// [`SealedKeysError`] names the file, and says what to do.
    pub async fn open(store: &Store, config: &Config) -> Result<Self, SealedKeysError> {
        let check = store.secret(SecretName::Check).await?;
        let check = check.ok_or_else(|| SealedKeysError::Unsealed(config.name()))?;
        Ok(Self::with(store, &key_of(config, &check)?, check))
    }

    fn with(store: &Store, key: &Key, check: Vec<u8>) -> Self {
        Self { store: store.clone(), sealer: Sealer::new(key), check }
    }

    fn check(&self) -> Option<Vec<u8>> {
        Some(self.check.clone())
    }

    /// A secret of the gateways'.
    ///
    /// # Errors
    /// [`SealedKeysError`].
    pub async fn secret(&self, name: SecretName) -> Result<Option<Key>, SealedKeysError> {
        match self.store.secret(name).await? {
            Some(sealed) => self.unseal_secret(name, &sealed).await.map(Some),
            None => Ok(None),
        }
    }

    /// Keeps a secret, unless there is one of this name; the one that is kept.
    ///
    /// # Errors
    /// [`SealedKeysError`].
    pub async fn keep_secret(&self, name: SecretName, key: &Key, now: UnixMillis) -> Result<Key, SealedKeysError> {
        let sealed = self.seal(key, &place_of_secret(name.as_str()))?;
        let kept = self.store.keep_secret(name, sealed, self.check(), now).await?;
        self.unseal_secret(name, &kept).await
    }

    /// A POD's key.
    ///
    /// # Errors
    /// [`SealedKeysError`].
    pub async fn identity_of(&self, pod: PodId) -> Result<Option<Key>, SealedKeysError> {
        match self.store.identity_of(pod).await? {
            Some(sealed) => self.unseal_identity(pod, &sealed).await.map(Some),
            None => Ok(None),
        }
    }

    /// Keeps a POD's key, the one of this address, unless it has one; the one that is
    /// kept.
    ///
    /// # Errors
    /// [`SealedKeysError`]; [`StoreError::NoPod`] if there is no such POD.
    pub async fn keep_identity(
        &self,
        pod: PodId,
        address: Address,
        key: &Key,
        now: UnixMillis,
    ) -> Result<Key, SealedKeysError> {
        let sealed = self.seal(key, &place_of_identity(pod, address))?;
        let kept = self.store.keep_identity(pod, SealedIdentity { address, sealed }, self.check(), now).await?;
        self.unseal_identity(pod, &kept).await
    }

    /// Keeps a key that an earlier version left in a file, as [`Self::keep_identity`] does;
    /// nothing where one of that id was erased.
    ///
    /// # Errors
    /// [`SealedKeysError`]; [`StoreError::NoPod`] if there is no such POD.
    pub async fn keep_old_identity(
        &self,
        pod: PodId,
        address: Address,
        key: &Key,
        now: UnixMillis,
    ) -> Result<Option<Key>, SealedKeysError> {
        let sealed = self.seal(key, &place_of_identity(pod, address))?;
        let kept = self.store.keep_old_identity(pod, SealedIdentity { address, sealed }, self.check(), now).await?;
        match kept {
            Some(kept) => self.unseal_identity(pod, &kept).await.map(Some),
            None => Ok(None),
        }
    }

    /// Returns once all keys are sealed with another sealing key, or begun again without those
    /// that were lost: what this gateway has of them in memory is of before, and it must end.
    pub async fn resealed(&self) {
        // Who has a database in SQLite open is alone with it.
        let Store::Postgres(_) = &self.store else { return std::future::pending().await };
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.is_resealed().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "whether keys are sealed anew is not known now; trying again"),
            }
        }
    }

    async fn is_resealed(&self) -> Result<bool, StoreError> {
        Ok(self.store.secret(SecretName::Check).await?.as_ref() != Some(&self.check))
    }

    fn seal(&self, key: &Key, place: &[u8]) -> Result<Vec<u8>, SealedKeysError> {
        self.sealer.seal(key.expose_secret(), place).map_err(SealedKeysError::Seal)
    }

    async fn unseal_secret(&self, name: SecretName, sealed: &[u8]) -> Result<Key, SealedKeysError> {
        self.unseal(sealed, &place_of_secret(name.as_str()), name.as_str().to_owned()).await
    }

    async fn unseal_identity(&self, pod: PodId, identity: &SealedIdentity) -> Result<Key, SealedKeysError> {
        self.unseal(&identity.sealed, &place_of_identity(pod, identity.address), pod.to_string()).await
    }

    async fn unseal(&self, sealed: &[u8], place: &[u8], of: String) -> Result<Key, SealedKeysError> {
        let clear = match self.sealer.open(sealed, place) {
            // It may be whole, and sealed with another key meanwhile.
            Err(SealError::Foreign) if self.is_resealed().await? => return Err(StoreError::Resealed.into()),
            Err(source) => return Err(SealedKeysError::Damaged { of, source }),
            Ok(clear) => clear,
        };
        let mut key: Key = SecretBox::new(Box::default());
        if clear.len() != key.expose_secret().len() {
            return Err(SealedKeysError::Length(of));
        }
        key.expose_secret_mut().copy_from_slice(&clear);
        Ok(key)
    }
}

/// The key that what is sealed opens with, by this sealed text.
pub(crate) fn key_of(config: &Config, check: &[u8]) -> Result<Key, SealedKeysError> {
    let file = config.sealing_key_file.path();
    match seal::read(file) {
        Ok(key) if opens(&key, check) => Ok(key),
        // As where all keys were to be sealed with a new one here, and that was broken off.
        Ok(_) => former_key(config, check, foreign(config)),
        Err(error) if error.is_absent() => former_key(config, check, missing(config)),
        Err(error) => Err(error.into()),
    }
}

/// The one in the former default place, if it is the right one. One that is there and cannot be read is not lost.
fn former_key(config: &Config, check: &[u8], otherwise: SealedKeysError) -> Result<Key, SealedKeysError> {
    let Some(former) = config.sealing_key_file.former() else { return Err(otherwise) };
    let key = match seal::read(former) {
        Ok(key) if opens(&key, check) => key,
        Ok(_) => return Err(otherwise),
        Err(error) if error.is_absent() => return Err(otherwise),
        Err(source) => return Err(SealedKeysError::Former { is_not: Box::new(without_former(otherwise)), source }),
    };
    tracing::info!(former = %former.display(), "the sealing key is where it lay by default before");
    Ok(key)
}

/// Of what is in the former place nothing is known.
fn without_former(error: SealedKeysError) -> SealedKeysError {
    match error {
        SealedKeysError::Missing { file, store, .. } => SealedKeysError::Missing { file, former: None, store },
        error => error,
    }
}

/// What [`key_of`] looks at, where it finds nothing.
pub(crate) fn tried_keys(config: &Config) -> Result<Vec<TriedKey>, KeyError> {
    let key = &config.sealing_key_file;
    let tried = |file: &Path| match seal::read(file) {
        Err(error) if !error.is_absent() => Err(error),
        read => Ok(TriedKey {
            file: std::path::absolute(file).unwrap_or_else(|_| file.to_owned()),
            is_foreign: read.is_ok(),
        }),
    };
    [key.path()].into_iter().chain(key.former()).map(tried).collect()
}

/// The key for a database in which nothing is sealed.
pub(crate) fn make(config: &Config) -> Result<Key, SealedKeysError> {
    let file = config.sealing_key_file.path();
    let is_new = seal::read(file).is_err_and(|error| error.is_absent());
    let key = seal::read_or_create("sealing.key", file)?;
    if is_new {
        let file = file.display();
        tracing::warn!(%file, "the sealing key was made and is nowhere else: keep a copy of it apart from the database's");
    }
    Ok(key)
}

fn missing(config: &Config) -> SealedKeysError {
    let key = &config.sealing_key_file;
    let former = key.former().map(Path::to_owned);
    SealedKeysError::Missing { file: key.path().to_owned(), former, store: config.name() }
}

fn nor_in(former: Option<&Path>) -> String {
    former.map_or_else(String::new, |former| format!(", nor is it {}", former.display()))
}

fn foreign(config: &Config) -> SealedKeysError {
    SealedKeysError::Foreign { file: config.sealing_key_file.path().to_owned(), store: config.name() }
}

/// The text by which the key is known.
pub(crate) fn seal_check(key: &Key) -> Result<Vec<u8>, SealedKeysError> {
    let sealed = Sealer::new(key).seal(KNOWN, &place_of_secret(SecretName::Check.as_str()));
    sealed.map_err(SealedKeysError::Seal)
}

/// Whether this is the key.
pub(crate) fn opens(key: &Key, check: &[u8]) -> bool {
    Sealer::new(key).open(check, &place_of_secret(SecretName::Check.as_str())).is_ok()
}

impl SealedRow {
    /// The place that it is sealed for.
    pub(crate) fn place(&self) -> Vec<u8> {
        match self {
            Self::Secret { name, .. } => place_of_secret(name),
            Self::Identity { pod, identity, .. } => place_of_identity(*pod, identity.address),
        }
    }

    /// What lies there.
    pub(crate) fn sealed(&self) -> &[u8] {
        match self {
            Self::Secret { sealed, .. } => sealed,
            Self::Identity { identity, .. } => &identity.sealed,
        }
    }

    /// The same, sealed anew.
    pub(crate) fn with_sealed(self, anew: Vec<u8>) -> Self {
        match self {
            Self::Secret { name, .. } => Self::Secret { name, sealed: anew },
            Self::Identity { row, pod, identity, erased_at } => {
                Self::Identity { row, pod, identity: SealedIdentity { sealed: anew, ..identity }, erased_at }
            }
        }
    }

    /// Whose it is.
    pub(crate) fn of(&self) -> String {
        match self {
            Self::Secret { name, .. } => name.clone(),
            Self::Identity { pod, .. } => pod.to_string(),
        }
    }
}

/// The parts end with a zero byte, which no name holds.
fn place_of_secret(name: &str) -> Vec<u8> {
    [b"secrets\0", name.as_bytes()].concat()
}

pub(crate) fn place_of_identity(pod: PodId, address: Address) -> Vec<u8> {
    [b"identities\0", pod.as_str().as_bytes(), b"\0", address.as_slice()].concat()
}
