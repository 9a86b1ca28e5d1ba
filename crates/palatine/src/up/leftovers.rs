//! What a stack that was killed has left on the machine: parts that still run, and
//! guests with their networks and rules. It is found by what this stack calls its
//! own, and cleared; nothing of anybody else's is touched.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::health::{Health, HealthRecorder, PartName};
use super::network::{self, StackResources};
use super::process::KILL_LIMIT;
use super::programs::{NODE_LIMIT, NodeService};
use super::progress::Step;
use super::state::StateDir;
use super::supervise::Supervised;
use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};

/// How long a part may take to end: the node asks its guests first.
const END_GRACE: Duration = Duration::from_secs(30);
/// How long it may take to clear what is left, beside the parts that still run.
pub(super) const CLEAR_LIMIT: Duration = NODE_LIMIT.saturating_add(END_GRACE).saturating_add(KILL_LIMIT);

/// What guests have left on the machine, each thing with its kind and name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Residue(Vec<String>);

impl Residue {
    /// Looks for what bears this name.
    fn of(allocation: &StackResources) -> Self {
        let prefix = format!("{}-", allocation.name);
        let named = |kind: &str, dir: &str| -> Vec<String> {
            let ours = network::names(dir).into_iter().filter(|name| name.starts_with(&prefix));
            ours.map(|name| format!("{kind} {name}")).collect()
        };
        let mut found = named("namespace", "/run/netns");
        found.extend(named("link", "/sys/class/net"));
        let table = Command::new("nft").args(["list", "table", "inet", &allocation.name]).output();
        if table.is_ok_and(|output| output.status.success()) {
            found.push(format!("rules {}", allocation.name));
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let groups = hierarchies(&mounts).map(|root| root.join(&allocation.name)).filter(|group| group.is_dir());
        found.extend(groups.map(|group| format!("cgroup {}", group.display())));
        Self(found)
    }
}

/// Where the machine's control groups stand: the one hierarchy, or each of version 1.
fn hierarchies(mounts: &str) -> impl Iterator<Item = PathBuf> {
    mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (root, kind) = (fields.next()?, fields.next()?);
        matches!(kind, "cgroup" | "cgroup2").then(|| root.into())
    })
}

impl fmt::Display for Residue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// Ends the parts that a killed stack has left running. The lock of the stack must
/// be held.
pub(super) fn end_parts(state: &StateDir) -> Result<bool> {
    let mut left = Vec::new();
    let health = Health::read(&state.parts()).unwrap_or_else(|error| {
        eprintln!("! no part of a killed stack is looked for: {error:#}");
        Health::default()
    });
    for report in health.parts {
        let Some(facts) = report.process else { continue };
        let process = sandbox::process::find(&facts)?;
        // One that has ended keeps its id until somebody has asked how.
        if let Some(process) = process
            && !ends_within(&process, Duration::ZERO)?
        {
            left.push((report.part, process));
        }
    }
    // The last first, as when a stack ends.
    for (part, process) in left.iter().rev() {
        end(*part, process)?;
    }
    Ok(!left.is_empty())
}

/// Clears all that this stack has left, and says whether that was anything. The lock of
/// the stack must be held.
pub(super) async fn clear(state: &StateDir) -> Result<bool> {
    let ended = end_parts(state)?;
    let Some(allocation) = network::allocated(state)? else { return Ok(ended) };
    let guests = Residue::of(&allocation);
    if guests.0.is_empty() {
        return Ok(ended);
    }
    let step = Step::start("Clearing what is left of the guests");
    remove_guests(state).await.with_context(|| format!("clear what is left: {guests}"))?;
    let left = Residue::of(&allocation);
    if !left.0.is_empty() {
        bail!("a node was started and ended to clear it, and this is still there: {left}");
    }
    step.done();
    Ok(true)
}

/// A node adopts the guests that are there; as it ends, it takes them and all of
/// theirs down.
async fn remove_guests(state: &StateDir) -> Result<()> {
    let mut node = Supervised::new(NodeService::new(state));
    let started = node.start(&HealthRecorder::new(state.parts())).await;
    let ended = match node.into_part() {
        Some(part) => part.end(END_GRACE).await,
        None => Ok(()),
    };
    started.and(ended)
}

/// Asks a process to end, waits, and kills it if it does not.
fn end(part: PartName, process: &OwnedFd) -> Result<()> {
    eprintln!("! {} of a killed stack still runs, and is ended", part.as_str());
    let name = part.as_str();
    // One that is stopped hears nothing before it goes on.
    for signal in [Signal::TERM, Signal::CONT] {
        send(process, signal).with_context(|| format!("ask {name} to end"))?;
    }
    if ends_within(process, END_GRACE)? {
        return Ok(());
    }
    send(process, Signal::KILL).with_context(|| format!("kill {name}"))?;
    if ends_within(process, KILL_LIMIT)? { Ok(()) } else { bail!("{name} was killed and is still there") }
}

/// One that is ends_within already needs no signal.
pub(super) fn send(process: &OwnedFd, signal: Signal) -> rustix::io::Result<()> {
    match pidfd_send_signal(process, signal) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => other,
    }
}

/// Whether a process ends within this time.
pub(super) fn ends_within(process: &OwnedFd, within: Duration) -> Result<bool> {
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
    use super::super::health::PartState;
    use super::*;

    fn sleeper() -> std::process::Child {
        std::process::Command::new("sleep").arg("1000").spawn().unwrap()
    }

    #[test]
    fn fault_1_5_every_hierarchy_of_control_groups_is_looked_into() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs ro 0 0\ncgroup /sys/fs/cgroup/blkio cgroup rw,blkio 0 0\n\
                      cgroup /groups/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found: Vec<_> = hierarchies(mounts).collect();
        let known = ["/sys/fs/cgroup/blkio", "/groups/cpu,cpuacct", "/sys/fs/cgroup/unified"];
        assert_eq!(found, known.map(PathBuf::from));
    }

    #[test]
    fn fault_1_5_notes_of_the_parts_that_cannot_be_read_keep_nobody_from_clearing() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(Some(dir.path())).unwrap();
        std::fs::write(state.parts(), "{").unwrap();
        assert!(!end_parts(&state).unwrap());
    }

    #[test]
    fn fault_1_5_a_part_that_was_left_is_ended_and_a_reused_id_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(Some(dir.path())).unwrap();
        let (mut left, mut stranger) = (sleeper(), sleeper());
        // It is stopped, as one that hangs is: a request alone would not reach it.
        let process = sandbox::process::find(&sandbox::process::facts(left.id()).unwrap()).unwrap().unwrap();
        send(&process, Signal::STOP).unwrap();
        let recorder = HealthRecorder::new(state.parts());
        recorder.spawned(PartName::Hypercore, sandbox::process::facts(left.id()).ok());
        recorder.note(PartName::Hypercore, PartState::Ok, None);
        let mut reused = sandbox::process::facts(stranger.id()).unwrap();
        reused.started += 1;
        recorder.spawned(PartName::Gateway, Some(reused));
        assert!(end_parts(&state).unwrap());
        assert!(left.wait().unwrap().code().is_none(), "a signal ended it");
        assert!(stranger.try_wait().unwrap().is_none(), "it has another start time");
        assert!(!end_parts(&state).unwrap());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn fault_1_5_parts_of_the_stack_that_a_folder_was_copied_from_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| StateDir::at(Some(&dir.path().join(name))).unwrap();
        let (state, copy) = (at("kept"), at("copied"));
        std::fs::create_dir(state.root()).unwrap();
        let mut part = sleeper();
        HealthRecorder::new(state.parts()).spawned(PartName::Solana, sandbox::process::facts(part.id()).ok());
        assert!(Command::new("cp").arg("-a").arg(state.root()).arg(copy.root()).status().unwrap().success());
        assert!(!end_parts(&copy).unwrap());
        assert!(part.try_wait().unwrap().is_none(), "it is not the copy's");
        assert!(end_parts(&state).unwrap());
        part.wait().unwrap();
    }
}
