//! Taking a sandbox down.

use std::time::Duration;

use domain::MarkKind;
use sandbox::{DiskRetention, RuntimeError};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use wire::v1::node::{DataPolicy, KeptCause, SandboxPhase};

use super::command::{DeleteError, Deletion, Ending};
use super::failure::BookkeepingError;
use super::live::RunningGuest;
use super::machine::{BOOKS_DEADLINE, SandboxTask};
use crate::ledger::DesiredState;

/// Pause before what could not be removed is tried again.
const RETRY: Duration = Duration::from_secs(3);
/// What a guest gets to end when the daemon does.
const HALT_GRACE: Duration = Duration::from_secs(10);

/// Why something is still there.
#[derive(Debug, thiserror::Error)]
enum NotGone {
    #[error(transparent)]
    Bookkeeping(#[from] BookkeepingError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("its end is not in the node's records yet: the disk takes nothing")]
    Late,
}

impl SandboxTask {
    /// Ends the sandbox, or its guest alone; the task is over then.
    pub(super) async fn end(&mut self, live: Option<RunningGuest>, ending: Ending) {
        match ending {
            Ending::Halt => self.halt(live).await,
            Ending::Delete(deletion) => self.delete(live, deletion).await,
        }
    }

    async fn delete(&mut self, live: Option<RunningGuest>, deletion: Deletion) {
        let Deletion { grace, data, done } = deletion;
        self.publish(SandboxPhase::Stopping);
        let mut waiting = vec![done];
        self.want_gone(data);
        let mut written = self.write_end().await;
        if let Some(live) = live {
            self.power_off(live, grace).await;
        }
        while let Err(why) = self.remove(written).await {
            tracing::error!(error = &why as &dyn std::error::Error, "a sandbox cannot be removed");
            let said = DeleteError::StillThere(why.to_string());
            for done in waiting.drain(..) {
                let _ = done.send(Err(said.clone()));
            }
            tokio::select! {
                joined = self.commands.joining() => match joined {
                    Some(Deletion { data, done, .. }) => {
                        self.want_gone(data);
                        waiting.push(done);
                    }
                    // The next daemon finishes it, if it could be written down.
                    None => return,
                },
                () = sleep(RETRY) => {}
            }
            written = self.write_end().await;
        }
        self.shared.registry.forget(self.record.id);
        waiting.extend(self.commands.close().into_iter().map(|late| late.done));
        for done in waiting {
            // Whoever asked may have gone.
            let _ = done.send(Ok(()));
        }
    }

    /// An owner's word is not taken back by who only wants the guest gone.
    fn want_gone(&mut self, data: DataPolicy) {
        self.record.wanted = match (self.record.wanted, data) {
            (DesiredState::Gone, _) | (_, DataPolicy::Erase) => DesiredState::Gone,
            (DesiredState::Run | DesiredState::GoneKept, DataPolicy::Keep) => DesiredState::GoneKept,
        };
    }

    /// Writes the end down before anything is done about it. Whether that worked: on a
    /// disk that takes nothing it goes on all the same, for stopping always works, and
    /// makes room.
    async fn write_end(&self) -> bool {
        let written = async {
            self.save().await?;
            self.journal(MarkKind::Unready, self.shared.clock.now()).await.map_err(BookkeepingError::from)?;
            Ok::<_, NotGone>(())
        };
        let written = timeout(BOOKS_DEADLINE, written).await.unwrap_or(Err(NotGone::Late));
        if let Err(why) = &written {
            tracing::warn!(
                error = why as &dyn std::error::Error,
                "the sandbox's end cannot be recorded yet; trying again"
            );
        }
        written.is_ok()
    }

    /// What becomes of its disks. Of a run that was given up all is kept: the reason may
    /// be on any of them.
    fn disks(&self) -> DiskRetention {
        let retention = || self.shared.config.retention(self.shared.clock.now(), KeptCause::Deleted);
        match (self.record.wanted, self.record.failed) {
            (DesiredState::Run, _) => DiskRetention::Attached,
            (DesiredState::Gone, _) => DiskRetention::Erase,
            (DesiredState::GoneKept, None) => DiskRetention::KeepData(retention()),
            (DesiredState::GoneKept, Some(_)) => DiskRetention::KeepAll(retention()),
        }
    }

    async fn power_off(&self, mut live: RunningGuest, grace: Duration) {
        let grace = grace.min(Duration::from_millis(self.shared.config.grace_longest_ms));
        let Ok(pod) = self.pod() else { return };
        if grace.is_zero() || !live.is_told() || live.guest.exit.has_ended() {
            return;
        }
        match timeout(grace, pod.stop(grace)).await {
            Ok(Ok(())) => {}
            // A guest that is still booting has nothing to lose.
            Ok(Err(_)) | Err(_) => return,
        }
        let off = grace + Duration::from_millis(self.shared.config.power_off_ms);
        if timeout(off, live.end()).await.is_err() {
            tracing::warn!("a guest did not switch itself off and is ended by force");
        }
    }

    /// Removes all of it, its record last.
    async fn remove(&mut self, written: bool) -> Result<(), NotGone> {
        self.shared.runtime.stop(self.record.slot(), self.disks()).await?;
        // Else the next daemon would start it again, on disks that are gone. If there
        // still is no room for that, there is none for a start either.
        if !written && let Err(broken) = self.save().await {
            tracing::warn!(error = &broken as &dyn std::error::Error, "the sandbox's end cannot be recorded");
        }
        if let Some(logs) = self.handle.logs.get() {
            logs.agent.close();
            logs.console.close();
        }
        timeout(BOOKS_DEADLINE, self.mark_end()).await.unwrap_or(Err(NotGone::Late))?;
        let dir = self.dir.clone();
        spawn_blocking(move || dir.remove())
            .await
            .map_err(BookkeepingError::Blocking)?
            .map_err(BookkeepingError::from)?;
        tracing::info!("the sandbox is removed");
        Ok(())
    }

    async fn mark_end(&self) -> Result<(), NotGone> {
        let now = self.shared.clock.now();
        self.journal(MarkKind::Unready, now).await.map_err(BookkeepingError::from)?;
        self.journal(MarkKind::Gone, now).await.map_err(BookkeepingError::from)?;
        Ok(())
    }

    /// The daemon ends and wants its guests ended: they are started again by the next.
    async fn halt(&mut self, live: Option<RunningGuest>) {
        // What the disk does not take in time is taken for the last heartbeat.
        let _ = timeout(BOOKS_DEADLINE, self.journal(MarkKind::Unready, self.shared.clock.now())).await;
        let halted = async {
            if let Some(live) = live {
                self.power_off(live, HALT_GRACE).await;
            }
            self.shared.runtime.stop(self.record.slot(), DiskRetention::Attached).await?;
            self.record.facts = None;
            self.save().await?;
            Ok::<_, NotGone>(())
        };
        if let Err(why) = halted.await {
            tracing::error!(error = &why as &dyn std::error::Error, "a guest cannot be ended");
        }
    }
}
