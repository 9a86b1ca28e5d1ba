//! Keys that all gateways of a store share, sealed: no database ever holds one in the
//! clear. What opens them is [`SealedKeys`](crate::SealedKeys).

use domain::{Address, PodId, UnixMillis};

use crate::port::port;
use crate::record::PodRowId;

/// The table of [`SecretName`].
pub(crate) const SECRETS: &str = "secrets";

/// A secret of the gateways' own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretName {
    /// A text that everybody knows: whatever does not open it is not the sealing key.
    Check,
    /// The key of the agents' tokens.
    Tokens,
}

impl SecretName {
    /// Its name in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Tokens => "tokens",
        }
    }
}

/// A POD's key as it lies in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedIdentity {
    /// The key's address.
    pub address: Address,
    /// The key.
    pub sealed: Vec<u8>,
}

/// Why a vault that was on its way goes back to its owner when its POD's key is forgotten.
pub(crate) const KEY_FORGOTTEN: &str = "the agent's key was lost before its vault was seen on the chain";

/// Any sealed key, and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SealedRow {
    /// One of the gateways'.
    Secret { name: String, sealed: Vec<u8> },
    /// A POD's.
    Identity {
        row: PodRowId,
        pod: PodId,
        identity: SealedIdentity,
        /// When the key of a POD of that id was last erased: another one each time.
        erased_at: Option<UnixMillis>,
    },
}

/// What came of a POD's key that was to be put back.
pub(crate) enum RestoredKey {
    /// It is its POD's again.
    Restored,
    /// Its POD has one.
    HasKey,
    /// Its POD is not there any more.
    Removed,
}

port! {
    /// Sealed keys. One that is kept is never replaced. None is kept where `check`, if it is
    /// given, is not what is kept as [`SecretName::Check`]: all keys were sealed with another
    /// sealing key meanwhile ([`StoreError::Resealed`](crate::StoreError::Resealed)).
    KeyStore {
        /// Keeps a secret, unless there is one of this name; the one that is kept.
        fn keep_secret(&self, name: SecretName, sealed: Vec<u8>, check: Option<Vec<u8>>, now: UnixMillis) -> Vec<u8>;

        /// A secret.
        fn secret(&self, name: SecretName) -> Option<Vec<u8>>;

        /// Keeps a POD's key, unless it has one; the one that is kept, until the POD is
        /// removed. [`StoreError::NoPod`](crate::StoreError::NoPod).
        fn keep_identity(
            &self,
            pod: PodId,
            identity: SealedIdentity,
            check: Option<Vec<u8>>,
            now: UnixMillis,
        ) -> SealedIdentity;

        /// A POD's key; none of one that is not there.
        fn identity_of(&self, pod: PodId) -> Option<SealedIdentity>;

        /// Whether a POD of this id was removed since keys are sealed here, its key with it,
        /// whoever has the id now. Before, a removal left the key.
        fn was_erased(&self, pod: PodId) -> bool;

        /// Keeps a key that an earlier version left in a file, as if it were new; nothing where
        /// one of that id was erased. [`StoreError::NoPod`](crate::StoreError::NoPod).
        fn keep_old_identity(
            &self,
            pod: PodId,
            identity: SealedIdentity,
            check: Option<Vec<u8>>,
            now: UnixMillis,
        ) -> Option<SealedIdentity>;
    }
}
