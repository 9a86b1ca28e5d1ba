//! API keys: what a wallet lets programs do in its name.

use domain::{KeyForm, KeyId, KeyScope, UnixMillis, Wallet};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Secret;

/// Where a key goes that is not sent as `Authorization: Bearer`.
pub const X_API_KEY: &str = "x-api-key";
/// Seconds for which a key is good where nothing is said: 30 days.
pub const DEFAULT_KEY_SECONDS: u64 = 30 * 24 * 60 * 60;
/// The least seconds for which a key may be good.
pub const MIN_KEY_SECONDS: u64 = 60;
/// The most seconds for which a key may be good: 366 days.
pub const MAX_KEY_SECONDS: u64 = 366 * 24 * 60 * 60;
/// Characters of a key's name at most.
pub const MAX_KEY_NAME: usize = 64;

/// `POST /keys`, signed by the wallet that the key is to act for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// What it opens.
    pub scope: KeyScope,
    /// What its holder calls it: 1 to 64 printable characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "ci")]
    pub name: Option<String>,
    /// Seconds for which it is good: from 60 to 31622400 (366 days); 2592000 (30 days) where
    /// this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 2_592_000)]
    pub expires_in_s: Option<u64>,
    /// How it is written; `palatine` where this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<KeyForm>,
}

/// The answer of `POST /keys`: the one place where the key itself is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyResponse {
    /// The key. Nobody can show it again.
    pub key: Secret,
    /// What is known of it from here on.
    pub info: ApiKey,
}

/// An API key, as its holder sees it: without the key itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKey {
    /// Its name for `DELETE /keys/{id}`.
    pub id: KeyId,
    /// What the key itself begins with.
    #[schema(example = "pal_1a2b3c4d5e6f7890")]
    pub prefix: String,
    /// What its holder calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For whom it acts.
    pub wallet: Wallet,
    /// What it opens.
    pub scope: KeyScope,
    /// When it was made.
    pub created_at: UnixMillis,
    /// From when on it opens nothing.
    pub expires_at: UnixMillis,
    /// When it was used last, to the minute; absent where it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<UnixMillis>,
}

/// The answer of `GET /keys`: one's own, newest first, those that have expired lately
/// included.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeysResponse {
    /// The keys.
    pub keys: Vec<ApiKey>,
}

/// The answer of `DELETE /keys/{id}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevokedResponse {
    /// Always `true`: it opens nothing any more.
    pub success: bool,
    /// The key.
    pub id: KeyId,
}
