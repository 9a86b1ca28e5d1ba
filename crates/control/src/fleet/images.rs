//! The images that the nodes hold, and whether they have disk for another agent.

use std::collections::{BTreeMap, BTreeSet};

use domain::ImageDigest;
use wire::v1::node::{ImageNeeds, NodeDisk, NodeInfo, RuntimeName};

/// The images' names and digests.
pub type ImageTable = BTreeMap<String, ImageDigest>;

/// An image that needs something, and where it is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DemandingImage {
    /// What it needs.
    pub(crate) needs: ImageNeeds,
    /// The runtimes of the nodes that hold it.
    pub(crate) runtimes: BTreeSet<RuntimeName>,
}

/// The images that need something.
pub(crate) type DemandingImages = BTreeMap<ImageDigest, DemandingImage>;

/// The images that need something, of all nodes.
pub(crate) fn demanding<'a>(nodes: impl Iterator<Item = &'a NodeInfo> + Clone) -> DemandingImages {
    let mut found = DemandingImages::new();
    for node in nodes.clone() {
        let named = |(name, needs): (&String, &ImageNeeds)| Some((*node.images.get(name)?, needs.clone()));
        for (digest, needs) in node.image_needs.iter().filter_map(named) {
            found.entry(digest).or_insert(DemandingImage { needs, runtimes: BTreeSet::new() });
        }
    }
    for node in nodes {
        for digest in node.images.values() {
            if let Some(image) = found.get_mut(digest) {
                image.runtimes.extend(node.offers());
            }
        }
    }
    found
}

/// The images of all nodes. Where two disagree on a name, the first wins.
pub(crate) fn merged<'a>(nodes: impl DoubleEndedIterator<Item = &'a NodeInfo>) -> ImageTable {
    nodes.rev().flat_map(|node| &node.images).map(|(name, digest)| (name.clone(), *digest)).collect()
}

/// Whether the node has disk for an agent, were it the only one there.
pub(crate) fn has_disk(node: &NodeInfo) -> bool {
    // An older node says nothing of its disk.
    node.disk.is_none_or(|disk| has_room(&disk))
}

/// What is promised to agents comes back when they end: a node that is full of them has
/// room, until what was written, by whomever, has reached what must stay free.
const fn has_room(disk: &NodeDisk) -> bool {
    let promised_at_most = disk.promisable_mib.saturating_add(disk.promised_mib);
    disk.free_mib >= disk.least_free_mib && promised_at_most >= disk.sandbox_mib
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_1_6_a_node_full_of_agents_has_room_and_one_whose_disk_is_over_its_bound_has_none() {
        let empty = NodeDisk {
            size_mib: 10_000,
            free_mib: 9_000,
            least_free_mib: 1_000,
            promised_mib: 0,
            promisable_mib: 8_000,
            overcommit_percent: 100,
            sandbox_mib: 400,
            kept: 0,
            kept_mib: 0,
        };
        assert!(has_room(&empty));
        let all_promised = NodeDisk { promised_mib: 8_000, promisable_mib: 0, ..empty };
        assert!(has_room(&all_promised));
        assert!(!has_room(&NodeDisk { free_mib: 999, ..all_promised }));
        // Nobody is there, and there is no room for a first one either.
        assert!(!has_room(&NodeDisk { free_mib: 1_100, promisable_mib: 100, ..empty }));
    }
}
