//! A pod from the start of its process to the end.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{getpid, set_child_subreaper};
use tokio::signal::unix::{SignalKind, signal};

use super::children::kill_children;
use super::platform::Container;
use crate::agent::Pod;
use crate::args::Options;
use crate::server::PodServer;
use crate::timings::BootStopwatch;

/// How long the agent may take to end after SIGTERM: what container runtimes
/// allow by default is 10 s, after which they kill this program as well.
const TERM_GRACE: Duration = Duration::from_secs(8);

/// Serves until a stop is asked for, by call or by signal.
///
/// # Errors
/// It cannot listen, or the kernel refuses what it needs.
pub(crate) fn run(options: &Options, timings: BootStopwatch) -> anyhow::Result<()> {
    // Orphans of the agent come to this process, as they would to PID 1, and are found at the end.
    set_child_subreaper(Some(getpid())).context("cannot inherit orphans")?;
    let listener = TcpListener::bind(options.listen).with_context(|| format!("cannot listen on {}", options.listen))?;
    listener.set_nonblocking(true).context("cannot listen")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(serve(listener, options, timings))
}

async fn serve(listener: TcpListener, options: &Options, timings: BootStopwatch) -> anyhow::Result<()> {
    let server = PodServer::start(listener, options.node, Arc::new(Container), timings.clone())?;
    tokio::spawn(stop_on_signal(server.pod().clone())?);
    server.pod().set_up(timings);
    server.run_agent().await;
    server.close(kill_children).await;
    Ok(())
}

/// Asks for the end when SIGTERM or SIGINT comes.
fn stop_on_signal(pod: Pod) -> anyhow::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate()).context("cannot hear signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot hear signals")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        pod.stop(TERM_GRACE);
    })
}
