//! A guest that is ready, as long as it is.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use wire::node::Phase;
use wire::pod::PodPhase;

use super::boot::gave_up;
use super::handle::Order;
use super::live::Live;
use super::machine::{Broken, Death, Stage, Task};
use crate::guest::{Line, Pod};

/// Why a guest is not ready any more.
enum Lost {
    /// Its agent is down and `pod` starts it again.
    Agent,
    /// The guest must be started again.
    Guest(Death),
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
            lost = until_lost(&pod, period, failures) => lost,
        };
        let now = self.shared.clock.now();
        match lost {
            Lost::Guest(death) => self.died(&death, now).await,
            Lost::Agent => {
                self.unready(now).await?;
                self.publish(Phase::Booting);
                Ok(Stage::Boot(live))
            }
        }
    }
}

async fn until_lost(pod: &Pod, period: Duration, failures: u32) -> Lost {
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
