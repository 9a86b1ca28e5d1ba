//! What others hold of a sandbox.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use domain::{RunId, Ask};
use sandbox::Seat;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use wire::node::{Data, Phase, Sandbox};

use crate::guest::Pod;
use crate::ledger::{LedgerError, Shelf};
use crate::logs::RotatedLog;
use crate::policy::Desired;
use crate::registry::Registry;
use crate::streams::Streams;

/// What a task is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Take it down; answers when nothing is left.
    Delete { grace: Duration, data: Data, done: oneshot::Sender<Result<(), EndError>> },
    /// Stop the guest and keep the rest: the daemon ends.
    Halt,
}

/// Why a sandbox is not gone yet.
#[derive(Clone, Debug, thiserror::Error)]
#[error("take the sandbox down: {0}")]
pub(crate) struct EndError(pub(crate) String);

impl EndError {
    fn closing() -> Self {
        Self("the daemon is ending; the next one can be asked".to_owned())
    }
}

/// How a task begins.
pub(crate) enum Origin {
    /// The sandbox was just asked for. Tells when it is in the ledger.
    Asked { secrets: crate::ledger::Secrets, written: oneshot::Sender<Result<(), LedgerError>>, trace: Option<String> },
    /// The daemon before knew it, and lived until then.
    Found { last_alive: Option<domain::UnixMillis> },
}

/// A handle on a sandbox's task.
pub(crate) struct Handle {
    pub(crate) seat: Seat,
    pub(crate) desired: Desired,
    /// What its disks are promised.
    pub(crate) disk_mib: u64,
    /// The port its agent serves.
    pub(crate) port: u16,
    pub(crate) shelf: Shelf,
    pub(crate) view: watch::Receiver<Sandbox>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) logs: OnceLock<Logs>,
    pub(crate) pod: OnceLock<Pod>,
    /// Streams into the agent that may be open.
    pub(crate) streams: Streams,
}

/// A sandbox's logs.
pub(crate) struct Logs {
    pub(crate) agent: Arc<RotatedLog>,
    pub(crate) console: Arc<RotatedLog>,
}

impl Handle {
    pub(crate) fn id(&self) -> RunId {
        self.seat.id
    }

    pub(crate) fn ask(&self) -> Ask {
        Ask { cores: self.desired.cores, memory_mib: self.desired.memory_mib }
    }

    pub(crate) fn sandbox(&self) -> Sandbox {
        self.view.borrow().clone()
    }

    /// Waits until it is ready or will not be, at most so long.
    pub(crate) async fn settled(&self, wait: Duration) -> Sandbox {
        let mut view = self.view.clone();
        let settled = |sandbox: &Sandbox| match sandbox.phase {
            Phase::Ready | Phase::Stopping | Phase::Failed { .. } => true,
            Phase::Booting | Phase::Backoff { .. } | Phase::Waiting { .. } => false,
        };
        let _ = timeout(wait, view.wait_for(settled)).await;
        self.sandbox()
    }

    /// Takes the sandbox down and returns when nothing of it is left.
    pub(crate) async fn delete(&self, registry: &Registry, grace: Duration, data: Data) -> Result<(), EndError> {
        let (done, ended) = oneshot::channel();
        if self.orders.send(Order::Delete { grace, data, done }).await.is_err() {
            // A task ends after its sandbox, which is forgotten then, or with the daemon,
            // and then the guest may run on.
            return registry.get(self.id()).map_or(Ok(()), |_| Err(EndError::closing()));
        }
        ended.await.unwrap_or_else(|_| Err(EndError::closing()))
    }
}
