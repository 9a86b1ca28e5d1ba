//! The node's sandboxes together: begun, left, ended.

use std::sync::Arc;
use std::time::Duration;

use domain::{MarkKind, RunId, UnixMillis};
use sandbox::{DiskRetention, Slot};
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::Copies;
use crate::context::NodeContext;
use crate::error_chain::error_chain;
use crate::journal::JournalError;
use crate::ledger::{Ledger, SandboxRecord};
use crate::streams::Streams;
use crate::task::{BOOKS_DEADLINE, Inbox, Origin, SandboxHandle, SandboxTask, TaskCommand};

/// Commands that may wait for a task.
const COMMANDS: usize = 16;
/// Pause before a task that does not end is asked again.
const HALT_AGAIN: Duration = Duration::from_secs(1);

/// The node.
pub(crate) struct Node {
    pub(crate) shared: Arc<NodeContext>,
    pub(super) ledger: Ledger,
    pub(super) tasks: TaskTracker,
    /// Lets tasks go, and the guests be.
    pub(super) leave: CancellationToken,
    /// One quarantined sandbox is given up at a time: nothing else keeps two calls for
    /// it apart.
    pub(super) giving_up: Mutex<()>,
    /// Held by whoever looks which runs have which volumes and acts on it: a volume that a run
    /// was promised is neither grown nor erased.
    pub(super) volumes: Mutex<()>,
    /// The volumes that are copied just now.
    pub(crate) copies: Arc<Copies>,
    /// An image was forgotten.
    pub(crate) forgotten: Notify,
}

impl Node {
    pub(crate) fn new(shared: Arc<NodeContext>, ledger: Ledger) -> Self {
        Self {
            shared,
            ledger,
            tasks: TaskTracker::new(),
            leave: CancellationToken::new(),
            giving_up: Mutex::new(()),
            volumes: Mutex::new(()),
            copies: Arc::default(),
            forgotten: Notify::new(),
        }
    }

    /// Has a mark written. Waits only so long for that, since a node whose disk takes
    /// nothing must serve whoever makes room: then it is written later.
    pub(super) async fn mark(&self, id: RunId, kind: MarkKind, at: UnixMillis) -> Result<bool, JournalError> {
        let marked = timeout(BOOKS_DEADLINE, self.shared.journal.mark(id, kind, at)).await;
        if marked.is_err() {
            tracing::error!(%id, ?kind, "the metering journal is not written: its disk takes nothing");
        }
        marked.map_or(Ok(false), |marked| marked.map(|()| true))
    }

    /// Ends the guests of records that cannot be read; record and disks stay for whoever
    /// repairs them.
    async fn halt_quarantined(&self) {
        for held in self.shared.registry.quarantine.list().into_iter().filter(|held| held.runs) {
            let presence = self.shared.registry.quarantine.get(held.id).map(|held| held.presence);
            let slot = presence.and_then(|presence| presence.slot).unwrap_or(u16::MAX);
            if let Err(error) =
                self.shared.runtime.stop(Slot { run: held.id, number: slot }, DiskRetention::Attached).await
            {
                tracing::error!(id = %held.id, error = error_chain(&error), "a quarantined guest is not ended");
            }
        }
    }

    /// Ends all guests and waits for it; the next daemon starts them again.
    pub(crate) async fn halt(&self) {
        self.close();
        self.halt_quarantined().await;
        loop {
            for handle in self.shared.registry.all() {
                // A full queue is asked again; a task that has ended needs no asking.
                let _ = handle.commands.try_send(TaskCommand::Halt);
            }
            if timeout(HALT_AGAIN, self.tasks.wait()).await.is_ok() {
                return;
            }
        }
    }

    /// Leaves the guests to the next daemon.
    pub(crate) async fn leave(&self) {
        self.close();
        self.leave.cancel();
        self.tasks.wait().await;
    }

    /// Takes no more sandboxes.
    pub(crate) fn close(&self) {
        self.tasks.close();
    }

    pub(super) fn prepare(&self, record: SandboxRecord) -> (Arc<SandboxHandle>, SandboxTask) {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (view, shown) = watch::channel(SandboxTask::show(&self.shared, &record, record.phase()));
        let dir = self.ledger.dir_of(record.id);
        let handle = Arc::new(SandboxHandle {
            slot: record.slot(),
            desired: record.desired.clone(),
            disk_mib: record.disk_mib.unwrap_or_else(|| self.shared.config.agent_disk_mib()),
            port: record.run.port,
            dir: dir.clone(),
            view: shown,
            commands,
            logs: std::sync::OnceLock::new(),
            pod: std::sync::OnceLock::new(),
            streams: Streams::new(&self.shared.config),
        });
        let task =
            SandboxTask::new(Arc::clone(&self.shared), record, dir, Inbox::new(inbox), view, Arc::clone(&handle));
        (handle, task)
    }

    pub(super) fn spawn(&self, task: SandboxTask, origin: Origin) {
        let span = tracing::info_span!("sandbox", id = %task.id());
        if let Origin::Asked { trace: Some(trace), .. } = &origin {
            telemetry::set_parent(&span, trace);
        }
        let leave = self.leave.clone();
        self.tasks.spawn(async move { leave.run_until_cancelled(task.run(origin)).await }.instrument(span));
    }
}
