//! Ends what a benchmark has started, however it ends: a panic or a signal ends its process at once, and what it had
//! started (nodes, guests, gateways, chains, containers) would go on. So the benchmark is a process of its own, and this
//! one adopts what it leaves.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, wait};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout};

/// Names the folder in which a benchmark has what must lie on a real disk.
pub(crate) const SCRATCH: &str = "PALATINE_BENCH_SCRATCH";
/// What ends its own guests and parts when it is asked to end.
const DAEMONS: [&str; 2] = ["palatine", "hypercore"];
/// What ends a benchmark from outside.
const ENDING: [SignalKind; 4] =
    [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate()];
/// How often it is looked whether what was left has ended.
const LOOK: Duration = Duration::from_millis(50);

/// How long what is left may take to end by itself.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Nodes and stacks, which were asked to.
    daemons: Duration,
    /// What waits for a pipe that has closed.
    others: Duration,
    /// What was killed.
    killed: Duration,
}

const PATIENCE: Patience =
    Patience { daemons: Duration::from_secs(120), others: Duration::from_secs(10), killed: Duration::from_secs(10) };

/// Runs this program with these words, with folders of its own, and ends what it leaves.
pub(crate) fn run(words: impl IntoIterator<Item = impl AsRef<OsStr>>, scratch: &Path) -> Result<ExitCode> {
    let folders = [folder(scratch)?, folder(&std::env::temp_dir())?];
    let mut command = Command::new(std::env::current_exe()?);
    command.args(words).env(SCRATCH, folders[0].path()).env("TMPDIR", folders[1].path());
    let code = guarded(&mut command, PATIENCE)?;
    folders.into_iter().for_each(put_away);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// A folder through which other users come to theirs: a database's is one.
fn folder(at: &Path) -> Result<TempDir> {
    let folder = TempDir::with_prefix_in("palatine-bench-", at).context("make a folder")?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).context("open a folder to other users")?;
    Ok(folder)
}

/// A folder in which something is still mounted is kept: what is mounted may be others'.
fn put_away(folder: TempDir) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let place = folder.path().display().to_string();
    if mounts.lines().any(|line| line.split(' ').nth(4).is_some_and(|point| point.starts_with(&place))) {
        eprintln!("{place} is left: something is mounted in it");
        let _kept = folder.keep();
    } else if let Err(error) = folder.close() {
        eprintln!("{place} is left: {error}");
    }
}

/// The exit status of a program of which nothing is left.
fn guarded(command: &mut Command, patience: Patience) -> Result<i32> {
    set_child_subreaper(Some(getpid())).context("adopt what the benchmark leaves")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut ending = Ending::watch()?;
        // Nobody waits for it by its handle: whatever ends here is looked at in one place.
        let child = Pid::from_child(&command.spawn().context("start the benchmark")?);
        let status = ended(child, &mut ending).await?;
        let left = ending.heard(end_what_is_left(patience)).await;
        for line in left.unwrap_or_else(|| vec!["what it has started is killed".to_owned()]) {
            eprintln!("{line}");
        }
        kill_all(patience.killed).await;
        Ok(code(status))
    })
}

/// How the benchmark ended. A signal to us is handed on.
async fn ended(child: Pid, ending: &mut Ending) -> Result<WaitStatus> {
    let mut children = signal(SignalKind::child())?;
    loop {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == child {
                return Ok(status);
            }
        }
        tokio::select! {
            _ = children.recv() => {}
            _ = ending.next() => drop(kill_process(child, Signal::TERM)),
        }
    }
}

/// Asks nodes and stacks to end, and waits for them and for what ends by itself; what was left.
async fn end_what_is_left(patience: Patience) -> Vec<String> {
    let mut told = Vec::new();
    let mut limit = Instant::now() + patience.daemons;
    loop {
        let left = Process::left();
        let daemons: Vec<&Process> = left.iter().filter(|process| process.is_daemon()).collect();
        // Theirs are theirs to end.
        for daemon in daemons.iter().filter(|daemon| daemon.is_ours()) {
            let line = format!("{} ({}) was left, and is ended", daemon.name, daemon.pid.as_raw_nonzero());
            if !told.contains(&line) {
                kill_process(daemon.pid, Signal::TERM).ok();
                told.push(line);
            }
        }
        if daemons.is_empty() {
            limit = limit.min(Instant::now() + patience.others);
        }
        if left.is_empty() || Instant::now() >= limit {
            return told;
        }
        sleep_until(Instant::now() + LOOK).await;
    }
}

/// Kills what is left, until nothing is.
async fn kill_all(patience: Duration) {
    let limit = Instant::now() + patience;
    let mut told = Vec::new();
    loop {
        let left = Process::left();
        for process in &left {
            if kill_process(process.pid, Signal::KILL).is_ok() && !told.contains(&process.pid) {
                eprintln!("{} ({}) was left, and is killed", process.name, process.pid.as_raw_nonzero());
                told.push(process.pid);
            }
        }
        if left.is_empty() || Instant::now() >= limit {
            return;
        }
        sleep_until(Instant::now() + LOOK).await;
    }
}

/// The exit status that a shell gives to such an end.
fn code(status: WaitStatus) -> i32 {
    let by_signal = || status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or_else(by_signal).unwrap_or(1)
}

/// A process that comes from us.
#[derive(Debug)]
struct Process {
    pid: Pid,
    parent: Pid,
    name: String,
}

impl Process {
    /// All that live, whoever of them has started it. Those that have ended are waited for.
    fn left() -> Vec<Self> {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        let all: Vec<Self> = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(Self::at).collect();
        let mut known = vec![getpid()];
        let mut found = Vec::new();
        let mut rest = all;
        loop {
            let (next, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|one| known.contains(&one.parent));
            if next.is_empty() {
                return found;
            }
            known.extend(next.iter().map(|process| process.pid));
            found.extend(next);
            rest = others;
        }
    }

    fn at(entry: fs::DirEntry) -> Option<Self> {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let stat = fs::read_to_string(PathBuf::from("/proc").join(entry.file_name()).join("stat")).ok()?;
        // A name may hold anything.
        let (head, tail) = (stat.split_once('(')?.1, stat.rfind(')')?);
        let name = head.get(..head.rfind(')')?)?.to_owned();
        let mut fields = stat.get(tail + 2..)?.split(' ');
        let (state, parent) = (fields.next()?, fields.next()?);
        (state != "Z").then_some(Self { pid, parent: Pid::from_raw(parent.parse().ok()?)?, name })
    }

    fn is_daemon(&self) -> bool {
        DAEMONS.contains(&&*self.name)
    }

    fn is_ours(&self) -> bool {
        self.parent == getpid()
    }
}

/// Signals that end us.
struct Ending(Vec<tokio::signal::unix::Signal>);

impl Ending {
    fn watch() -> Result<Self> {
        let watched = ENDING.map(|kind| signal(kind).context("watch for signals"));
        Ok(Self(watched.into_iter().collect::<Result<_>>()?))
    }

    async fn next(&mut self) {
        std::future::poll_fn(|context| {
            let came = self.0.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
            if came { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }

    /// What `work` comes to, unless somebody is impatient.
    async fn heard<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        // One signal reaches us and the benchmark: what came with its end is no impatience.
        while timeout(LOOK, self.next()).await.is_ok() {}
        tokio::select! {
            done = work => Some(done),
            () = self.next() => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Patience = Patience {
        daemons: Duration::from_secs(20),
        others: Duration::from_millis(200),
        killed: Duration::from_secs(20),
    };

    /// A benchmark that does this.
    fn code_of(does: &str, dir: &Path) -> i32 {
        guarded(Command::new("sh").args(["-c", does]).current_dir(dir), QUICK).unwrap()
    }

    #[test]
    fn what_a_benchmark_leaves_is_ended_however_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let leaves = "sh -c 'sleep 1000 & sleep 1000' & sleep 1000 & ";
        assert_eq!(code_of(&format!("{leaves} exit 3"), dir.path()), 3);
        assert!(Process::left().is_empty());
        // As one that panics does.
        assert_eq!(code_of(&format!("{leaves} kill -ABRT $$"), dir.path()), 134);
        assert!(Process::left().is_empty());
        assert_eq!(code_of("exit 0", dir.path()), 0);
    }

    #[test]
    fn a_node_that_is_left_is_asked_to_end_and_ends_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let node = "#!/bin/sh\nsleep 1000 & guest=$!\ntrap 'kill $guest; touch ended; exit' TERM\ntouch began\nwait\n";
        let program = dir.path().join("hypercore");
        fs::write(&program, node).unwrap();
        fs::set_permissions(program, Permissions::from_mode(0o700)).unwrap();
        let does = "./hypercore & while [ ! -e began ]; do :; done; kill -ABRT $$";
        assert_eq!(code_of(does, dir.path()), 134);
        assert!(dir.path().join("ended").exists() && Process::left().is_empty());
    }

    #[test]
    fn a_signal_ends_the_benchmark_and_what_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        // It ends us as somebody does who knows us alone.
        assert_eq!(code_of("sleep 1000 & kill -TERM $PPID; exec sleep 1000", dir.path()), 143);
        assert!(Process::left().is_empty());
    }
}
