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

use super::feed::Feed;
use super::process::{Input, Process, fault, set_size};
use crate::exit::Exit;
use crate::launch::{Launch, Spare, Streams};
use crate::port::Port;
use crate::reap::Reaper;
use crate::user::User;

/// Bytes of output in one event.
const PIECE: usize = 32 * 1024;
/// Pieces that are still read after the process is gone, while others hold its
/// output open.
const LAST_PIECES: usize = 64;

/// What to start, as whom, where, until when.
#[derive(Debug)]
pub(crate) struct Order {
    /// What the client asked for.
    pub(crate) request: StartRequest,
    /// Its user.
    pub(crate) user: User,
    /// Its environment, without what the client adds.
    pub(crate) env: BTreeMap<String, Secret>,
    /// Where it starts, unless the client says.
    pub(crate) cwd: String,
    /// When it is killed.
    pub(crate) deadline: Option<Instant>,
}

type Pipe = (Arc<Port>, fn(Base64) -> Output);

/// A started child, with our ends of its streams.
struct Started {
    pid: Pid,
    exit: oneshot::Receiver<Exit>,
    input: Input,
    outputs: Vec<Pipe>,
    terminal: Option<Arc<Port>>,
}

/// What must happen when a process has ended, and the place it takes meanwhile.
pub(super) struct Follow<F> {
    pub(super) place: Arc<OwnedSemaphorePermit>,
    pub(super) ended: F,
}

/// Starts the command.
///
/// # Errors
/// No such program or directory, or no memory.
pub(super) fn spawn<F: FnOnce(&Process) + Send + 'static>(
    mut order: Order,
    reaper: &Reaper,
    follow: Follow<F>,
) -> Result<Arc<Process>, RpcError> {
    let envs = std::mem::take(&mut order.request.process.envs);
    order.env.extend(envs.into_iter().map(|(name, value)| (name, value.into())));
    let cwd = order.request.process.cwd.clone().unwrap_or_else(|| order.cwd.clone());
    if !Path::new(&cwd).is_dir() {
        return Err(fault(RpcCode::InvalidArgument, format!("cwd {cwd:?} is not a directory")));
    }
    let started = start(&order, &cwd, reaper).map_err(|error| {
        fault(RpcCode::InvalidArgument, format!("cannot start {:?}: {error}", order.request.process.cmd))
    })?;
    let process = Arc::new(Process {
        pid: started.pid,
        config: order.request.process,
        tag: order.request.tag,
        feed: Feed::new(),
        input: Mutex::new(started.input),
        terminal: started.terminal,
        gone: watch::Sender::new(false),
    });
    if let Some(deadline) = order.deadline {
        tokio::spawn(kill_at(deadline, Arc::clone(&process)));
    }
    tokio::spawn(accompany(Arc::clone(&process), started.exit, started.outputs, follow));
    Ok(process)
}

fn start(order: &Order, cwd: &str, reaper: &Reaper) -> std::io::Result<Started> {
    let config = &order.request.process;
    let launch = Launch {
        program: &config.cmd,
        args: &config.args,
        env: &order.env,
        cwd,
        user: &order.user,
        spare: Spare::Sooner,
    };
    match order.request.pty {
        Some(pty) => on_terminal(&launch, pty.size, reaper),
        None => on_pipes(&launch, order.request.stdin.unwrap_or(true), reaper),
    }
}

fn on_pipes(launch: &Launch<'_>, stdin: bool, reaper: &Reaper) -> std::io::Result<Started> {
    let stdin = if stdin { Stdio::piped() } else { Stdio::null() };
    let streams = Streams { stdin, stdout: Stdio::piped(), stderr: Stdio::piped(), terminal: false };
    let mut child = launch.start(streams)?;
    let pid = Pid::from_child(&child);
    let exit = reaper.expect(pid);
    match pipes(&mut child) {
        Ok((input, outputs)) => Ok(Started { pid, exit, input, outputs, terminal: None }),
        Err(error) => {
            // Nobody could hear it. It is buried as an orphan.
            let _ = kill_process_group(pid, Signal::KILL);
            Err(error)
        }
    }
}

fn pipes(child: &mut Child) -> std::io::Result<(Input, Vec<Pipe>)> {
    let input = child.stdin.take().map(Port::new).transpose()?.map_or(Input::Closed, Input::Pipe);
    let mut outputs: Vec<Pipe> = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        outputs.push((Arc::new(Port::new(stdout)?), Output::Stdout));
    }
    if let Some(stderr) = child.stderr.take() {
        outputs.push((Arc::new(Port::new(stderr)?), Output::Stderr));
    }
    Ok((input, outputs))
}

fn on_terminal(launch: &Launch<'_>, size: PtySize, reaper: &Reaper) -> std::io::Result<Started> {
    let (terminal, theirs) = open_terminal(launch.user, size)?;
    let streams = Streams {
        stdin: theirs.try_clone()?.into(),
        stdout: theirs.try_clone()?.into(),
        stderr: theirs.into(),
        terminal: true,
    };
    let child = launch.start(streams)?;
    let pid = Pid::from_child(&child);
    let exit = reaper.expect(pid);
    let outputs: Vec<Pipe> = vec![(Arc::clone(&terminal), Output::Pty)];
    Ok(Started { pid, exit, input: Input::Closed, outputs, terminal: Some(terminal) })
}

/// A terminal of this size: our end, and the one that the user owns.
fn open_terminal(user: &User, size: PtySize) -> std::io::Result<(Arc<Port>, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    fchown(&theirs, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
    let terminal = Arc::new(Port::new(ours)?);
    set_size(&terminal, size)?;
    Ok((terminal, theirs))
}

/// Stays with the process until it is buried and its output is told.
async fn accompany<F: FnOnce(&Process)>(
    process: Arc<Process>,
    exit: oneshot::Receiver<Exit>,
    outputs: Vec<Pipe>,
    follow: Follow<F>,
) {
    let (told, mut all_told) = mpsc::channel::<()>(1);
    for (port, wrap) in outputs {
        let pump = Pump { port, wrap, feed: Arc::clone(&process.feed), gone: process.gone.subscribe() };
        tokio::spawn(pump.run(told.clone(), Arc::clone(&follow.place)));
    }
    drop(told);
    // The reaper never forgets: no answer means it ended with the guest.
    let exit = exit.await.unwrap_or(Exit::Signal(9));
    process.gone.send_replace(true);
    let _ = all_told.recv().await;
    process.feed.end(exit.ended());
    (follow.ended)(&process);
    *process.input.lock().await = Input::Closed;
}

async fn kill_at(deadline: Instant, process: Arc<Process>) {
    let mut gone = process.gone.subscribe();
    tokio::select! {
        _ = gone.wait_for(|gone| *gone) => {}
        // Gone in this very moment is as good.
        () = sleep_until(deadline) => drop(process.signal(Signal::KILL)),
    }
}

/// Carries one output of a process into its feed.
struct Pump {
    port: Arc<Port>,
    wrap: fn(Base64) -> Output,
    feed: Arc<Feed>,
    gone: watch::Receiver<bool>,
}

impl Pump {
    /// `told` is dropped when all the process itself wrote is in the feed. A
    /// child of it may keep the pipe open for long: its words are read and
    /// forgotten, and its place stays taken, so that it is not killed by a write.
    async fn run(mut self, told: mpsc::Sender<()>, place: Arc<OwnedSemaphorePermit>) {
        let mut buffer = vec![0; PIECE];
        while let Some(count) = self.read(&mut buffer).await {
            self.tell(&buffer[..count]).await;
        }
        for _ in 0..LAST_PIECES {
            let Ok(Some(count @ 1..)) = self.port.read_now(&mut buffer) else { break };
            self.tell(&buffer[..count]).await;
        }
        drop(told);
        while let Ok(1..) = self.port.read(&mut buffer).await {}
        drop(place);
    }

    /// The next output; `None` at its end or when the process is gone.
    async fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        tokio::select! {
            biased;
            read = self.port.read(buffer) => read.ok().filter(|count| *count > 0),
            _ = self.gone.wait_for(|gone| *gone) => None,
        }
    }

    async fn tell(&self, bytes: &[u8]) {
        self.feed.push((self.wrap)(Base64(bytes.to_vec()))).await;
    }
}
