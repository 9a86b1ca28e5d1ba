//! Placement: which node runs a new agent. A pure function of a snapshot.

use serde::{Deserialize, Serialize};

/// What an agent asks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
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
    /// Memory that is still to be given, in MiB.
    pub free_memory_mib: u64,
}

impl NodeView {
    fn holds(&self, ask: Ask) -> bool {
        self.schedulable
            && ask.cores <= self.cores
            && ask.cores <= self.free_cores
            && ask.memory_mib <= self.free_memory_mib
    }
}

/// Why no node was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// No node takes new agents.
    #[error("no node takes new agents")]
    NoNodes,
    /// No node is large enough, even empty.
    #[error("no node has {0} cores")]
    TooLarge(u32),
    /// All nodes that could are full.
    #[error("every node is full")]
    Full,
}

/// Chooses the fullest node that still holds the agent (best fit by memory, then
/// cores, then name), so that large agents find room later.
///
/// # Errors
/// [`NoRoom`] says whether waiting can help.
pub fn place(nodes: &[NodeView], ask: Ask) -> Result<&NodeView, NoRoom> {
    let mut open = nodes.iter().filter(|node| node.schedulable).peekable();
    if open.peek().is_none() {
        return Err(NoRoom::NoNodes);
    }
    if open.all(|node| node.cores < ask.cores) {
        return Err(NoRoom::TooLarge(ask.cores));
    }
    nodes
        .iter()
        .filter(|node| node.holds(ask))
        .min_by(|a, b| (a.free_memory_mib, a.free_cores, &a.name).cmp(&(b.free_memory_mib, b.free_cores, &b.name)))
        .ok_or(NoRoom::Full)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node() -> impl Strategy<Value = NodeView> {
        ("[a-z]{1,4}", any::<bool>(), 1_u32..64, 0_u32..64, 0_u64..65_536).prop_map(
            |(name, schedulable, cores, free_cores, free_memory_mib)| NodeView {
                name,
                schedulable,
                cores,
                free_cores,
                free_memory_mib,
            },
        )
    }

    proptest! {
        #[test]
        fn a_chosen_node_holds_the_agent_and_a_refusal_means_none_does(
            nodes in proptest::collection::vec(node(), 0..30), cores in 1_u32..16, memory_mib in 1_u64..16_384,
        ) {
            let ask = Ask { cores, memory_mib };
            match place(&nodes, ask) {
                Ok(node) => {
                    prop_assert!(node.holds(ask));
                    prop_assert!(nodes.iter().filter(|n| n.holds(ask)).all(|n| n.free_memory_mib >= node.free_memory_mib));
                }
                Err(_) => prop_assert!(!nodes.iter().any(|node| node.holds(ask))),
            }
        }
    }
}
