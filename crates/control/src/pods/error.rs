//! Why an agent did not come to be, or could not be stopped.

use std::sync::Arc;

use client::NodeError;
use domain::{FailReason, ImageDigest, NodeShortage, PlacementError, StopReason};
use store::StoreError;
use wire::v1::node::GuestReport;

/// Why a spawn gave no agent. Unless it is [`SpawnError::NodeUnavailable`] or
/// [`SpawnError::Store`], the wallet is free again.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No node has room.
    #[error("there is no room: {0}")]
    NoCapacity(PlacementError),
    /// No node that could hold it has its image.
    #[error("no node has the image {0}")]
    NoImage(ImageDigest),
    /// The node does not answer. What it may have begun is taken down as soon
    /// as it answers again; the wallet is free then.
    #[error("the node does not answer")]
    NodeUnavailable(#[source] Option<Arc<NodeError>>),
    /// The node that keeps the POD's data does not answer, or is none of ours.
    #[error("the node {0:?}, which keeps the POD's data, does not answer")]
    DataAway(String),
    /// The node that should keep the POD's data keeps none.
    #[error("the node {0:?} keeps no data of the POD any more")]
    NoData(String),
    /// The node that should hold the run's volumes holds one of them no more, or another of its
    /// runs has it.
    #[error("the node {0:?} cannot give the run its volumes")]
    NoVolume(String),
    /// The run has volumes, and its holder or the node that holds them has no machine for it.
    #[error("an agent with volumes needs a machine, and there is none for it: no container is given volumes")]
    VolumesNeedMachine,
    /// Not ready in time; taken down.
    #[error("the agent was not ready within {after_ms} ms")]
    Timeout {
        /// The deadline.
        after_ms: u64,
        /// What its guest said of it.
        guest: Option<Box<GuestReport>>,
    },
    /// The node lacks what it needs to start an agent, and did for the whole of the
    /// deadline; taken down.
    #[error("the node lacks what it needs to start an agent: {0}")]
    NodeLacks(NodeShortage),
    /// It failed while it was starting; taken down.
    #[error("the agent failed while it was starting: {reason:?}")]
    Failed {
        /// Why.
        reason: FailReason,
        /// What its guest said of it.
        guest: Option<Box<GuestReport>>,
    },
    /// Somebody stopped it while it was starting.
    #[error("the agent was stopped while it was starting: {0:?}")]
    Stopped(StopReason),
    /// The control plane is going down.
    #[error("the control plane is going down")]
    ShuttingDown,
    /// The store failed. Reconciliation does the rest.
    #[error("the agent's record cannot be written")]
    Store(#[from] StoreError),
    /// A bug: it is spawned twice, or was not reserved, or the task that spawned it has
    /// panicked. Reconciliation does the rest.
    #[error("the spawn was cut off")]
    CutOff,
}

/// Why an agent could not be told to stop. Once it is told, it will end: a node
/// that does not answer delays that, and is no error.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// Unknown agent, or a fault of the store.
    #[error("the agent's record cannot be written")]
    Store(#[from] StoreError),
    /// It does not run, and the node that keeps its data does not answer: that is kept
    /// until somebody asks again, or its retention ends.
    #[error("the node that keeps the POD's data does not answer")]
    NodeUnavailable,
    /// A run of it was started meanwhile; it is removed when somebody asks again.
    #[error("the POD was started again meanwhile")]
    Running,
    /// A bug: the task that stopped it has panicked. Reconciliation does the rest.
    #[error("the stop was cut off")]
    CutOff,
}

/// Why a run did not come to be, for its record and for the caller.
pub(crate) struct SpawnFailure {
    pub(crate) reason: FailReason,
    pub(crate) error: SpawnError,
    /// Nothing of the run is on any node, whichever was written down last.
    pub(crate) on_no_node: bool,
}

impl SpawnFailure {
    pub(crate) const fn new(reason: FailReason, error: SpawnError) -> Self {
        Self { reason, error, on_no_node: false }
    }

    /// It failed for this reason, and that is all there is to say.
    pub(crate) const fn of(reason: FailReason) -> Self {
        Self::new(reason, SpawnError::Failed { reason, guest: None })
    }

    /// It failed for this reason, after its guest had said this of it.
    pub(crate) fn said(reason: FailReason, guest: Option<GuestReport>) -> Self {
        Self::new(reason, SpawnError::Failed { reason, guest: guest.map(Box::new) })
    }

    /// The same, of a run that every node has refused that was told of it.
    pub(crate) fn on_no_node(self) -> Self {
        Self { on_no_node: true, ..self }
    }

    /// No node has room.
    pub(crate) const fn no_room(why: PlacementError) -> Self {
        let reason = match why {
            PlacementError::TooLarge { .. } => FailReason::ExceedsCapacity,
            PlacementError::NoNodes | PlacementError::Full => FailReason::NoCapacity,
        };
        Self::new(reason, SpawnError::NoCapacity(why))
    }
}

impl From<StoreError> for SpawnFailure {
    fn from(error: StoreError) -> Self {
        Self::new(FailReason::Interrupted, SpawnError::Store(error))
    }
}
