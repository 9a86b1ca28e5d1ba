//! `pod`: PID 1 of a guest. Boots it, takes its identity once, runs the agent,
//! and is the node's only door into it.
//!
//! One thread. Its memory is wiped wherever it is freed, so that what was secret
//! in a request does not outlive it.

mod agent;
mod api;
mod boot;
mod exec;
mod exit;
mod identity;
mod launch;
mod logs;
mod pod;
mod port;
mod power;
mod reap;
mod user;

use std::alloc::System;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use zeroizing_alloc::ZeroAlloc;

use crate::boot::{BootError, Disks, Errand, Modules, Reachable, Steps};
use crate::logs::Logs;
use crate::pod::Pod;
use crate::reap::Reaper;

#[global_allocator]
static MEMORY: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    let steps = Steps::start();
    if std::env::args().nth(1).as_deref() == Some("--version") {
        let said = writeln!(io::stdout(), "pod {}", env!("CARGO_PKG_VERSION"));
        return said.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    if std::process::id() != 1 {
        let _ = writeln!(io::stderr(), "pod must be PID 1 of a guest: the initramfs starts it as /init");
        return ExitCode::from(2);
    }
    // Whatever happens, PID 1 does not come back from here with the machine on:
    // its end makes the kernel panic, and a guest's kernel reboots at once.
    if let Err(error) = guest(steps) {
        let _ = writeln!(io::stderr(), "pod: {error:#}");
    }
    ExitCode::FAILURE
}

fn guest(mut steps: Steps) -> anyhow::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("cannot hide this program's memory")?;
    match boot::begin(&mut steps)? {
        Errand::Probe => probe()?,
        Errand::Guest => {
            let reachable = boot::reach(&mut steps)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.context("cannot start the runtime")?.block_on(run(reachable, steps))?;
        }
    }
    power::off().context("cannot power off")
}

/// The answer of a machine that only has to show that it boots.
fn probe() -> anyhow::Result<()> {
    let mut console =
        std::fs::OpenOptions::new().write(true).open("/dev/console").context("cannot open the console")?;
    writeln!(console, "{}", wire::pod::PROBE_ANSWER).context("cannot write to the console")?;
    rustix::termios::tcdrain(&console).context("cannot drain the console")
}

async fn run(reachable: Reachable, steps: Steps) -> anyhow::Result<()> {
    let Reachable { listener, modules } = reachable;
    let logs = Logs::new();
    logs::install(logs.clone())?;
    let reaper = Reaper::default();
    tokio::spawn(reaper.run().context("cannot hear signals")?);
    let listener = tokio::net::TcpListener::from_std(listener).context("cannot listen")?;
    let pod = Pod::new(logs, reaper, steps);
    let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
    tokio::spawn(api::serve(listener, api::routes(pod.clone()), tasks.clone(), closing.clone()));
    let disks = furnish(modules, &pod).await?;
    live(&pod).await;
    power::down(&pod, &disks, &closing, &tasks).await;
    Ok(())
}

/// Gives the guest its disks, without which it takes no identity.
async fn furnish(modules: Modules, pod: &Pod) -> Result<Disks, BootError> {
    let mut steps = pod.steps();
    let disks = boot::furnish(modules, &mut steps).await?;
    pod.furnished(steps);
    Ok(disks)
}

/// From the wait for the identity to the end of the agent.
async fn live(pod: &Pod) {
    let plan = tokio::select! {
        plan = pod.identified() => plan,
        _ = pod.stop_asked() => return,
    };
    let span = tracing::info_span!("agent", trace_id = plan.trace_id);
    let life = async {
        tracing::info!(agent = %plan.agent, "identity taken");
        agent::supervise(pod, &plan).await;
    };
    life.instrument(span).await;
}
