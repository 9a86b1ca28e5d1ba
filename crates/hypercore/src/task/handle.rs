//! What others hold of a sandbox.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use domain::{ResourceRequest, RunId};
use sandbox::Slot;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use wire::v1::node::{Sandbox, SandboxPhase};

use super::command::TaskCommand;

use crate::guest::PodClient;
use crate::ledger::{LedgerError, SandboxDir};
use crate::logs::RotatedLog;
use crate::policy::SpecWithoutEnv;
use crate::streams::Streams;

/// How a task begins.
pub(crate) enum Origin {
    /// The sandbox was just asked for. Tells when it is in the ledger.
    Asked { secrets: crate::ledger::Secrets, written: oneshot::Sender<Result<(), LedgerError>>, trace: Option<String> },
    /// The daemon before knew it, and lived until then.
    Found { last_alive: Option<domain::UnixMillis> },
}

/// A handle on a sandbox's task.
pub(crate) struct SandboxHandle {
    pub(crate) slot: Slot,
    pub(crate) desired: SpecWithoutEnv,
    /// What its disks are promised.
    pub(crate) disk_mib: u64,
    /// The port its agent serves.
    pub(crate) port: u16,
    pub(crate) dir: SandboxDir,
    pub(crate) view: watch::Receiver<Sandbox>,
    pub(crate) commands: mpsc::Sender<TaskCommand>,
    pub(crate) logs: OnceLock<Logs>,
    pub(crate) pod: OnceLock<PodClient>,
    /// Streams into the agent that may be open.
    pub(crate) streams: Streams,
}

/// A sandbox's logs.
pub(crate) struct Logs {
    pub(crate) agent: Arc<RotatedLog>,
    pub(crate) console: Arc<RotatedLog>,
}

impl SandboxHandle {
    pub(crate) fn id(&self) -> RunId {
        self.slot.run
    }

    pub(crate) fn ask(&self) -> ResourceRequest {
        ResourceRequest { cores: self.desired.cores, memory_mib: self.desired.memory_mib }
    }

    pub(crate) fn sandbox(&self) -> Sandbox {
        self.view.borrow().clone()
    }

    /// Comes when the guest that runs now does so no more: nothing closes the connections of one that was killed.
    pub(crate) fn guest_gone(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut view = self.view.clone();
        let pid = view.borrow().pid;
        async move {
            let is_gone = |sandbox: &Sandbox| {
                sandbox.pid != pid
                    || matches!(sandbox.phase, SandboxPhase::Backoff { .. } | SandboxPhase::Failed { .. })
            };
            // Without its task there is none either.
            let _ = view.wait_for(is_gone).await;
        }
    }

    /// Waits until it is ready or will not be, at most so long.
    pub(crate) async fn settled(&self, wait: Duration) -> Sandbox {
        let mut view = self.view.clone();
        let settled = |sandbox: &Sandbox| match sandbox.phase {
            SandboxPhase::Ready | SandboxPhase::Stopping | SandboxPhase::Failed { .. } => true,
            SandboxPhase::Booting | SandboxPhase::Backoff { .. } | SandboxPhase::Waiting { .. } => false,
        };
        let _ = timeout(wait, view.wait_for(settled)).await;
        self.sandbox()
    }
}
