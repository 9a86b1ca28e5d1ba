//! The file to which lost keys are written before they are forgotten, sealed as they are.

use std::io;
use std::path::Path;

use domain::{Address, Bytes, PodId, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::keys::{SealedIdentity, SealedRow, SecretName};

/// Keys that were set aside.
#[derive(Serialize, Deserialize)]
pub(crate) struct AsideFile {
    /// The database, for whoever looks into the file.
    store: String,
    /// For people too: clocks differ.
    set_aside_at: UnixMillis,
    keys: Vec<AsideKey>,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum AsideKey {
    Secret {
        secret: String,
        sealed: Bytes,
    },
    Identity {
        pod: PodId,
        address: Address,
        sealed: Bytes,
        /// When the key of a POD of that id was last erased, if ever: where it is another instant
        /// by now, this one is removed, whoever has its id.
        #[serde(default)]
        erased_at: Option<UnixMillis>,
    },
}

/// A POD's key that was set aside.
pub(crate) struct AsideIdentity {
    pub(crate) pod: PodId,
    pub(crate) identity: SealedIdentity,
    /// As it was then.
    pub(crate) erased_at: Option<UnixMillis>,
}

impl AsideFile {
    pub(crate) fn new(store: String, rows: &[SealedRow], now: UnixMillis) -> Self {
        Self { store, set_aside_at: now, keys: rows.iter().map(AsideKey::of).collect() }
    }

    /// Reads one that [`AsideFile::write`] wrote.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }

    /// Writes it to a new file of its owner's alone. One that holds the same keys already, of who
    /// was not told how it ended, serves as well.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        durable::make_dir("lost keys folder", durable::parent(path))?;
        match durable::create("lost keys", path, &serde_json::to_vec(self)?) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match Self::read(path) {
                Ok(there) if there.store == self.store && there.keys == self.keys => durable::sync_parent(path),
                Ok(_) | Err(_) => Err(error),
            },
            written => written,
        }
    }

    /// The key of the agents' tokens in it.
    pub(crate) fn tokens(&self) -> Option<SealedRow> {
        self.keys.iter().find_map(|key| match key {
            AsideKey::Secret { secret, sealed } if secret == SecretName::Tokens.as_str() => {
                Some(SealedRow::Secret { name: secret.clone(), sealed: sealed.to_vec() })
            }
            AsideKey::Secret { .. } | AsideKey::Identity { .. } => None,
        })
    }

    /// The PODs' keys in it.
    pub(crate) fn identities(self) -> impl Iterator<Item = AsideIdentity> {
        self.keys.into_iter().filter_map(|key| match key {
            AsideKey::Secret { .. } => None,
            AsideKey::Identity { pod, address, sealed, erased_at } => {
                Some(AsideIdentity { pod, identity: SealedIdentity { address, sealed: sealed.to_vec() }, erased_at })
            }
        })
    }
}

impl AsideKey {
    fn of(row: &SealedRow) -> Self {
        let sealed = Bytes::copy_from_slice(row.sealed());
        match row {
            SealedRow::Secret { name, .. } => Self::Secret { secret: name.clone(), sealed },
            SealedRow::Identity { pod, identity, erased_at, .. } => {
                Self::Identity { pod: *pod, address: identity.address, sealed, erased_at: *erased_at }
            }
        }
    }
}
