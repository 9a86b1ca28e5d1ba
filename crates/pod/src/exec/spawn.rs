//! Starting a command and following it to its end.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;

use rustix::fs::{Gid, Uid, fchown};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use tokio::sync::{Mutex, OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use wire::Secret;
use wire::process::{Base64, Output, PtySize, RpcCode, RpcError, StartRequest};

use super::broadcast::OutputBroadcast;
use super::process::{InputSink, Process, fault, set_size};
use crate::process::{AsyncPipe, Exit, OomScore, ProcessSpec, Reaper, Streams, User};

/// Bytes of output in one event.
const READ_BYTES: usize = 32 * 1024;
/// Reads that are still made after the process is gone, while others hold its
/// output open.
const LAST_READS: usize = 64;

/// What to start, as whom, where, until when.
#[derive(Debug)]
pub(crate) struct CommandSpec {
    /// What the client asked for.
    pub(crate) request: StartRequest,
    /// Its user.
    pub(crate) user: User,
    /// Its environment, without what the client adds.
    pub(crate) env: BTreeMap<String, Secret>,
    /// Where it starts: an absolute path.
    pub(crate) cwd: String,
    /// When it is killed.
    pub(crate) deadline: Option<Instant>,
}

/// One output of a process, and what its bytes are in the protocol.
type OutputSource = (Arc<AsyncPipe>, fn(Base64) -> Output);

/// A started child, with our ends of its streams.
struct Started {
    pid: Pid,
    exit: oneshot::Receiver<Exit>,
    input: InputSink,
    outputs: Vec<OutputSource>,
    terminal: Option<Arc<AsyncPipe>>,
}

/// What must happen when a process has ended, and the slot it takes meanwhile.
pub(super) struct OnExit<F> {
    pub(super) slot: Arc<OwnedSemaphorePermit>,
    pub(super) report: F,
}

/// Starts the command.
///
/// # Errors
/// No such program or directory, or no memory.
pub(super) fn spawn<F: FnOnce(&Process) + Send + 'static>(
    mut spec: CommandSpec,
    reaper: &Reaper,
    on_exit: OnExit<F>,
) -> Result<Arc<Process>, RpcError> {
    let envs = std::mem::take(&mut spec.request.process.envs);
    spec.env.extend(envs.into_iter().map(|(name, value)| (name, value.into())));
    if !Path::new(&spec.cwd).is_dir() {
        return Err(fault(RpcCode::InvalidArgument, format!("cwd {:?} is not a directory", spec.cwd)));
    }
    let started = start(&spec, reaper).map_err(|error| {
        fault(RpcCode::InvalidArgument, format!("cannot start {:?}: {error}", spec.request.process.cmd))
    })?;
    let process = Arc::new(Process {
        pid: started.pid,
        config: spec.request.process,
        tag: spec.request.tag,
        output: OutputBroadcast::new(),
        input: Mutex::new(started.input),
        terminal: started.terminal,
        gone: watch::Sender::new(false),
    });
    if let Some(deadline) = spec.deadline {
        tokio::spawn(kill_at(deadline, Arc::clone(&process)));
    }
    tokio::spawn(monitor(Arc::clone(&process), started.exit, started.outputs, on_exit));
    Ok(process)
}

fn start(spec: &CommandSpec, reaper: &Reaper) -> std::io::Result<Started> {
    let config = &spec.request.process;
    let process = ProcessSpec {
        program: &config.cmd,
        args: &config.args,
        env: &spec.env,
        cwd: &spec.cwd,
        user: &spec.user,
        oom_score: OomScore::Command,
    };
    match spec.request.pty {
        Some(pty) => on_terminal(&process, pty.size, reaper),
        None => on_pipes(&process, spec.request.stdin.unwrap_or(true), reaper),
    }
}

fn on_pipes(spec: &ProcessSpec<'_>, stdin: bool, reaper: &Reaper) -> std::io::Result<Started> {
    let stdin = if stdin { Stdio::piped() } else { Stdio::null() };
    let streams = Streams { stdin, stdout: Stdio::piped(), stderr: Stdio::piped(), terminal: false };
    let mut child = spec.start(streams)?;
    let pid = Pid::from_child(&child);
    let exit = reaper.subscribe(pid);
    match pipes(&mut child) {
        Ok((input, outputs)) => Ok(Started { pid, exit, input, outputs, terminal: None }),
        Err(error) => {
            // Nobody could hear it. The reaper reaps it as an orphan.
            let _ = kill_process_group(pid, Signal::KILL);
            Err(error)
        }
    }
}

fn pipes(child: &mut Child) -> std::io::Result<(InputSink, Vec<OutputSource>)> {
    let input = child.stdin.take().map(AsyncPipe::new).transpose()?.map_or(InputSink::Closed, InputSink::Pipe);
    let mut outputs: Vec<OutputSource> = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        outputs.push((Arc::new(AsyncPipe::new(stdout)?), Output::Stdout));
    }
    if let Some(stderr) = child.stderr.take() {
        outputs.push((Arc::new(AsyncPipe::new(stderr)?), Output::Stderr));
    }
    Ok((input, outputs))
}

fn on_terminal(spec: &ProcessSpec<'_>, size: PtySize, reaper: &Reaper) -> std::io::Result<Started> {
    let (terminal, theirs) = open_terminal(spec.user, size)?;
    let streams = Streams {
        stdin: theirs.try_clone()?.into(),
        stdout: theirs.try_clone()?.into(),
        stderr: theirs.into(),
        terminal: true,
    };
    let child = spec.start(streams)?;
    let pid = Pid::from_child(&child);
    let exit = reaper.subscribe(pid);
    let outputs: Vec<OutputSource> = vec![(Arc::clone(&terminal), Output::Pty)];
    Ok(Started { pid, exit, input: InputSink::Closed, outputs, terminal: Some(terminal) })
}

/// A terminal of this size: our end, and the one that the user owns.
fn open_terminal(user: &User, size: PtySize) -> std::io::Result<(Arc<AsyncPipe>, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    fchown(&theirs, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
    let terminal = Arc::new(AsyncPipe::new(ours)?);
    set_size(&terminal, size)?;
    Ok((terminal, theirs))
}

/// Waits until the process is reaped and its output is read.
async fn monitor<F: FnOnce(&Process)>(
    process: Arc<Process>,
    exit: oneshot::Receiver<Exit>,
    outputs: Vec<OutputSource>,
    on_exit: OnExit<F>,
) {
    let (unread, mut all_read) = mpsc::channel::<()>(1);
    for (pipe, wrap) in outputs {
        let pump = OutputPump { pipe, wrap, output: Arc::clone(&process.output), gone: process.gone.subscribe() };
        tokio::spawn(pump.run(unread.clone(), Arc::clone(&on_exit.slot)));
    }
    drop(unread);
    // The reaper never forgets: no answer means it ended with this program.
    let exit = exit.await.unwrap_or(Exit::Signal(9));
    process.gone.send_replace(true);
    let _ = all_read.recv().await;
    process.output.end(exit.ended());
    (on_exit.report)(&process);
    *process.input.lock().await = InputSink::Closed;
}

async fn kill_at(deadline: Instant, process: Arc<Process>) {
    let mut gone = process.gone.subscribe();
    tokio::select! {
        _ = gone.wait_for(|gone| *gone) => {}
        // Gone in this very moment is as good.
        () = sleep_until(deadline) => drop(process.signal(Signal::KILL)),
    }
}

/// Carries one output of a process into its broadcast.
struct OutputPump {
    pipe: Arc<AsyncPipe>,
    wrap: fn(Base64) -> Output,
    output: Arc<OutputBroadcast>,
    gone: watch::Receiver<bool>,
}

impl OutputPump {
    /// `unread` is dropped when all the process itself wrote is in the broadcast. A
    /// child of it may keep the pipe open for long: what it writes is read and
    /// forgotten, and its slot stays taken, so that it is not killed by a write.
    async fn run(mut self, unread: mpsc::Sender<()>, slot: Arc<OwnedSemaphorePermit>) {
        let mut buffer = vec![0; READ_BYTES];
        while let Some(count) = self.read(&mut buffer).await {
            self.publish(&buffer[..count]).await;
        }
        for _ in 0..LAST_READS {
            let Ok(Some(count @ 1..)) = self.pipe.read_now(&mut buffer) else { break };
            self.publish(&buffer[..count]).await;
        }
        drop(unread);
        while let Ok(1..) = self.pipe.read(&mut buffer).await {}
        drop(slot);
    }

    /// The next output; `None` at its end or when the process is gone.
    async fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        tokio::select! {
            biased;
            read = self.pipe.read(buffer) => read.ok().filter(|count| *count > 0),
            _ = self.gone.wait_for(|gone| *gone) => None,
        }
    }

    async fn publish(&self, bytes: &[u8]) {
        self.output.push((self.wrap)(Base64(bytes.to_vec()))).await;
    }
}
