//! What a house that was killed has left on the machine: parts that still run, and
//! guests with their networks and rules. It is found by what this house calls its
//! own, and cleared; nothing of anybody else's is touched.

use std::fmt;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::runtime::Builder;

use super::health::{Board, Health, PartName};
use super::house::Rooms;
use super::network::{self, Corner};
use super::parts::Node;
use super::progress::Step;
use super::supervise::Supervised;

/// How long a part may take to end: the node asks its guests first.
const END_GRACE: Duration = Duration::from_secs(30);
/// How long a killed process may take to be gone.
const KILL_GRACE: Duration = Duration::from_secs(10);

/// What was found of the guests, each as it is called on the machine.
#[derive(Debug, Default, PartialEq, Eq)]
struct Guests(Vec<String>);

impl Guests {
    /// Looks for what bears this name.
    fn of(corner: &Corner) -> Self {
        let prefix = format!("{}-", corner.name);
        let named = |kind: &str, dir: &str| -> Vec<String> {
            let ours = network::names(dir).into_iter().filter(|name| name.starts_with(&prefix));
            ours.map(|name| format!("{kind} {name}")).collect()
        };
        let mut found = named("namespace", "/run/netns");
        found.extend(named("link", "/sys/class/net"));
        let table = Command::new("nft").args(["list", "table", "inet", &corner.name]).output();
        if table.is_ok_and(|output| output.status.success()) {
            found.push(format!("rules {}", corner.name));
        }
        for hierarchy in ["", "memory", "cpu", "cpuacct", "pids"] {
            let group = std::path::Path::new("/sys/fs/cgroup").join(hierarchy).join(&corner.name);
            if group.is_dir() {
                found.push(format!("cgroup {}", group.display()));
            }
        }
        Self(found)
    }
}

impl fmt::Display for Guests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// Ends the parts that a killed house has left running. The lock of the house must
/// be held.
pub(super) fn end_parts(rooms: &Rooms) -> Result<bool> {
    let mut left = Vec::new();
    for report in Health::read(&rooms.parts())?.parts {
        let Some(facts) = report.process else { continue };
        let process = sandbox::process::find(&facts)?;
        // One that has ended keeps its id until somebody has asked how.
        if let Some(process) = process
            && !gone(&process, Duration::ZERO)?
        {
            left.push((report.part, process));
        }
    }
    // The last first, as when a house ends.
    for (part, process) in left.iter().rev() {
        end(*part, process)?;
    }
    Ok(!left.is_empty())
}

/// Clears all that a killed house has left. The lock of the house must be held.
pub(super) fn clear(rooms: &Rooms) -> Result<bool> {
    let ended = end_parts(rooms)?;
    let Some(corner) = network::kept(rooms) else { return Ok(ended) };
    let guests = Guests::of(&corner);
    if guests.0.is_empty() {
        return Ok(ended);
    }
    let step = Step::start("Clearing what a killed house has left");
    take_down(rooms).with_context(|| format!("clear what is left: {guests}"))?;
    let left = Guests::of(&corner);
    if !left.0.is_empty() {
        bail!("a node was started and ended to clear it, and this is still there: {left}");
    }
    step.done();
    Ok(true)
}

/// A node adopts the guests that are there; as it ends, it takes them and all of
/// theirs down.
fn take_down(rooms: &Rooms) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let mut node = Supervised::new(Node::new(rooms));
        let started = node.start(&Board::new(rooms.parts())).await;
        let ended = match node.into_part() {
            Some(part) => part.end(END_GRACE).await,
            None => Ok(()),
        };
        started.and(ended)
    })
}

/// Asks a process to end, waits, and kills it if it does not.
fn end(part: PartName, process: &OwnedFd) -> Result<()> {
    eprintln!("! {} of a killed house still runs, and is ended", part.as_str());
    let name = part.as_str();
    // One that is stopped hears nothing before it goes on.
    for signal in [Signal::TERM, Signal::CONT] {
        send(process, signal).with_context(|| format!("ask {name} to end"))?;
    }
    if gone(process, END_GRACE)? {
        return Ok(());
    }
    send(process, Signal::KILL).with_context(|| format!("kill {name}"))?;
    if gone(process, KILL_GRACE)? { Ok(()) } else { bail!("{name} was killed and is still there") }
}

/// One that is gone already needs no signal.
pub(super) fn send(process: &OwnedFd, signal: Signal) -> rustix::io::Result<()> {
    match pidfd_send_signal(process, signal) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => other,
    }
}

/// Whether a process ends within this time.
pub(super) fn gone(process: &OwnedFd, within: Duration) -> Result<bool> {
    let limit = Instant::now() + within;
    loop {
        let left = limit.saturating_duration_since(Instant::now());
        let wait = Timespec { tv_sec: i64::try_from(left.as_secs())?, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&wait)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for a process"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::health::State;
    use super::*;

    fn sleeper() -> std::process::Child {
        std::process::Command::new("sleep").arg("1000").spawn().unwrap()
    }

    #[test]
    fn fault_1_5_a_part_that_was_left_is_ended_and_a_reused_id_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let rooms = Rooms::at(Some(dir.path())).unwrap();
        let (mut left, mut stranger) = (sleeper(), sleeper());
        // It is stopped, as one that hangs is: a request alone would not reach it.
        let process = sandbox::process::find(&sandbox::process::facts(left.id()).unwrap()).unwrap().unwrap();
        send(&process, Signal::STOP).unwrap();
        let board = Board::new(rooms.parts());
        board.spawned(PartName::Hypercore, sandbox::process::facts(left.id()).ok());
        board.note(PartName::Hypercore, State::Ok, None);
        let mut reused = sandbox::process::facts(stranger.id()).unwrap();
        reused.started += 1;
        board.spawned(PartName::Gateway, Some(reused));
        assert!(end_parts(&rooms).unwrap());
        assert!(left.wait().unwrap().code().is_none(), "a signal ended it");
        assert!(stranger.try_wait().unwrap().is_none(), "it has another start time");
        assert!(!end_parts(&rooms).unwrap());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
