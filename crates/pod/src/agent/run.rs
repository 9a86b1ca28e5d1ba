//! One run of the agent's process.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::health;
use super::logs::{LineSplitter, Logs};
use super::plan::Plan;
use super::state::Pod;
use crate::process::{AsyncPipe, Exit, Streams};

/// How long a killed process may take to be reaped.
const REAP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the output of an ended agent is still read.
const OUTPUT_DRAIN: Duration = Duration::from_secs(1);
/// Bytes of output read at once.
const READ_BYTES: usize = 16 * 1024;

/// How a run went.
pub(super) enum RunOutcome {
    /// It ended by itself, or had to be ended.
    Exited {
        /// Why.
        reason: String,
        /// After how long.
        ran_for: Duration,
    },
    /// It was asked to end, and did.
    Stopped,
}

/// Starts the agent and stays until its end.
pub(super) async fn run_once(pod: &Pod, plan: &Plan) -> RunOutcome {
    let started = Instant::now();
    let (pid, exit, readers) = match start(pod, plan) {
        Ok(process) => process,
        Err(error) => {
            let reason = format!("cannot start {}: {error}", plan.run.argv.join(" "));
            return RunOutcome::Exited { reason, ran_for: started.elapsed() };
        }
    };
    pod.agent_started();
    let reason = monitor(pod, plan, pid, exit).await;
    let ran_for = started.elapsed();
    // What it left behind in its group must not meet its successor.
    let _ = kill_process_group(pid, Signal::KILL);
    let _ = timeout(OUTPUT_DRAIN, readers.join_all()).await;
    reason.map_or(RunOutcome::Stopped, |reason| RunOutcome::Exited { reason, ran_for })
}

/// Waits until the process has ended, and says why; `None` if it was asked to.
async fn monitor(pod: &Pod, plan: &Plan, pid: Pid, mut exit: oneshot::Receiver<Exit>) -> Option<String> {
    tokio::select! {
        exit = &mut exit => Some(describe(exit.ok())),
        why = health::watch(&plan.run, || pod.agent_ready()) => Some(kill(pid, exit, why).await),
        grace = pod.wait_for_stop() => {
            terminate(pid, exit, plan.stop_signal, grace).await;
            None
        }
    }
}

fn start(pod: &Pod, plan: &Plan) -> std::io::Result<(Pid, oneshot::Receiver<Exit>, OutputReaders)> {
    let streams = Streams { stdin: Stdio::null(), stdout: Stdio::piped(), stderr: Stdio::piped(), terminal: false };
    let mut child = plan.process().start(streams)?;
    let pid = Pid::from_child(&child);
    let exit = pod.reaper().subscribe(pid);
    let readers = read_output(&mut child, pod.logs());
    if readers.is_err() {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    readers.map(|readers| (pid, exit, readers))
}

/// What reads the output of a process; dropped, it closes the pipes, whoever still holds
/// their other ends.
type OutputReaders = JoinSet<()>;

fn read_output(child: &mut Child, logs: &Logs) -> std::io::Result<OutputReaders> {
    let mut readers = JoinSet::new();
    if let Some(stdout) = child.stdout.take() {
        readers.spawn(log_lines(AsyncPipe::new(stdout)?, "stdout", logs.clone()));
    }
    if let Some(stderr) = child.stderr.take() {
        readers.spawn(log_lines(AsyncPipe::new(stderr)?, "stderr", logs.clone()));
    }
    Ok(readers)
}

/// Keeps every line until the last holder of the pipe has closed it.
async fn log_lines(pipe: AsyncPipe, stream: &'static str, logs: Logs) {
    let mut splitter = LineSplitter::new();
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        splitter.take(&buffer[..count], |line| logs.push(stream, line));
    }
    if let Some(line) = splitter.rest() {
        logs.push(stream, line);
    }
}

/// Kills an agent that is not healthy; gives the reason back.
async fn kill(pid: Pid, exit: oneshot::Receiver<Exit>, why: String) -> String {
    let _ = kill_process_group(pid, Signal::KILL);
    let _ = timeout(REAP_TIMEOUT, exit).await;
    why
}

/// Asks, waits, and then insists.
async fn terminate(pid: Pid, mut exit: oneshot::Receiver<Exit>, ask: Signal, grace: Duration) {
    let _ = kill_process(pid, ask);
    if timeout(grace, &mut exit).await.is_err() {
        tracing::warn!(grace_ms = grace.as_millis(), "the agent did not end in time; killed");
        kill(pid, exit, String::new()).await;
    }
}

fn describe(exit: Option<Exit>) -> String {
    exit.map_or_else(|| "unknown".to_owned(), |exit| exit.ended().status)
}
