//! A node, as others on its machine know it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::AddressRange;

/// What it has on the machine that no other may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeResources {
    pub(super) mark: String,
    pub(super) state: PathBuf,
    pub(super) range: AddressRange,
    /// The user of slot 0.
    #[serde(default)]
    pub(super) first_uid: u32,
}

impl NodeResources {
    /// A user for each slot, and one for the probe guest.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let (one, two) = (self.first_uid, other.first_uid);
        one <= two.saturating_add(u32::from(other.range.slots()))
            && two <= one.saturating_add(u32::from(self.range.slots()))
    }
}
