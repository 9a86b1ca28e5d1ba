//! How a POD is, and where its run is reached.

use std::sync::Arc;
use std::time::Duration;

use client::NodeError;
use domain::{PodId, Wallet};
use store::{RunRecord, StoreError};
use wire::v1::node::GuestReport;

use crate::context::Context;
use crate::fleet::node::{Node, within};

/// How long a look at an agent waits for what its guest says.
const REPORT: Duration = Duration::from_secs(1);

/// Why a run is reached on no node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoNode {
    /// Nothing of it is left on one.
    #[error("the agent has ended, and nothing of it is left on its node")]
    Ended,
    /// It was not placed yet.
    #[error("the agent has no node yet; try again")]
    NotPlaced,
    /// It is on a node that is none of ours.
    #[error("no node is called {0:?}")]
    Unknown(String),
}

impl Context {
    /// The last run of a POD, if it is this holder's.
    pub(crate) async fn owned(&self, pod: PodId, holder: Wallet) -> Result<Option<RunRecord>, StoreError> {
        Ok(self.store.last_run(pod).await?.filter(|record| record.wallet == holder))
    }

    /// The node on which a run is reached.
    pub(crate) fn node_of(&self, record: &RunRecord) -> Result<Arc<dyn Node>, NoNode> {
        if !record.state.is_live() {
            return Err(NoNode::Ended);
        }
        let name = record.node.as_deref().ok_or(NoNode::NotPlaced)?;
        self.fleet.node(name).cloned().ok_or_else(|| NoNode::Unknown(name.to_owned()))
    }

    /// What the guest of a run says of its agent, where it has one and its node answers at once.
    pub(crate) async fn guest_report(&self, record: &RunRecord) -> Option<GuestReport> {
        let node = self.node_of(record).ok()?;
        let asked = within("look at the sandbox", REPORT, node.get(record.id)).await;
        let quiet = |error: &NodeError| tracing::debug!(run = %record.id, %error, "a node does not say how a guest is");
        asked.inspect_err(quiet).ok()??.guest
    }
}
