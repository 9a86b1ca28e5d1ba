//! What this program does wherever it runs: serves the API, takes an identity,
//! runs the agent, and ends every process when it is told to stop.

use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::agent::{self, Logs, Pod};
use crate::api;
use crate::identity::Platform;
use crate::process::Reaper;
use crate::timings::BootStopwatch;

/// How long killed processes may take to be reaped.
const REAP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long answers that are on their way may take.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// The pause between two looks at who is left.
const REAP_INTERVAL: Duration = Duration::from_millis(2);

/// The program's running server.
pub(crate) struct PodServer {
    pod: Pod,
    connections: TaskTracker,
    closing: CancellationToken,
}

impl PodServer {
    /// Serves the API to this node. Until [`PodServer::pod`] is told that it is set
    /// up, an identity that comes waits.
    ///
    /// # Errors
    /// Signals or the socket cannot be waited for.
    pub(crate) fn start(
        listener: TcpListener,
        node: IpAddr,
        platform: Arc<dyn Platform>,
        timings: BootStopwatch,
    ) -> anyhow::Result<Self> {
        let logs = Logs::new();
        agent::log_events(logs.clone())?;
        let reaper = Reaper::default();
        tokio::spawn(reaper.run().context("cannot hear signals")?);
        let listener = tokio::net::TcpListener::from_std(listener).context("cannot listen")?;
        let pod = Pod::new(logs, reaper, timings);
        let (connections, closing) = (TaskTracker::new(), CancellationToken::new());
        let routes = api::routes(pod.clone(), platform);
        tokio::spawn(api::serve(listener, node, routes, connections.clone(), closing.clone()));
        Ok(Self { pod, connections, closing })
    }

    /// What its parts share.
    pub(crate) const fn pod(&self) -> &Pod {
        &self.pod
    }

    /// From the wait for the identity to the end of the agent.
    pub(crate) async fn run_agent(&self) {
        let plan = tokio::select! {
            plan = self.pod.wait_for_plan() => plan,
            _ = self.pod.wait_for_stop() => return,
        };
        let span = tracing::info_span!("agent", trace_id = plan.trace_id);
        let run = async {
            tracing::info!(agent = %plan.agent, "identity taken");
            agent::supervise(&self.pod, &plan).await;
        };
        run.instrument(span).await;
    }

    /// Ends all, in the order that loses nothing: processes, then what they said.
    /// `kill_processes` kills all that it can see.
    pub(crate) async fn close(&self, kill_processes: impl Fn()) {
        if timeout(REAP_TIMEOUT, self.reap_all(kill_processes)).await.is_err() {
            tracing::warn!("a process could not be ended; going on without it");
        }
        self.pod.logs().close();
        self.closing.cancel();
        self.connections.close();
        // A client that does not take its answer does not keep the pod.
        let _ = timeout(DRAIN_TIMEOUT, self.connections.wait()).await;
    }

    async fn reap_all(&self, kill_processes: impl Fn()) {
        kill_processes();
        while !self.pod.reaper().reap() {
            sleep(REAP_INTERVAL).await;
            // Children of one that was killed are this process's now.
            kill_processes();
        }
    }
}
