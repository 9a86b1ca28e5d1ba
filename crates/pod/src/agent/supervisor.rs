//! Run after run, until it is given up or somebody asks to stop.

use std::time::Duration;

use tokio::time::sleep;
use wire::v1::pod::PodPhase;

use super::plan::Plan;
use super::restarts::{RestartCounter, RestartDecision, RestartPolicy};
use super::run::{RunOutcome, run_once};
use super::state::Pod;

/// Runs the agent until a stop is asked for, and has ended it then.
pub(crate) async fn supervise(pod: &Pod, plan: &Plan) {
    if let Some(why) = &plan.refused {
        tracing::error!("the agent is not started: {why}");
        pod.agent_exited(PodPhase::Failed, why);
        pod.wait_for_stop().await;
        return;
    }
    let mut restarts = RestartCounter::new(RestartPolicy::DEFAULT);
    loop {
        let RunOutcome::Exited { reason, ran_for } = run_once(pod, plan).await else { return };
        let decision = restarts.record(ran_for);
        report(pod, &reason, ran_for, decision);
        tokio::select! {
            () = pause(decision) => pod.agent_restarting(),
            _ = pod.wait_for_stop() => return,
        }
    }
}

fn report(pod: &Pod, reason: &str, ran_for: Duration, decision: RestartDecision) {
    let ran_ms = ran_for.as_millis();
    match decision {
        RestartDecision::RestartAfter(pause) => {
            tracing::info!(ran_ms, pause_ms = pause.as_millis(), "the agent ended ({reason}); it is started again");
            pod.agent_exited(PodPhase::Backoff, reason);
        }
        RestartDecision::GiveUp => {
            tracing::warn!(ran_ms, "the agent ended too often ({reason}); it is not started again");
            pod.agent_exited(PodPhase::Failed, reason);
        }
    }
}

async fn pause(decision: RestartDecision) {
    match decision {
        RestartDecision::RestartAfter(pause) => sleep(pause).await,
        RestartDecision::GiveUp => std::future::pending().await,
    }
}
