//! API keys: what a wallet lets programs do in its name. The keys themselves are not in
//! here, only their digests.

use domain::{KeyForm, KeyId, KeyScope, UnixMillis, Wallet};

use crate::admission::IdempotencyKey;
use crate::error::StoreError;
use crate::port::port;

/// For how long a key that is over is known, so that whoever uses it is told so.
pub(crate) const EXPIRED_KNOWN_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// An API key, as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyRecord {
    /// Its public part.
    pub id: KeyId,
    /// For whom it acts.
    pub wallet: Wallet,
    /// What its holder calls it.
    pub name: Option<String>,
    /// How it is written.
    pub form: KeyForm,
    /// What it opens.
    pub scope: KeyScope,
    /// The SHA-256 of the key, as it is written.
    pub digest: [u8; 32],
    /// When it was made.
    pub created_at: UnixMillis,
    /// From when on it opens nothing.
    pub expires_at: UnixMillis,
    /// When it was used last, as far as that was noted.
    pub used_at: Option<UnixMillis>,
}

/// A key that is to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewApiKey {
    /// The key.
    pub key: ApiKeyRecord,
    /// The caller's own key, if it sent one.
    pub idempotency: Option<IdempotencyKey>,
    /// Keys that its wallet may have.
    pub most: u32,
}

/// What came of a key that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiKeyOutcome {
    /// It is kept.
    Kept,
    /// It is kept in place of this one, which the same request had made: nobody can say what
    /// that one is.
    Replaced(KeyId),
    /// The caller's key was used for another request.
    Mismatch,
    /// Its wallet has as many as it may.
    TooMany,
}

port! {
    /// API keys. Whoever asks for one hears what is on the disk at that moment: nothing
    /// remembers a key that was revoked.
    ApiKeyStore {
        /// Keeps a key.
        fn keep_api_key(&self, new: NewApiKey) -> ApiKeyOutcome;

        /// A key, those that are over included for some days.
        fn api_key(&self, id: KeyId) -> Option<ApiKeyRecord>;

        /// A wallet's keys, newest first.
        fn api_keys_of(&self, wallet: Wallet) -> Vec<ApiKeyRecord>;

        /// Forgets a key of this wallet; `false` if it has none of this id. Works on a full
        /// disk too.
        fn revoke_api_key(&self, wallet: Wallet, id: KeyId) -> bool;

        /// Notes when keys were used last. One that is gone is passed over.
        fn note_api_keys_used(&self, uses: Vec<(KeyId, UnixMillis)>) -> ();
    }
}

pub(crate) fn form_of(text: &str) -> Result<KeyForm, StoreError> {
    KeyForm::ALL.into_iter().find(|form| form.as_str() == text).ok_or(StoreError::Value("the form of an API key"))
}

pub(crate) fn scope_of(text: &str) -> Result<KeyScope, StoreError> {
    let scope = [KeyScope::Read, KeyScope::Run].into_iter().find(|scope| scope.as_str() == text);
    scope.ok_or(StoreError::Value("the scope of an API key"))
}
