//! From the start of the agent's process to the moment it has to be ended.

use std::time::Duration;

use tokio::time::sleep;
use wire::v1::pod::ImageRunConfig;

use super::probe;

/// The pause between two health probes.
const HEALTH_PERIOD: Duration = Duration::from_secs(5);
/// Health probes without an answer, in a row, after which the agent is ended.
const HEALTH_MISSES: u32 = 6;

/// Says `ready` once, and comes back with the reason to end the agent. How long it may take to
/// be ready is for whoever waits to say: the node has a deadline, and ends the whole guest.
pub(super) async fn watch(run: &ImageRunConfig, ready: impl FnOnce()) -> String {
    probe::until_answers(run.port, &run.ready_path).await;
    ready();
    let mut misses = 0;
    while misses < HEALTH_MISSES {
        sleep(HEALTH_PERIOD).await;
        misses = if probe::answers(run.port, &run.health_path).await { 0 } else { misses + 1 };
    }
    format!("{HEALTH_MISSES} health probes without an answer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_takes_longer_than_five_minutes_to_be_ready_is_waited_for() {
        let run = serde_json::json!({
            "argv": ["/agent"], "env": {}, "cwd": "/", "user": "", "port": closed_port(), "ready_path": "/",
            "health_path": "/", "state_dir": "/data", "stop_signal": "SIGTERM",
        });
        let (run, ready) = (serde_json::from_value(run).unwrap(), Cell::new(false));
        let watched = timeout(Duration::from_secs(330), watch(&run, || ready.set(true))).await;
        assert_eq!((watched.ok(), ready.get()), (None, false), "it is ended by nobody here");
    }

    /// A port on which nobody listens.
    fn closed_port() -> u16 {
        std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
    }
}
