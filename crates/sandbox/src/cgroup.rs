//! Limits on a guest's VMM, in whichever version of cgroups the host has.
//!
//! Each sandbox has the group `<parent>/<id>`; the parent stands under the root of
//! the hierarchy, outside the daemon's own group, so that ending the daemon's
//! service does not end its guests. A process is put in before it runs its first
//! instruction, so whatever is in the group belongs to that sandbox: this is how
//! a VMM is found that nobody wrote down.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{DriverFailure, files};

const ROOT: &str = "/sys/fs/cgroup";
/// The period over which processor time is counted.
const PERIOD_US: u64 = 100_000;
/// A sandbox's weight at the disk, for each core; 100 is what a group has by itself.
const WEIGHT_PER_CORE: u64 = 100;
/// The largest that every kernel takes.
const MAX_WEIGHT: u64 = 1_000;
/// Threads of a VMM beside its processors: main loop, block workers, RCU.
pub(crate) const VMM_THREADS: u32 = 128;
/// How long a killed group may take to be empty.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two looks at a group that is dying.
const KILL_PAUSE: Duration = Duration::from_millis(2);
/// A parent may be removed by a neighbour's end between its making and its use.
const CREATE_TRIES: usize = 5;

/// What a sandbox may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CgroupLimits {
    pub(crate) cores: u32,
    pub(crate) memory_mib: u64,
    /// Threads besides one for each core.
    pub(crate) threads: u32,
    /// Of the disk, if it is limited.
    pub(crate) disk: Option<DiskRate>,
}

/// How fast a sandbox may read, and write, a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskRate {
    pub(crate) device: DeviceNumber,
    pub(crate) bytes_per_second: u64,
}

impl DiskRate {
    /// What a sandbox with this many cores may take of the disk of a folder; 0 MiB per second is
    /// no limit.
    pub(crate) fn of(folder: &Path, mib_per_second: u64, cores: u32) -> Result<Option<Self>, DriverFailure> {
        if mib_per_second == 0 {
            return Ok(None);
        }
        let bytes_per_second = mib_per_second * 1024 * 1024 * u64::from(cores);
        Ok(Some(Self { device: DeviceNumber::of(folder)?, bytes_per_second }))
    }
}

/// A disk, by its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceNumber {
    major: u32,
    minor: u32,
}

impl DeviceNumber {
    /// The disk on which this folder lies; of a part of one, the whole.
    pub(crate) fn of(folder: &Path) -> Result<Self, DriverFailure> {
        let number = fs::metadata(folder)?.dev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let block = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).map_err(|_| {
            DriverFailure::Missing(format!(
                "node.disk_mib_per_second: {} lies on no block device of this machine, whose use could be limited",
                folder.display()
            ))
        })?;
        let whole = if block.join("partition").exists() { block.join("../dev") } else { block.join("dev") };
        let text = fs::read_to_string(whole)?;
        let parsed =
            text.trim().split_once(':').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let (major, minor) =
            parsed.ok_or_else(|| DriverFailure::Missing(format!("{text:?} is not a disk's number")))?;
        Ok(Self { major, minor })
    }
}

/// The hierarchies of this host in which our groups stand.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    layout: Layout,
    parent: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Layout {
    /// One folder for each mounted hierarchy, by the controller we want from it.
    V1 { memory: PathBuf, cpu: PathBuf, cpuacct: PathBuf, pids: PathBuf, blkio: Option<PathBuf> },
    /// The one hierarchy.
    V2(PathBuf),
}

impl Cgroups {
    /// Finds out what this host has.
    pub(crate) fn detect(parent: &str) -> Result<Self, DriverFailure> {
        let v2 = fs::read_to_string(format!("{ROOT}/cgroup.controllers")).unwrap_or_default();
        let layout = if ["memory", "cpu", "pids"].iter().all(|want| v2.split_whitespace().any(|has| has == *want)) {
            Layout::V2(ROOT.into())
        } else {
            v1(&fs::read_to_string("/proc/self/mounts")?)?
        };
        Ok(Self { layout, parent: parent.to_owned() })
    }

    /// Makes the group of a sandbox; the files let a process enter it.
    pub(crate) fn create(&self, id: &str, limits: CgroupLimits) -> io::Result<Vec<File>> {
        for dir in self.layout.roots() {
            self.make(dir, id)?;
        }
        for (file, value) in self.settings(id, limits) {
            write(&file, &value)?;
        }
        self.layout
            .roots()
            .iter()
            .map(|dir| OpenOptions::new().write(true).open(dir.join(&self.parent).join(id).join("cgroup.procs")))
            .collect()
    }

    fn make(&self, root: &Path, id: &str) -> io::Result<()> {
        let parent = root.join(&self.parent);
        let mut last = Ok(());
        for _ in 0..CREATE_TRIES {
            last = fs::create_dir_all(&parent)
                .and_then(|()| self.delegate(root))
                .and_then(|()| fs::create_dir_all(parent.join(id)));
            if last.is_ok() {
                break;
            }
        }
        last
    }

    fn delegate(&self, root: &Path) -> io::Result<()> {
        match self.layout {
            Layout::V1 { .. } => Ok(()),
            Layout::V2(_) => {
                let parent = root.join(&self.parent);
                for group in [root, &parent] {
                    write(&group.join("cgroup.subtree_control"), "+memory +cpu +pids")?;
                    // Without it a limit of the disk is refused when it is set.
                    let _ = write(&group.join("cgroup.subtree_control"), "+io");
                }
                Ok(())
            }
        }
    }

    fn settings(&self, id: &str, limits: CgroupLimits) -> Vec<(PathBuf, String)> {
        let bytes = (limits.memory_mib * 1024 * 1024).to_string();
        let quota = u64::from(limits.cores) * PERIOD_US;
        let threads = limits.cores.saturating_add(limits.threads).to_string();
        // A larger tier has a larger share of a busy disk.
        let weight = u64::from(limits.cores).saturating_mul(WEIGHT_PER_CORE).clamp(1, MAX_WEIGHT).to_string();
        let at = |dir: &PathBuf, file: &str| dir.join(&self.parent).join(id).join(file);
        match &self.layout {
            Layout::V1 { memory, cpu, pids, blkio, .. } => {
                let mut settings = vec![
                    (at(memory, "memory.limit_in_bytes"), bytes.clone()),
                    (at(cpu, "cpu.cfs_period_us"), PERIOD_US.to_string()),
                    (at(cpu, "cpu.cfs_quota_us"), quota.to_string()),
                    (at(pids, "pids.max"), threads),
                ];
                // Absent where the kernel counts no swap.
                let swap = at(memory, "memory.memsw.limit_in_bytes");
                if swap.exists() {
                    settings.push((swap, bytes));
                }
                if let Some(blkio) = blkio {
                    settings.extend(existing(at(blkio, "blkio.bfq.weight"), weight));
                    if let Some(DiskRate { device: DeviceNumber { major, minor }, bytes_per_second }) = limits.disk {
                        let rate = format!("{major}:{minor} {bytes_per_second}");
                        settings.push((at(blkio, "blkio.throttle.read_bps_device"), rate.clone()));
                        settings.push((at(blkio, "blkio.throttle.write_bps_device"), rate));
                    }
                }
                settings
            }
            Layout::V2(root) => {
                let mut settings = vec![
                    (at(root, "memory.max"), bytes),
                    (at(root, "cpu.max"), format!("{quota} {PERIOD_US}")),
                    (at(root, "pids.max"), threads),
                ];
                let swap = at(root, "memory.swap.max");
                if swap.exists() {
                    settings.push((swap, "0".to_owned()));
                }
                settings.extend(existing(at(root, "io.weight"), weight));
                if let Some(DiskRate { device: DeviceNumber { major, minor }, bytes_per_second: rate }) = limits.disk {
                    settings.push((at(root, "io.max"), format!("{major}:{minor} rbps={rate} wbps={rate}")));
                }
                settings
            }
        }
    }

    /// The sandboxes that have a group.
    pub(crate) fn ids(&self) -> io::Result<Vec<String>> {
        let mut ids = Vec::new();
        for root in self.layout.roots() {
            let parent = root.join(&self.parent);
            for name in files::names(&parent)? {
                if parent.join(&name).is_dir() && !ids.contains(&name) {
                    ids.push(name);
                }
            }
        }
        Ok(ids)
    }

    /// The processes of a sandbox.
    pub(crate) fn pids(&self, id: &str) -> io::Result<Vec<u32>> {
        let mut pids = Vec::new();
        for root in self.layout.roots() {
            let text = match fs::read_to_string(root.join(&self.parent).join(id).join("cgroup.procs")) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// How many processes run in the groups of a node of this name.
    pub(crate) fn running(&self, node: &str) -> io::Result<usize> {
        let theirs = Self { layout: self.layout.clone(), parent: node.to_owned() };
        theirs.ids()?.iter().map(|id| Ok(theirs.pids(id)?.len())).sum()
    }

    /// Kills all that is in the group and waits until it is empty.
    pub(crate) fn kill(&self, id: &str) -> Result<(), DriverFailure> {
        let until = Instant::now() + KILL_DEADLINE;
        loop {
            let pids = self.pids(id)?;
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(DriverFailure::Deadline(KILL_DEADLINE));
            }
            for pid in pids.into_iter().filter_map(|pid| i32::try_from(pid).ok().and_then(Pid::from_raw)) {
                // One that is gone already is what we want.
                let _ = kill_process(pid, Signal::KILL);
            }
            thread::sleep(KILL_PAUSE);
        }
    }

    /// Removes the group, which must be empty, and the parent after the last one.
    pub(crate) fn remove(&self, id: &str) -> io::Result<()> {
        for root in self.layout.roots() {
            let parent = root.join(&self.parent);
            remove_group(&parent.join(id))?;
            // Stays while a neighbour is in it.
            let _ = fs::remove_dir(&parent);
        }
        Ok(())
    }

    /// Removes the groups of this name that a container's runtime has made in hierarchies that are
    /// not ours, and the parents after the last one.
    pub(crate) fn remove_foreign(&self, id: &str) -> io::Result<()> {
        for name in files::names(Path::new(ROOT))? {
            let parent = Path::new(ROOT).join(name).join(&self.parent);
            if parent.join("cgroup.procs").exists() {
                remove_group(&parent.join(id))?;
                // Stays while a neighbour is in it.
                let _ = fs::remove_dir(&parent);
            }
        }
        Ok(())
    }

    /// The group of a sandbox, as a container's runtime names it.
    pub(crate) fn path(&self, id: &str) -> String {
        format!("/{}/{id}", self.parent)
    }

    /// The group of containers' shims, as containerd names it. They are no part of the containers, and
    /// outlive the daemon, whose service may have no more memory than it needs itself.
    pub(crate) fn shims_path(&self) -> String {
        format!("/{}", self.shims())
    }

    fn shims(&self) -> String {
        format!("{}.shims", self.parent)
    }

    /// Makes that group, unless it is there.
    pub(crate) fn make_shims(&self) -> io::Result<()> {
        self.layout.roots().into_iter().try_for_each(|root| fs::create_dir_all(root.join(self.shims())))
    }

    /// Removes it when the last of them has ended.
    pub(crate) fn remove_shims(&self) -> io::Result<()> {
        self.layout.roots().into_iter().try_for_each(|root| remove_group(&root.join(self.shims())))
    }

    /// Stops a sandbox's processes where they are, or lets them go on; one without a group is
    /// not there to be stopped.
    pub(crate) fn freeze(&self, id: &str, frozen: bool) -> io::Result<()> {
        let (file, value) = match &self.layout {
            Layout::V1 { .. } => (self.freezer(id).join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" }),
            Layout::V2(root) => {
                (root.join(&self.parent).join(id).join("cgroup.freeze"), if frozen { "1" } else { "0" })
            }
        };
        match write(&file, value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Whether it is stopped so.
    pub(crate) fn is_frozen(&self, id: &str) -> io::Result<bool> {
        let (file, value) = match &self.layout {
            Layout::V1 { .. } => (self.freezer(id).join("freezer.state"), "THAWED"),
            Layout::V2(root) => (root.join(&self.parent).join(id).join("cgroup.freeze"), "0"),
        };
        match fs::read_to_string(file) {
            Ok(state) => Ok(state.trim() != value),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Where a container's runtime has its processes in the hierarchy that can stop them.
    fn freezer(&self, id: &str) -> PathBuf {
        Path::new(ROOT).join("freezer").join(&self.parent).join(id)
    }

    /// Processor time in microseconds and memory in bytes.
    pub(crate) fn usage(&self, id: &str) -> io::Result<(u64, u64)> {
        let at = |dir: &PathBuf, file: &str| fs::read_to_string(dir.join(&self.parent).join(id).join(file));
        match &self.layout {
            Layout::V1 { memory, cpuacct, .. } => {
                let cpu_ns = number(&at(cpuacct, "cpuacct.usage")?);
                Ok((cpu_ns / 1000, number(&at(memory, "memory.usage_in_bytes")?)))
            }
            Layout::V2(root) => {
                let stat = at(root, "cpu.stat")?;
                let cpu_us = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).map_or(0, number);
                Ok((cpu_us, number(&at(root, "memory.current")?)))
            }
        }
    }
}

impl Layout {
    fn roots(&self) -> Vec<&PathBuf> {
        match self {
            Self::V2(root) => vec![root],
            Self::V1 { memory, cpu, cpuacct, pids, blkio } => {
                let mut roots = vec![memory, cpu, cpuacct, pids];
                roots.extend(blkio);
                roots.sort();
                roots.dedup();
                roots
            }
        }
    }
}

fn v1(mounts: &str) -> Result<Layout, DriverFailure> {
    let mounted = |controller: &str| {
        mounts
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ').skip(1);
                let (path, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
                (kind == "cgroup" && options.split(',').any(|option| option == controller)).then(|| path.into())
            })
            .next()
    };
    let find = |controller: &str| {
        mounted(controller).ok_or_else(|| {
            DriverFailure::Missing(format!(
                "no cgroup hierarchy has the controller {controller}; guests could not be limited"
            ))
        })
    };
    Ok(Layout::V1 {
        memory: find("memory")?,
        cpu: find("cpu")?,
        cpuacct: find("cpuacct")?,
        pids: find("pids")?,
        blkio: mounted("blkio"),
    })
}

/// A setting that not every kernel has.
fn existing(file: PathBuf, value: String) -> Option<(PathBuf, String)> {
    file.exists().then_some((file, value))
}

fn remove_group(dir: &Path) -> io::Result<()> {
    let until = Instant::now() + KILL_DEADLINE;
    loop {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The kernel is still putting the last process away.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < until => {
                thread::sleep(KILL_PAUSE);
            }
            done => return done,
        }
    }
}

fn write(file: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file).and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_that_share_a_mount_are_entered_once() {
        let mounts = "cgroup /c/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\ncgroup /c/memory cgroup rw,memory 0 0\ncgroup /c/pids cgroup rw,pids 0 0\n";
        let layout = v1(mounts).unwrap();
        assert_eq!(layout.roots().len(), 3);
    }

    #[test]
    fn a_host_without_a_memory_controller_is_refused_by_name() {
        let error = v1("cgroup /c/cpu cgroup rw,cpu 0 0\n").unwrap_err();
        assert!(error.to_string().contains("controller memory"), "{error}");
    }

    #[test]
    fn version_2_is_limited_with_its_own_names() {
        let groups = Cgroups { layout: Layout::V2("/c".into()), parent: "p".into() };
        let disk = Some(DiskRate { device: DeviceNumber { major: 8, minor: 16 }, bytes_per_second: 5 });
        let settings = groups.settings("x", CgroupLimits { cores: 2, memory_mib: 1, threads: VMM_THREADS, disk });
        assert!(settings.contains(&("/c/p/x/memory.max".into(), "1048576".into())));
        assert!(settings.contains(&("/c/p/x/cpu.max".into(), "200000 100000".into())));
        assert!(settings.contains(&("/c/p/x/io.max".into(), "8:16 rbps=5 wbps=5".into())));
    }
}
