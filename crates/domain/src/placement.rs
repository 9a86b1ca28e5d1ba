//! Placement: which node runs a new agent. A pure function of a snapshot.

use serde::{Deserialize, Serialize};

/// What an agent asks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceRequest {
    /// Virtual processors.
    pub cores: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
}

/// What placement knows of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// The node's name.
    pub name: String,
    /// Whether it takes new agents.
    pub schedulable: bool,
    /// Physical processors: no guest gets more than the machine has.
    pub cores: u32,
    /// Virtual processors that are still to be given.
    pub free_cores: u32,
    /// Memory of an empty node, in MiB.
    pub memory_mib: u64,
    /// Memory that is still to be given, in MiB.
    pub free_memory_mib: u64,
    /// What each agent's disks are promised there, in MiB.
    pub agent_disk_mib: u64,
    /// Disk that is still to be promised, in MiB.
    pub free_disk_mib: u64,
    /// How weakly it would isolate this agent: 0 is the strongest that there is.
    pub weakness: u8,
}

impl NodeView {
    /// Whether it could hold the agent if nothing else were there.
    const fn could_hold(&self, ask: ResourceRequest) -> bool {
        ask.cores <= self.cores && ask.memory_mib <= self.memory_mib
    }

    fn holds(&self, ask: ResourceRequest) -> bool {
        self.schedulable
            && ask.cores <= self.cores
            && ask.cores <= self.free_cores
            && ask.memory_mib <= self.free_memory_mib
            && self.agent_disk_mib <= self.free_disk_mib
    }
}

/// Why no node was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// No node takes new agents.
    #[error("no node takes new agents")]
    NoNodes,
    /// No node is large enough, even empty: waiting does not help.
    #[error(
        "no node can hold {} cores and {} MiB of memory; the largest has {} cores and {} MiB",
        ask.cores, ask.memory_mib, most.cores, most.memory_mib
    )]
    TooLarge {
        /// What was asked for.
        ask: ResourceRequest,
        /// What the largest node has.
        most: ResourceRequest,
    },
    /// All nodes that could are full.
    #[error("every node is full")]
    Full,
}

/// Chooses, of the nodes that isolate the agent the strongest, the fullest that still
/// holds it (best fit by memory, then cores, then name), so that large agents find room later.
///
/// # Errors
/// [`PlacementError`] says whether waiting can help.
pub fn place(nodes: &[NodeView], ask: ResourceRequest) -> Result<&NodeView, PlacementError> {
    let open = || nodes.iter().filter(|node| node.schedulable);
    let largest = open().max_by_key(|node| (node.cores, node.memory_mib)).ok_or(PlacementError::NoNodes)?;
    if !open().any(|node| node.could_hold(ask)) {
        let most = ResourceRequest { cores: largest.cores, memory_mib: largest.memory_mib };
        return Err(PlacementError::TooLarge { ask, most });
    }
    nodes
        .iter()
        .filter(|node| node.holds(ask))
        .min_by_key(|&node| (node.weakness, node.free_memory_mib, node.free_cores, &node.name))
        .ok_or(PlacementError::Full)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node() -> impl Strategy<Value = NodeView> {
        let sizes = (1_u32..64, 0_u64..65_536, 0_u64..16);
        let free = (0_u32..64, 0_u64..65_536, 0_u64..32);
        ("[a-z]{1,4}", any::<bool>(), sizes, free, 0_u8..4).prop_map(
            |(name, schedulable, (cores, memory_mib, agent_disk_mib), free, weakness)| {
                let (free_cores, free_memory_mib, free_disk_mib) = free;
                let free_memory_mib = free_memory_mib.min(memory_mib);
                NodeView {
                    name,
                    schedulable,
                    cores,
                    free_cores,
                    memory_mib,
                    free_memory_mib,
                    agent_disk_mib,
                    free_disk_mib,
                    weakness,
                }
            },
        )
    }

    fn large(cores: u32, memory_mib: u64) -> NodeView {
        NodeView {
            name: "one".to_owned(),
            schedulable: true,
            cores,
            free_cores: 0,
            memory_mib,
            free_memory_mib: 0,
            agent_disk_mib: 10,
            free_disk_mib: 0,
            weakness: 0,
        }
    }

    #[test]
    fn case_no_capacity_waiting_is_offered_only_where_it_can_help() {
        let most = ResourceRequest { cores: 2, memory_mib: 4_096 };
        let nodes = [large(most.cores, most.memory_mib)];
        assert_eq!(place(&nodes, most), Err(PlacementError::Full));
        for ask in [ResourceRequest { cores: 4, ..most }, ResourceRequest { memory_mib: 8_192, ..most }] {
            assert_eq!(place(&nodes, ask), Err(PlacementError::TooLarge { ask, most }));
        }
        assert_eq!(place(&[], most), Err(PlacementError::NoNodes));
    }

    #[test]
    fn fault_1_6_a_node_that_has_promised_its_disk_is_full() {
        let ask = ResourceRequest { cores: 1, memory_mib: 1 };
        let node = NodeView { free_cores: 2, free_memory_mib: 4_096, free_disk_mib: 9, ..large(2, 4_096) };
        assert_eq!(place(std::slice::from_ref(&node), ask), Err(PlacementError::Full));
        let roomy = NodeView { free_disk_mib: 10, ..node };
        assert!(place(&[roomy], ask).is_ok());
    }

    #[test]
    fn the_strongest_isolation_comes_before_the_best_fit() {
        let ask = ResourceRequest { cores: 1, memory_mib: 1 };
        let node = |name: &str, free_memory_mib, weakness| NodeView {
            name: name.to_owned(),
            free_cores: 2,
            free_disk_mib: 10,
            free_memory_mib,
            weakness,
            ..large(2, 4_096)
        };
        let nodes = [node("container", 10, 2), node("machine", 4_000, 1)];
        assert_eq!(place(&nodes, ask).unwrap().name, "machine");
        // What the stronger one has no room for the weaker one takes: it was allowed.
        let nodes = [node("container", 10, 2), node("machine", 0, 1)];
        assert_eq!(place(&nodes, ask).unwrap().name, "container");
    }

    proptest! {
        #[test]
        fn a_chosen_node_holds_the_agent_and_a_refusal_means_none_does(
            nodes in proptest::collection::vec(node(), 0..30), cores in 1_u32..16, memory_mib in 1_u64..16_384,
        ) {
            let ask = ResourceRequest { cores, memory_mib };
            match place(&nodes, ask) {
                Ok(node) => {
                    prop_assert!(node.holds(ask));
                    let order = |n: &NodeView| (n.weakness, n.free_memory_mib);
                    prop_assert!(nodes.iter().filter(|n| n.holds(ask)).all(|n| order(n) >= order(node)));
                }
                Err(_) => prop_assert!(!nodes.iter().any(|node| node.holds(ask))),
            }
        }
    }
}
