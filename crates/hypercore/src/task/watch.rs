//! A guest that is ready, as long as it is.

use std::time::Duration;

use domain::{AgentId, Lack};
use sandbox::{Condition, Runtime};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use wire::node::Phase;
use wire::pod::PodPhase;

use super::boot::gave_up;
use super::handle::Order;
use super::live::Live;
use super::machine::{BOOKS, Broken, Death, Stage, Task, Want};
use crate::guest::{Line, Pod};

/// What must be free, in bytes, before a guest that a full disk has stopped goes on:
/// it would use up at once what the node's own books need.
const RESUME_FREE: u64 = 64 * 1024 * 1024;
/// How long a guest that goes on may take to be stopped again by what it waited for.
const SETTLE: Duration = Duration::from_millis(200);

/// Why a guest is not ready any more.
enum Lost {
    /// Its agent is down and `pod` starts it again.
    Agent,
    /// The guest must be started again, unless its VMM has only stopped it.
    Guest(Death),
    /// Its VMM has stopped it for want of something.
    Held(Lack),
}

impl Task {
    pub(super) async fn watch(&mut self, mut live: Live) -> Result<Stage, Broken> {
        let pod = self.pod()?;
        let config = &self.shared.config;
        let (period, failures) = (Duration::from_millis(config.health_period_ms), config.health_failures);
        let lost = tokio::select! {
            biased;
            order = self.orders.recv() => return Ok(Stage::End(Some(live), order.unwrap_or(Order::Halt))),
            words = live.end() => Lost::Guest(Death::Guest(words)),
            lost = until_lost(&pod, &*self.shared.runtime, self.record.id, period, failures) => lost,
        };
        match lost {
            Lost::Guest(death) => self.lost(live, death).await,
            Lost::Held(lack) => Ok(Stage::Held(live, lack)),
            Lost::Agent => {
                self.unready(self.shared.clock.now()).await?;
                self.publish(Phase::Booting);
                Ok(Stage::Boot(live))
            }
        }
    }

    /// A guest says nothing, or has ended: it is dead, unless its VMM has stopped it.
    pub(super) async fn lost(&mut self, live: Live, death: Death) -> Result<Stage, Broken> {
        match (&death, condition(&*self.shared.runtime, self.record.id).await) {
            (Death::Boot(_) | Death::Pod(_), Some(lack)) => Ok(Stage::Held(live, lack)),
            _ => self.died(&death, self.shared.clock.now()).await,
        }
    }

    /// A guest that its VMM has stopped: it goes on where it was when the node has
    /// what it lacked. Meanwhile nobody is billed.
    pub(super) async fn held(&mut self, mut live: Live, lacks: Lack) -> Result<Stage, Broken> {
        let _ = timeout(BOOKS, self.unready(self.shared.clock.now())).await;
        let cause = "the VMM has stopped the guest: a disk of the host is full or does not work".to_owned();
        let want = Want { lacks, cause };
        loop {
            let until = self.show_want(&want);
            let wait = Duration::from_millis(until.since(self.shared.clock.now()));
            tokio::select! {
                biased;
                order = self.orders.recv() => return Ok(Stage::End(Some(live), order.unwrap_or(Order::Halt))),
                words = live.end() => return self.died(&Death::Guest(words), self.shared.clock.now()).await,
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
        let roomy = runtime.room().await.is_ok_and(|room| room.free >= RESUME_FREE);
        if !roomy {
            return false;
        }
        if let Err(error) = runtime.resume(id).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "a stopped guest cannot be told to go on");
            return false;
        }
        sleep(SETTLE).await;
        matches!(runtime.condition(id).await, Ok(Condition::Running))
    }
}

/// What a guest that runs is stopped for want of, if it is.
async fn condition(runtime: &dyn Runtime, id: AgentId) -> Option<Lack> {
    match runtime.condition(id).await {
        Ok(Condition::Paused(lack)) => Some(lack),
        Ok(Condition::Running) | Err(_) => None,
    }
}

async fn until_lost(pod: &Pod, runtime: &dyn Runtime, id: AgentId, period: Duration, failures: u32) -> Lost {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut line, mut silent) = (None, 0);
    loop {
        ticks.tick().await;
        match look(pod, &mut line).await {
            Ok(None) => silent = 0,
            Ok(Some(lost)) => return lost,
            Err(why) => {
                line = None;
                silent += 1;
                if let Some(lack) = condition(runtime, id).await {
                    return Lost::Held(lack);
                }
                if silent >= failures {
                    return Lost::Guest(Death::Pod(format!("its pod gave no answer {silent} times: {why}")));
                }
            }
        }
    }
}

async fn look(pod: &Pod, line: &mut Option<Line>) -> Result<Option<Lost>, crate::guest::PodError> {
    let open = match line {
        Some(open) => open,
        None => line.insert(pod.open().await?),
    };
    let status = pod.status(open).await?;
    Ok(match status.phase {
        PodPhase::Ready => None,
        PodPhase::Waiting | PodPhase::Starting | PodPhase::Backoff | PodPhase::Stopping => Some(Lost::Agent),
        PodPhase::Failed => Some(Lost::Guest(gave_up(status.last_exit.as_deref()))),
    })
}
