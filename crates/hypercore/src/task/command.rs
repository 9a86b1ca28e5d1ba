//! What a task is told, and what each of its stages makes of it.

use std::time::Duration;

use domain::{PodId, RunId};
use tokio::sync::{mpsc, oneshot};
use wire::v1::node::DataPolicy;

/// What a task is told.
#[derive(Debug)]
pub(crate) enum TaskCommand {
    /// Take the sandbox down.
    Delete(Deletion),
    /// Stop the guest and keep the rest: the daemon ends.
    Halt,
}

/// A sandbox's end, as somebody has asked for it.
#[derive(Debug)]
pub(crate) struct Deletion {
    /// What its agent may take to end by itself.
    pub(crate) grace: Duration,
    /// What becomes of its POD's data.
    pub(crate) data: DataPolicy,
    /// Told when nothing of it is left, or why something is.
    pub(crate) done: oneshot::Sender<Result<(), DeleteError>>,
}

/// Why a sandbox, or what is kept of its POD, is not gone.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum DeleteError {
    /// The daemon ends first.
    #[error("the node is going down; the next daemon can be asked")]
    Closing,
    /// Something could not be removed. It is tried again.
    #[error("take the sandbox down: {0}")]
    StillThere(String),
    /// The POD has another run, whose data it is.
    #[error("the POD {pod} runs, as {run}")]
    PodRunning {
        /// Which POD.
        pod: PodId,
        /// Its run.
        run: RunId,
    },
}

/// Where a task is when it hears a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StageName {
    /// Its guest runs and is not ready.
    Booting,
    /// It is ready.
    Ready,
    /// Its VMM has stopped it for want of something.
    Suspended,
    /// It has no guest, and waits for the time or for the node to have one.
    NoGuest,
    /// It was given up.
    Failed,
    /// Whatever its guest does, the node's records are waited for.
    Bookkeeping,
}

/// A command that ends what a task does: at every moment but in its end itself.
#[derive(Debug)]
pub(super) enum Ending {
    /// The sandbox ends.
    Delete(Deletion),
    /// The guest ends, and the task with it.
    Halt,
}

/// The commands of one task, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Inbox(mpsc::Receiver<TaskCommand>);

impl Inbox {
    pub(crate) const fn new(commands: mpsc::Receiver<TaskCommand>) -> Self {
        Self(commands)
    }

    /// The next command that ends what the task does now. This is the one place that knows
    /// which moment obeys which command: one that a moment does not obey is answered here,
    /// by its typed refusal, and its waits hear nothing of it. Safe to drop and to call
    /// again.
    pub(super) async fn ending(&mut self, at: StageName) -> Ending {
        // Handles are dropped only with the daemon.
        let command = self.0.recv().await.unwrap_or(TaskCommand::Halt);
        tracing::debug!(?at, ?command, "a command is heard");
        match command {
            TaskCommand::Delete(deletion) => Ending::Delete(deletion),
            TaskCommand::Halt => Ending::Halt,
        }
    }

    /// The next command of one that ends already: another deletion joins it. `None` where
    /// the daemon ends first.
    pub(super) async fn joining(&mut self) -> Option<Deletion> {
        match self.0.recv().await {
            Some(TaskCommand::Delete(deletion)) => Some(deletion),
            Some(TaskCommand::Halt) | None => None,
        }
    }

    /// Takes no more commands, and gives the deletions that came too late.
    pub(super) fn close(&mut self) -> Vec<Deletion> {
        self.0.close();
        let left = std::iter::from_fn(|| self.0.try_recv().ok());
        left.filter_map(|command| match command {
            TaskCommand::Delete(deletion) => Some(deletion),
            TaskCommand::Halt => None,
        })
        .collect()
    }
}
