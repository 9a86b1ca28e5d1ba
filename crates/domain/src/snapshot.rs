//! Snapshots of volumes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::VolumeId;
use crate::text::text_on_the_wire;

/// Snapshots of one wallet, at most.
pub const MAX_SNAPSHOTS: u32 = 100;

/// Not the id of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the id of a snapshot is 16 lower-case hex digits, such as 5d1e2f3a4b6c7890")]
pub struct SnapshotIdError;

/// What a snapshot is called: 16 hex digits, as a volume. No secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(VolumeId);

impl SnapshotId {
    /// The id of these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(VolumeId::from_bits(bits))
    }

    /// The bits, for a database that stores integers.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0.bits()
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotId({self})")
    }
}

impl FromStr for SnapshotId {
    type Err = SnapshotIdError;

    fn from_str(text: &str) -> Result<Self, SnapshotIdError> {
        text.parse().map(Self).map_err(|_| SnapshotIdError)
    }
}

text_on_the_wire!(SnapshotId, "^[0-9a-f]{16}$", "5d1e2f3a4b6c7890");

/// Where a snapshot is in its life. While one is made or put back no agent gets the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotState {
    /// Its node copies the volume.
    Creating,
    /// The volume can be put back to it.
    Ready,
    /// Its node puts the volume back to it.
    Restoring,
    /// Its owner has removed it; its node may have it still.
    Removing,
    /// Its node has refused to make it, and says why: nothing was copied, and the volume is as it was.
    Failed,
}

impl SnapshotState {
    /// All.
    pub const ALL: [Self; 5] = [Self::Creating, Self::Ready, Self::Restoring, Self::Removing, Self::Failed];

    /// The name as the wire and the database write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Restoring => "restoring",
            Self::Removing => "removing",
            Self::Failed => "failed",
        }
    }
}
