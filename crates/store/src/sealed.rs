//! [`SealedKeys`]: the keys of a store, in the clear for whoever has its sealing key.
//!
//! The sealing key is a file, and never in the store: who has only a copy of the database
//! has no key. All gateways of a store are given the same file. Another one is found at
//! the start, by a text that is sealed in the store from the first start on; no new key is
//! ever made over what is sealed with an old one.
//!
//! Each key is sealed for its row (table, name or POD and address): none can be put in
//! the place of another.

use std::path::PathBuf;

use domain::{Address, PodId, UnixMillis};
use seal::{Key, KeyError, SealError, Sealer};
use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox};

use crate::config::Config;
use crate::error::StoreError;
use crate::keys::{SealedIdentity, SecretName};
use crate::store::Store;

/// What is sealed as [`SecretName::Check`].
const KNOWN: &[u8] = b"palatine";

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SealedKeysError {
    /// The sealing key is lost.
    #[error(
        "{file} is not there, and the keys in {store} are sealed with it: put it back from its backup, or copy it \
         from another gateway of this store; a new one would open none of them ([store] sealing_key_file)"
    )]
    Missing {
        /// Where it should be.
        file: PathBuf,
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

/// The keys of a store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SealedKeys {
    store: Store,
    sealer: Sealer,
}

impl SealedKeys {
    /// Opens the keys of a store; makes the sealing key where nothing was ever sealed.
    ///
    /// # Errors
    /// [`SealedKeysError`] names the file, and says what to do.
    pub async fn open_or_create(store: &Store, config: &Config, now: UnixMillis) -> Result<Self, SealedKeysError> {
        if let Some(check) = store.secret(SecretName::Check).await? {
            return Self::checked(store, config, read(config)?, &check);
        }
        let key = seal::read_or_create("sealing.key", &config.sealing_key_file)?;
        let sealed = Sealer::new(&key).seal(KNOWN, &place_of_secret(SecretName::Check));
        // Of two gateways with two keys that begin at once, one finds the other's here.
        let check = store.keep_secret(SecretName::Check, sealed.map_err(SealedKeysError::Seal)?, now).await?;
        Self::checked(store, config, key, &check)
    }

    /// Opens the keys of a store that a gateway has sealed.
    ///
    /// # Errors
    /// [`SealedKeysError`] names the file, and says what to do.
    pub async fn open(store: &Store, config: &Config) -> Result<Self, SealedKeysError> {
        let check = store.secret(SecretName::Check).await?;
        let check = check.ok_or_else(|| SealedKeysError::Unsealed(config.name()))?;
        Self::checked(store, config, read(config)?, &check)
    }

    fn checked(store: &Store, config: &Config, key: Key, check: &[u8]) -> Result<Self, SealedKeysError> {
        let sealer = Sealer::new(&key);
        match sealer.open(check, &place_of_secret(SecretName::Check)) {
            Ok(_) => Ok(Self { store: store.clone(), sealer }),
            Err(_) => Err(SealedKeysError::Foreign { file: config.sealing_key_file.clone(), store: config.name() }),
        }
    }

    /// A secret of the gateways'.
    ///
    /// # Errors
    /// [`SealedKeysError`].
    pub async fn secret(&self, name: SecretName) -> Result<Option<Key>, SealedKeysError> {
        let sealed = self.store.secret(name).await?;
        sealed.map(|sealed| self.unseal_secret(name, &sealed)).transpose()
    }

    /// Keeps a secret, unless there is one of this name; the one that is kept.
    ///
    /// # Errors
    /// [`SealedKeysError`].
    pub async fn keep_secret(&self, name: SecretName, key: &Key, now: UnixMillis) -> Result<Key, SealedKeysError> {
        let sealed = self.seal(key, &place_of_secret(name))?;
        let kept = self.store.keep_secret(name, sealed, now).await?;
        self.unseal_secret(name, &kept)
    }

    /// A POD's key.
    ///
    /// # Errors
    /// [`SealedKeysError`].
    pub async fn identity_of(&self, pod: PodId) -> Result<Option<Key>, SealedKeysError> {
        let sealed = self.store.identity_of(pod).await?;
        sealed.map(|sealed| self.unseal_identity(pod, &sealed)).transpose()
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
        let kept = self.store.keep_identity(pod, SealedIdentity { address, sealed }, now).await?;
        self.unseal_identity(pod, &kept)
    }

    fn seal(&self, key: &Key, place: &[u8]) -> Result<Vec<u8>, SealedKeysError> {
        self.sealer.seal(key.expose_secret(), place).map_err(SealedKeysError::Seal)
    }

    fn unseal_secret(&self, name: SecretName, sealed: &[u8]) -> Result<Key, SealedKeysError> {
        self.unseal(sealed, &place_of_secret(name), || name.as_str().to_owned())
    }

    fn unseal_identity(&self, pod: PodId, identity: &SealedIdentity) -> Result<Key, SealedKeysError> {
        self.unseal(&identity.sealed, &place_of_identity(pod, identity.address), || pod.to_string())
    }

    fn unseal(&self, sealed: &[u8], place: &[u8], of: impl Fn() -> String) -> Result<Key, SealedKeysError> {
        let clear = self.sealer.open(sealed, place);
        let clear = clear.map_err(|source| SealedKeysError::Damaged { of: of(), source })?;
        let mut key: Key = SecretBox::new(Box::default());
        if clear.len() != key.expose_secret().len() {
            return Err(SealedKeysError::Length(of()));
        }
        key.expose_secret_mut().copy_from_slice(&clear);
        Ok(key)
    }
}

fn read(config: &Config) -> Result<Key, SealedKeysError> {
    let file = &config.sealing_key_file;
    seal::read(file).map_err(|error| match error.is_absent() {
        true => SealedKeysError::Missing { file: file.clone(), store: config.name() },
        false => error.into(),
    })
}

/// The parts end with a zero byte, which no name holds.
fn place_of_secret(name: SecretName) -> Vec<u8> {
    [b"secrets\0", name.as_str().as_bytes()].concat()
}

fn place_of_identity(pod: PodId, address: Address) -> Vec<u8> {
    [b"identities\0", pod.as_str().as_bytes(), b"\0", address.as_slice()].concat()
}
