//! Memory and processes that a step may have, in whichever version of cgroups the host has.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::id;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::recipe::StepLimits;

/// How groups are named; then the builder's process and a count.
const NAME: &str = "palatine-build-";
const MOUNTS: &str = "/proc/self/mounts";
/// How long a killed group may take to be empty.
const END: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A group for one step. When it is ended, or dropped, all that is in it is killed, and it is removed.
#[derive(Debug)]
pub(super) struct StepCgroup {
    /// In each hierarchy that is needed; in version 2 one folder.
    folders: Vec<PathBuf>,
}

/// What a step asked for beyond its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    Memory,
    Processes,
}

impl StepCgroup {
    /// Makes the group.
    pub(super) fn create(limits: StepLimits) -> io::Result<Self> {
        let hierarchies = hierarchies(&fs::read_to_string(MOUNTS)?);
        let hierarchies = hierarchies.ok_or_else(|| io::Error::other("no cgroups with memory and pids are mounted"))?;
        let name = format!("{NAME}{}-{}", id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut made = Self { folders: Vec::new() };
        for (root, files) in &hierarchies {
            clear(root);
            let folder = root.join(&name);
            if files.contains(&"memory.max") {
                fs::write(root.join("cgroup.subtree_control"), "+memory +pids")?;
            }
            fs::create_dir(&folder)?;
            made.folders.push(folder.clone());
            for file in files {
                let value = if file.starts_with("pids") { limits.processes } else { limits.memory_mib << 20 };
                fs::write(folder.join(file), value.to_string())?;
            }
            without_swap(&folder, limits.memory_mib << 20)?;
        }
        Ok(made)
    }

    /// The files by which a process enters it.
    pub(super) fn entries(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.folders.iter().map(|folder| folder.join("cgroup.procs"))
    }

    /// Whether the step met a limit.
    pub(super) fn excess(&self) -> Option<Excess> {
        let counted = |file: &str, key: &str| {
            let texts = self.folders.iter().filter_map(|folder| fs::read_to_string(folder.join(file)).ok());
            texts.flat_map(|text| text.lines().filter_map(|line| count(line, key)).collect::<Vec<_>>()).sum::<u64>()
        };
        if counted("memory.events", "oom_kill") + counted("memory.oom_control", "oom_kill") > 0 {
            return Some(Excess::Memory);
        }
        (counted("pids.events", "max") > 0).then_some(Excess::Processes)
    }

    /// Ends all that is in it, and removes it.
    ///
    /// # Errors
    /// Something goes on: what it works on is no place for anybody else.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.clear_out()
    }

    fn clear_out(&mut self) -> io::Result<()> {
        self.kill()?;
        std::mem::take(&mut self.folders).iter().try_for_each(|folder| removed(folder))
    }

    fn kill(&self) -> io::Result<()> {
        let start = Instant::now();
        loop {
            let mut alive = 0;
            for file in self.entries() {
                for pid in fs::read_to_string(file)?.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
                    alive += 1;
                    // One that ended meanwhile is what we want.
                    kill_process(pid, Signal::KILL).ok();
                }
            }
            if alive == 0 {
                return Ok(());
            }
            if start.elapsed() > END {
                return Err(io::Error::other("killed processes of a step do not end"));
            }
            sleep(PAUSE);
        }
    }
}

impl Drop for StepCgroup {
    fn drop(&mut self) {
        if let Err(error) = self.clear_out() {
            tracing::warn!(%error, "a step's cgroup cannot be removed");
        }
    }
}

/// The bound on memory is one on all that is kept of it, where the kernel counts what is swapped.
fn without_swap(folder: &Path, bytes: u64) -> io::Result<()> {
    for (file, value) in [("memory.swap.max", 0), ("memory.memsw.limit_in_bytes", bytes)] {
        let path = folder.join(file);
        if path.exists() {
            fs::write(path, value.to_string())?;
        }
    }
    Ok(())
}

/// Removes the empty groups of builds that died before they could.
fn clear(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let builder = name.to_str().and_then(|name| name.strip_prefix(NAME)?.split('-').next());
        if builder.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // One that is not empty stays: somebody is at work in it.
            fs::remove_dir(entry.path()).ok();
        }
    }
}

/// A group that is just empty may be busy for a moment.
fn removed(folder: &Path) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && start.elapsed() < END => sleep(PAUSE),
            ended => return ended,
        }
    }
}

/// The hierarchies that are needed, each with the files that take its limits.
fn hierarchies(mounts: &str) -> Option<Vec<(PathBuf, Vec<&'static str>)>> {
    let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mounts: Vec<_> = mounts.filter(|fields| fields.len() > 3).collect();
    let old = |controller: &str| {
        let found = mounts.iter().find(|f| f[2] == "cgroup" && f[3].split(',').any(|option| option == controller))?;
        Some(PathBuf::from(found[1]))
    };
    if let (Some(memory), Some(pids)) = (old("memory"), old("pids")) {
        let (memory_file, pids_file) = ("memory.limit_in_bytes", "pids.max");
        return Some(if memory == pids {
            vec![(memory, vec![memory_file, pids_file])]
        } else {
            vec![(memory, vec![memory_file]), (pids, vec![pids_file])]
        });
    }
    let new = mounts.iter().find(|fields| fields[2] == "cgroup2")?;
    Some(vec![(PathBuf::from(new[1]), vec!["memory.max", "pids.max"])])
}

fn count(line: &str, key: &str) -> Option<u64> {
    line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_set_where_this_host_has_its_controllers() {
        let old = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /c/memory cgroup rw,relatime,memory 0 0\n\
                   cgroup /c/pids cgroup rw,pids 0 0\ncgroup2 /c/unified cgroup2 rw 0 0\n";
        let found = hierarchies(old).unwrap();
        assert_eq!(found[0], (PathBuf::from("/c/memory"), vec!["memory.limit_in_bytes"]));
        assert_eq!(found[1], (PathBuf::from("/c/pids"), vec!["pids.max"]));
        let new = hierarchies("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n").unwrap();
        assert_eq!(new, [(PathBuf::from("/sys/fs/cgroup"), vec!["memory.max", "pids.max"])]);
        assert!(hierarchies("cgroup /c/cpu cgroup rw,cpu 0 0\n").is_none());
    }

    #[test]
    fn what_a_dead_build_left_is_removed_and_nothing_of_a_live_one_or_of_others() {
        let root = tempfile::tempdir().unwrap();
        // No process has this id: it is above the largest that there may be.
        let (dead, live) = (format!("{NAME}4194305-0"), format!("{NAME}{}-0", id()));
        for name in [&dead, &live, "other-4194305-0"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        clear(root.path());
        let left = |name: &str| root.path().join(name).exists();
        assert_eq!([left(&dead), left(&live), left("other-4194305-0")], [false, true, true]);
    }

    #[test]
    fn an_event_is_counted_by_its_whole_name() {
        assert_eq!(count("oom_kill 3", "oom_kill"), Some(3));
        assert_eq!(count("oom_kill_disable 1", "oom_kill"), None);
        assert_eq!(count("max 0", "max"), Some(0));
    }
}
