//! A guest that is ready, as long as it is.

use std::time::Duration;

use domain::{NodeShortage, RunId, UnixMillis};
use sandbox::GuestState;
use tokio::time::{MissedTickBehavior, interval, sleep};
use wire::v1::node::SandboxPhase;
use wire::v1::pod::{PodPhase, PodStatus};

use super::boot::{gave_up, hear_exits};
use super::command::StageName;
use super::failure::{BookkeepingError, GuestFailure, Shortage};
use super::live::RunningGuest;
use super::machine::{SandboxTask, Stage};
use super::paused::{condition, until_stopped};
use crate::context::NodeContext;
use crate::guest::{PodClient, PodConnection};

/// What must be free, in bytes, before a guest that a full disk has stopped goes on:
/// it would use up at once what the node's own records need.
const RESUME_FREE: u64 = 64 * 1024 * 1024;
/// How long a guest that goes on may take to be stopped again by what it waited for.
const SETTLE: Duration = Duration::from_millis(200);

/// Why a guest is not ready any more.
enum NotReady {
    /// Its agent is down and `pod` starts it again.
    Agent,
    /// The guest must be started again, unless its VMM has only stopped it.
    Guest(GuestFailure),
    /// Its VMM has stopped it for want of something.
    Suspended(NodeShortage),
}

impl SandboxTask {
    pub(super) async fn monitor(&mut self, mut live: RunningGuest) -> Result<Stage, BookkeepingError> {
        let pod = self.pod()?;
        let (lost, at) = {
            let Self { shared, record, commands, exits, view, .. } = self;
            let hear = |status: &PodStatus| hear_exits(exits, view, status, shared.clock.now());
            tokio::select! {
                biased;
                command = commands.ending(StageName::Ready) => return Ok(Stage::End(Some(live), command)),
                words = live.end() => (NotReady::Guest(GuestFailure::Guest(words)), shared.clock.now()),
                lost = until_lost(&pod, shared, record.id, hear) => lost,
                lacks = until_stopped(shared, record) => (NotReady::Suspended(lacks), shared.clock.now()),
            }
        };
        match lost {
            NotReady::Guest(death) => self.lost(live, death, at).await,
            NotReady::Suspended(wait_reason) => self.stopped(live, wait_reason, at).await,
            NotReady::Agent => match self.unready(at).await? {
                Some(command) => Ok(Stage::End(Some(live), command)),
                None => {
                    self.publish(SandboxPhase::Booting);
                    Ok(Stage::Boot(live))
                }
            },
        }
    }

    /// A guest says nothing, or has ended: it is dead since then, unless its VMM has
    /// stopped it.
    pub(super) async fn lost(
        &mut self,
        live: RunningGuest,
        death: GuestFailure,
        at: UnixMillis,
    ) -> Result<Stage, BookkeepingError> {
        match (&death, condition(&*self.shared.runtime, self.record.id).await) {
            (GuestFailure::Boot(_) | GuestFailure::Silent(_) | GuestFailure::Pod(_), Some(wait_reason)) => {
                self.stopped(live, wait_reason, at).await
            }
            _ => self.died(&death, at).await,
        }
    }

    async fn stopped(
        &mut self,
        live: RunningGuest,
        wait_reason: NodeShortage,
        at: UnixMillis,
    ) -> Result<Stage, BookkeepingError> {
        Ok(match self.unready(at).await? {
            Some(command) => Stage::End(Some(live), command),
            None => Stage::Suspended(live, wait_reason),
        })
    }

    /// A guest that its VMM has stopped: it goes on where it was when the node has
    /// what it lacked. Meanwhile nobody is billed.
    pub(super) async fn suspended(
        &mut self,
        mut live: RunningGuest,
        lacks: NodeShortage,
    ) -> Result<Stage, BookkeepingError> {
        let cause = "the VMM has stopped the guest: a disk of the host is full or does not work".to_owned();
        let want = Shortage { lacks, cause };
        loop {
            let until = self.show_shortage(&want);
            let wait = Duration::from_millis(until.since(self.shared.clock.now()));
            tokio::select! {
                biased;
                command = self.commands.ending(StageName::Suspended) => return Ok(Stage::End(Some(live), command)),
                words = live.end() => return self.died(&GuestFailure::Guest(words), self.shared.clock.now()).await,
                () = sleep(wait) => {}
            }
            if self.goes_on().await {
                tracing::info!("a guest that was stopped for want of something goes on");
                return Ok(Stage::Boot(live));
            }
        }
    }

    /// Has a stopped guest go on if there is room for what it writes, and sees whether
    /// it does.
    async fn goes_on(&self) -> bool {
        let (runtime, id) = (&self.shared.runtime, self.record.id);
        let roomy = runtime.disk_usage().await.is_ok_and(|room| room.free >= RESUME_FREE);
        if !roomy {
            return false;
        }
        if let Err(error) = runtime.resume(id).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "a stopped guest cannot be told to go on");
            return false;
        }
        sleep(SETTLE).await;
        matches!(runtime.condition(id).await, Ok(GuestState::Running))
    }
}

/// How a guest is lost, and since when: one that says nothing, since it was last seen.
async fn until_lost(
    pod: &PodClient,
    shared: &NodeContext,
    id: RunId,
    mut hear: impl FnMut(&PodStatus),
) -> (NotReady, UnixMillis) {
    let NodeContext { config, clock, runtime, .. } = shared;
    let mut ticks = interval(Duration::from_millis(config.health_period_ms));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut line, mut silent, mut seen) = (None, 0, clock.now());
    loop {
        ticks.tick().await;
        let asked = clock.now();
        match look(pod, &mut line, &mut hear).await {
            Ok(None) => (silent, seen) = (0, asked),
            Ok(Some(lost)) => return (lost, asked),
            Err(why) => {
                line = None;
                silent += 1;
                if let Some(wait_reason) = condition(&**runtime, id).await {
                    return (NotReady::Suspended(wait_reason), seen);
                }
                if silent >= config.health_failures {
                    let words = format!("its pod gave no answer {silent} times: {why}");
                    return (NotReady::Guest(GuestFailure::Pod(words)), seen);
                }
            }
        }
    }
}

async fn look(
    pod: &PodClient,
    line: &mut Option<PodConnection>,
    hear: &mut impl FnMut(&PodStatus),
) -> Result<Option<NotReady>, crate::guest::PodError> {
    let open = match line {
        Some(open) => open,
        None => line.insert(pod.open().await?),
    };
    let status = pod.status(open).await?;
    hear(&status);
    Ok(match status.phase {
        PodPhase::Ready => None,
        PodPhase::Waiting | PodPhase::Starting | PodPhase::Backoff | PodPhase::Stopping => Some(NotReady::Agent),
        PodPhase::Failed => Some(NotReady::Guest(gave_up(status.last_exit.as_deref()))),
    })
}
