//! From the start of the agent's process to the moment it has to be ended.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use wire::v1::pod::ImageRunConfig;

use super::probe;

/// How long an agent may take to answer its ready path.
const READY_TIMEOUT: Duration = Duration::from_mins(5);
/// The pause between two health probes.
const HEALTH_PERIOD: Duration = Duration::from_secs(5);
/// Health probes without an answer, in a row, after which the agent is ended.
const HEALTH_MISSES: u32 = 6;

/// Says `ready` once, and comes back with the reason to end the agent.
pub(super) async fn watch(run: &ImageRunConfig, ready: impl FnOnce()) -> String {
    if timeout(READY_TIMEOUT, probe::until_answers(run.port, &run.ready_path)).await.is_err() {
        return format!("not ready within {} s", READY_TIMEOUT.as_secs());
    }
    ready();
    let mut misses = 0;
    while misses < HEALTH_MISSES {
        sleep(HEALTH_PERIOD).await;
        misses = if probe::answers(run.port, &run.health_path).await { 0 } else { misses + 1 };
    }
    format!("{HEALTH_MISSES} health probes without an answer")
}
