//! Taking a sandbox down.

use std::time::Duration;

use domain::MarkKind;
use sandbox::{Fate, RuntimeError};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use wire::node::{Data, KeptCause, Phase};

use super::handle::{EndError, Order};
use super::live::Live;
use super::machine::{BOOKS, Broken, Stage, Task};
use crate::ledger::Wanted;

/// Pause before what could not be removed is tried again.
const RETRY: Duration = Duration::from_secs(3);
/// What a guest gets to end when the daemon does.
const HALT_GRACE: Duration = Duration::from_secs(10);

/// Why something is still there.
#[derive(Debug, thiserror::Error)]
enum Remains {
    #[error(transparent)]
    Books(#[from] Broken),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl Task {
    /// Ends the sandbox, or its guest alone. `None`: the task is over.
    pub(super) async fn end(&mut self, live: Option<Live>, order: Order) -> Option<Stage> {
        match order {
            Order::Halt => {
                self.halt(live).await;
                None
            }
            Order::Delete { grace, data, done } => self.delete(live, grace, data, done).await,
        }
    }

    async fn delete(
        &mut self,
        live: Option<Live>,
        grace: Duration,
        data: Data,
        done: oneshot::Sender<Result<(), EndError>>,
    ) -> Option<Stage> {
        self.publish(Phase::Stopping);
        let mut waiting = vec![done];
        let mut ended = self.ask(live, grace, data).await;
        loop {
            let removed = match ended {
                Ok(()) => self.remove().await,
                Err(remains) => Err(remains),
            };
            let Err(remains) = removed else { break };
            tracing::error!(error = &remains as &dyn std::error::Error, "a sandbox cannot be removed");
            let said = EndError(remains.to_string());
            for done in waiting.drain(..) {
                let _ = done.send(Err(said.clone()));
            }
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(Order::Delete { data, done, .. }) => {
                        self.want_gone(data);
                        waiting.push(done);
                    }
                    // The next daemon finishes it: it is in the ledger.
                    Some(Order::Halt) | None => return None,
                },
                () = sleep(RETRY) => {}
            }
            ended = self.write_end().await;
        }
        self.orders.close();
        while let Ok(order) = self.orders.try_recv() {
            if let Order::Delete { done, .. } = order {
                waiting.push(done);
            }
        }
        self.shared.registry.forget(self.record.id);
        for done in waiting {
            // Whoever asked may have gone.
            let _ = done.send(Ok(()));
        }
        None
    }

    /// Writes the end down first, then asks the guest politely. On a disk that takes
    /// nothing it goes on all the same: stopping always works, and makes room.
    async fn ask(&mut self, live: Option<Live>, grace: Duration, data: Data) -> Result<(), Remains> {
        self.want_gone(data);
        match timeout(BOOKS, self.write_end()).await {
            Ok(Ok(())) => {}
            Ok(Err(remains)) => {
                tracing::warn!(error = &remains as &dyn std::error::Error, "an end cannot be written down yet");
            }
            Err(_) => tracing::warn!("an end cannot be written down yet: the disk takes nothing"),
        }
        if let Some(live) = live {
            self.power_off(live, grace).await;
        }
        Ok(())
    }

    /// An owner's word is not taken back by who only wants the guest gone.
    fn want_gone(&mut self, data: Data) {
        self.record.wanted = match (self.record.wanted, data) {
            (Wanted::Gone, _) | (_, Data::Erase) => Wanted::Gone,
            (Wanted::Run | Wanted::GoneKept, Data::Keep) => Wanted::GoneKept,
        };
    }

    async fn write_end(&mut self) -> Result<(), Remains> {
        self.save().await?;
        self.unready(self.shared.clock.now()).await.map_err(Broken::from)?;
        Ok(())
    }

    /// What becomes of its disks. Those of a guest that never ran hold nothing.
    fn fate(&self) -> Fate {
        match self.record.wanted {
            Wanted::GoneKept if self.record.ran => {
                Fate::SetAside(self.shared.config.retention(self.shared.clock.now(), KeptCause::Deleted))
            }
            Wanted::Gone | Wanted::GoneKept => Fate::Wipe,
            Wanted::Run => Fate::Keep,
        }
    }

    async fn power_off(&self, mut live: Live, grace: Duration) {
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

    async fn remove(&mut self) -> Result<(), Remains> {
        self.shared.runtime.stop(self.record.seat(), self.fate()).await?;
        if let Some(logs) = self.handle.logs.get() {
            logs.agent.close();
            logs.console.close();
        }
        self.unready(self.shared.clock.now()).await.map_err(Broken::from)?;
        self.mark(MarkKind::Gone).await.map_err(Broken::from)?;
        let shelf = self.shelf.clone();
        spawn_blocking(move || shelf.remove()).await.map_err(Broken::Blocking)?.map_err(Broken::from)?;
        tracing::info!("gone");
        Ok(())
    }

    /// The daemon ends and wants its guests ended: they are started again by the next.
    async fn halt(&mut self, live: Option<Live>) {
        let halted = async {
            if let Some(live) = live {
                self.unready(self.shared.clock.now()).await.map_err(Broken::from)?;
                self.power_off(live, HALT_GRACE).await;
            }
            self.shared.runtime.stop(self.record.seat(), Fate::Keep).await?;
            self.record.facts = None;
            self.save().await?;
            Ok::<_, Remains>(())
        };
        if let Err(remains) = halted.await {
            tracing::error!(error = &remains as &dyn std::error::Error, "a guest cannot be ended");
        }
    }
}
