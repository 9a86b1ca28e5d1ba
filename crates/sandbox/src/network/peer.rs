//! A node, as others on its machine know it.

use std::ops::RangeInclusive;
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
    /// The users of its containers, if it may have any.
    #[serde(default)]
    pub(super) container_uids: Option<RangeInclusive<u32>>,
}

impl NodeResources {
    /// Its users, by the keys that say which they are: of machines one for each slot, and one for the probe guest.
    fn uids(&self) -> impl Iterator<Item = (&'static str, RangeInclusive<u32>)> {
        let machines = self.first_uid..=self.first_uid.saturating_add(u32::from(self.range.slots()));
        let containers = self.container_uids.clone().map(|uids| ("node.first_container_uid", uids));
        [("node.first_uid", machines)].into_iter().chain(containers)
    }

    /// The first of its users that another has too: the key that says so, and where both begin.
    pub(super) fn meets(&self, other: &Self) -> Option<(&'static str, u32, u32)> {
        self.uids().find_map(|(key, ours)| {
            let meets =
                |(_, theirs): &(_, RangeInclusive<u32>)| ours.start() <= theirs.end() && theirs.start() <= ours.end();
            other.uids().find(meets).map(|(_, theirs)| (key, *ours.start(), *theirs.start()))
        })
    }
}
