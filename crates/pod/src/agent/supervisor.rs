//! Life after life, until it is enough or somebody asks to stop.

use std::time::Duration;

use tokio::time::sleep;
use wire::pod::PodPhase;

use super::Plan;
use super::backoff::{Deaths, Policy, Verdict};
use super::life::{Life, live};
use crate::pod::Pod;

/// Runs the agent until a stop is asked for, and has ended it then.
pub(crate) async fn supervise(pod: &Pod, plan: &Plan) {
    let mut deaths = Deaths::new(Policy::POD);
    loop {
        let Life::Died { of, lived } = live(pod, plan).await else { return };
        let verdict = deaths.count(lived);
        tell(pod, &of, lived, verdict);
        tokio::select! {
            () = pause(verdict) => pod.restarting(),
            _ = pod.stop_asked() => return,
        }
    }
}

fn tell(pod: &Pod, of: &str, lived: Duration, verdict: Verdict) {
    let lived_ms = lived.as_millis();
    match verdict {
        Verdict::Again(pause) => {
            tracing::info!(lived_ms, pause_ms = pause.as_millis(), "the agent ended ({of}); it is started again");
            pod.died(PodPhase::Backoff, of);
        }
        Verdict::Enough => {
            tracing::warn!(lived_ms, "the agent ended too often ({of}); it is not started again");
            pod.died(PodPhase::Failed, of);
        }
    }
}

async fn pause(verdict: Verdict) {
    match verdict {
        Verdict::Again(pause) => sleep(pause).await,
        Verdict::Enough => std::future::pending().await,
    }
}
