//! Which node an agent is on.

use store::RunRecord;

/// Why an agent is on no node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoNode {
    /// Nothing of it is left on one.
    #[error("the agent has ended, and nothing of it is left on its node")]
    Ended,
    /// It was not placed yet.
    #[error("the agent has no node yet; try again")]
    NotPlaced,
}

/// The node that runs this agent.
pub(crate) fn node_of(record: &RunRecord) -> Result<&str, NoNode> {
    if !record.state.is_live() {
        return Err(NoNode::Ended);
    }
    record.node.as_deref().ok_or(NoNode::NotPlaced)
}
