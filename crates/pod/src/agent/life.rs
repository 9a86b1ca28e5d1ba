//! One life of the agent's process.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Plan, health};
use crate::exit::Exit;
use crate::launch::Streams;
use crate::logs::{Logs, Splitter};
use crate::pod::Pod;
use crate::port::Port;

/// How long the kernel may take to bury a killed process.
const BURIAL: Duration = Duration::from_secs(10);
/// How long the output of a dead agent is listened to.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes of output read at once.
const PIECE: usize = 16 * 1024;

/// How a life went.
pub(super) enum Life {
    /// It died.
    Died {
        /// Of what.
        of: String,
        /// After how long.
        lived: Duration,
    },
    /// It was asked to end, and did.
    Stopped,
}

/// Starts the agent and stays until its end.
pub(super) async fn live(pod: &Pod, plan: &Plan) -> Life {
    let born = Instant::now();
    let (pid, exit, ears) = match start(pod, plan) {
        Ok(started) => started,
        Err(error) => {
            let of = format!("cannot start {}: {error}", plan.run.argv.join(" "));
            return Life::Died { of, lived: born.elapsed() };
        }
    };
    pod.started_agent();
    let died = accompany(pod, plan, pid, exit).await;
    let lived = born.elapsed();
    // What it left behind in its group must not meet its successor.
    let _ = kill_process_group(pid, Signal::KILL);
    let _ = timeout(LAST_WORDS, ears.join_all()).await;
    died.map_or(Life::Stopped, |of| Life::Died { of, lived })
}

/// Stays until the process has ended, and says of what; `None` if it was asked to.
async fn accompany(pod: &Pod, plan: &Plan, pid: Pid, mut exit: oneshot::Receiver<Exit>) -> Option<String> {
    tokio::select! {
        exit = &mut exit => Some(words(exit.ok())),
        why = health::watch(&plan.run, || pod.ready()) => Some(end(pid, exit, why).await),
        grace = pod.stop_asked() => {
            terminate(pid, exit, plan.stop_signal, grace).await;
            None
        }
    }
}

fn start(pod: &Pod, plan: &Plan) -> std::io::Result<(Pid, oneshot::Receiver<Exit>, Ears)> {
    let streams = Streams { stdin: Stdio::null(), stdout: Stdio::piped(), stderr: Stdio::piped(), terminal: false };
    let mut child = plan.launch().start(streams)?;
    let pid = Pid::from_child(&child);
    let exit = pod.reaper().expect(pid);
    let heard = listen(&mut child, pod.logs());
    if heard.is_err() {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    heard.map(|ears| (pid, exit, ears))
}

/// What listens to a process; dropped, it closes the pipes, whoever still holds
/// their other ends.
type Ears = JoinSet<()>;

fn listen(child: &mut Child, logs: &Logs) -> std::io::Result<Ears> {
    let mut ears = JoinSet::new();
    if let Some(stdout) = child.stdout.take() {
        ears.spawn(keep(Port::new(stdout)?, "stdout", logs.clone()));
    }
    if let Some(stderr) = child.stderr.take() {
        ears.spawn(keep(Port::new(stderr)?, "stderr", logs.clone()));
    }
    Ok(ears)
}

/// Keeps every line until the last holder of the pipe has closed it.
async fn keep(port: Port, stream: &'static str, logs: Logs) {
    let mut splitter = Splitter::new();
    let mut buffer = vec![0; PIECE];
    while let Ok(count @ 1..) = port.read(&mut buffer).await {
        splitter.take(&buffer[..count], |line| logs.push(stream, line));
    }
    if let Some(line) = splitter.rest() {
        logs.push(stream, line);
    }
}

/// Ends an agent that does not do its duty.
async fn end(pid: Pid, exit: oneshot::Receiver<Exit>, why: String) -> String {
    let _ = kill_process_group(pid, Signal::KILL);
    let _ = timeout(BURIAL, exit).await;
    why
}

/// Asks, waits, and then insists.
async fn terminate(pid: Pid, mut exit: oneshot::Receiver<Exit>, ask: Signal, grace: Duration) {
    let _ = kill_process(pid, ask);
    if timeout(grace, &mut exit).await.is_err() {
        tracing::warn!(grace_ms = grace.as_millis(), "the agent did not end in time; killed");
        end(pid, exit, String::new()).await;
    }
}

fn words(exit: Option<Exit>) -> String {
    exit.map_or_else(|| "unknown".to_owned(), |exit| exit.ended().status)
}
