//! What opens the files of a disk ([`crate::content`]) to its holder.

use domain::UnixMillis;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::volumes::Volume;
use crate::Secret;

/// A token for the files of one disk, sent as `Authorization: Bearer`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ContentAccess {
    /// The token. Shown to an API key, it opens what that opens, as long as that is good.
    pub token: Secret,
    /// When it is over.
    #[serde(rename = "token_expires_at")]
    pub expires_at: UnixMillis,
}

/// A volume, and what opens its files: E2B's `VolumeAndToken`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct VolumeAndToken {
    /// The volume.
    #[serde(flatten)]
    pub volume: Volume,
    /// A token for its files ([`ContentAccess`]); absent where a signature was shown that binds no
    /// request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// When the token is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_expires_at: Option<UnixMillis>,
}
