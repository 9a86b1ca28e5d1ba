//! What is changed on the machine itself, for all nodes on it together: forwarding on
//! the interfaces that lead to the internet, the rules that keep it to the nodes'
//! guests, and the place of the namespaces' names. All are as before when the last
//! node has gone.
//!
//! What was before, and for whom it was changed, is kept where the change itself is:
//! until the machine is booted again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::mount::{UnmountFlags, unmount};
use serde::{Deserialize, Serialize};

use super::guest::NAMESPACES;
use super::peer::NodeResources;
use super::rules::GuardedUplinks;
use crate::{DriverFailure, files};

const RECORD: &str = "/run/palatine-network.json";
const SETTINGS: &str = "/proc/sys/net/ipv4/conf";
/// The record may be removed between its opening and its locking.
const TRIES: usize = 100;

/// What was changed.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct HostChanges {
    /// The nodes, by name.
    #[serde(default)]
    pub(super) nodes: BTreeMap<String, NodeResources>,
    /// By interface.
    uplinks: BTreeMap<String, Uplink>,
    /// The nodes for which `ip netns` has made its place; absent if it was there.
    #[serde(default)]
    place: Option<BTreeSet<String>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Uplink {
    /// What it was before.
    before: String,
    /// The nodes that need it.
    nodes: BTreeSet<String>,
}

/// The machine.
#[derive(Clone, Debug)]
pub(super) struct SharedHost {
    record: PathBuf,
    settings: PathBuf,
    place: PathBuf,
}

impl SharedHost {
    pub(super) fn this() -> Self {
        Self { record: RECORD.into(), settings: SETTINGS.into(), place: NAMESPACES.into() }
    }

    /// Switches forwarding on for a node, on these interfaces and on no other. `guard`
    /// is told which interfaces forward only because of nodes, and of which nodes; its
    /// rules stand before forwarding is on.
    pub(super) fn open(
        &self,
        node: &str,
        uplinks: &[String],
        guard: impl FnOnce(&GuardedUplinks) -> Result<(), DriverFailure>,
    ) -> Result<(), DriverFailure> {
        let mut file = self.lock()?;
        let mut record = read(&mut file)?;
        for name in uplinks {
            let now = fs::read_to_string(self.setting(name)).map_err(|_| {
                DriverFailure::Missing(format!("network.uplinks: this machine has no interface {name}"))
            })?;
            let uplink = record.uplinks.entry(name.clone()).or_default();
            if uplink.nodes.is_empty() {
                now.trim().clone_into(&mut uplink.before);
            }
            uplink.nodes.insert(node.to_owned());
        }
        if record.place.is_some() || !is_mount(&self.place)? {
            record.place.get_or_insert_default().insert(node.to_owned());
        }
        self.write(&mut file, &record)?;
        self.release(&mut record, node, uplinks)?;
        guard(&record.guarded())?;
        for name in uplinks {
            fs::write(self.setting(name), "1")?;
        }
        self.write(&mut file, &record)
    }

    /// Gives back what no other node needs. `guard` lays the rules for those who stay.
    pub(super) fn close(
        &self,
        node: &str,
        guard: impl FnOnce(&GuardedUplinks) -> Result<(), DriverFailure>,
    ) -> Result<(), DriverFailure> {
        let mut file = self.lock()?;
        let mut record = read(&mut file)?;
        self.release(&mut record, node, &[])?;
        guard(&record.guarded())?;
        if let Some(nodes) = &mut record.place {
            nodes.remove(node);
        }
        if record.place.as_ref().is_some_and(BTreeSet::is_empty) {
            self.remove_place()?;
            record.place = None;
        }
        record.nodes.remove(node);
        let unchanged = record.uplinks.is_empty() && record.place.is_none() && record.nodes.is_empty();
        if unchanged { Ok(files::remove(&self.record)?) } else { self.write(&mut file, &record) }
    }

    /// Tells which interfaces are guarded, while no node changes that or the rules.
    pub(super) fn guarding(
        &self,
        act: impl FnOnce(&GuardedUplinks) -> Result<(), DriverFailure>,
    ) -> Result<(), DriverFailure> {
        let mut file = self.lock()?;
        let record = read(&mut file)?;
        act(&record.guarded())
    }

    /// Writes the record anew; half of one, on a full `/run`, would keep every node from
    /// starting. The new file is locked before it has the name, and held instead of the
    /// old one: who waits for that finds that it is not the record any more.
    pub(super) fn write(&self, held: &mut File, record: &HostChanges) -> Result<(), DriverFailure> {
        let text = serde_json::to_vec(record).map_err(io::Error::from)?;
        let half = self.record.with_extension("half");
        let mut draft = open_named(&half)?;
        flock(&draft, FlockOperation::LockExclusive)?;
        draft.set_len(0)?;
        durable::failpoint("network record", "opened");
        draft.write_all(&text)?;
        durable::failpoint("network record", "written");
        draft.sync_all()?;
        durable::move_to("network record", &half, &self.record)?;
        *held = draft;
        Ok(())
    }

    /// Lets go of the node's interfaces but `kept`; the last node switches back.
    fn release(&self, record: &mut HostChanges, node: &str, kept: &[String]) -> Result<(), DriverFailure> {
        for (name, uplink) in record.uplinks.iter_mut().filter(|(name, _)| !kept.contains(name)) {
            if uplink.nodes.remove(node) && uplink.nodes.is_empty() {
                match fs::write(self.setting(name), &uplink.before) {
                    // The interface is gone, and its setting with it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    done => done?,
                }
            }
        }
        record.uplinks.retain(|_, uplink| !uplink.nodes.is_empty());
        Ok(())
    }

    /// Unless somebody else has put a namespace there meanwhile.
    fn remove_place(&self) -> Result<(), DriverFailure> {
        if !files::names(&self.place)?.is_empty() {
            return Ok(());
        }
        let removed = if is_mount(&self.place)? { unmount(&self.place, UnmountFlags::empty()) } else { Ok(()) };
        match removed.map_err(io::Error::from).and_then(|()| fs::remove_dir(&self.place)) {
            Err(error) if !in_use(&error) && error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn setting(&self, link: &str) -> PathBuf {
        self.settings.join(link).join("forwarding")
    }

    /// What a node of this name holds as long as it lives.
    pub(super) fn claim_path(&self, name: &str) -> PathBuf {
        self.record.with_extension(format!("{name}.lock"))
    }

    /// The record, for us alone.
    pub(super) fn lock(&self) -> Result<File, DriverFailure> {
        for _ in 0..TRIES {
            let file = open_named(&self.record)?;
            flock(&file, FlockOperation::LockExclusive)?;
            if files::same(&file, &self.record)? {
                return Ok(file);
            }
        }
        Err(DriverFailure::Missing(format!("{} is always in use", self.record.display())))
    }
}

impl HostChanges {
    /// The interfaces that would not forward by themselves, each with its nodes.
    fn guarded(&self) -> GuardedUplinks {
        let ours = self.uplinks.iter().filter(|(_, uplink)| uplink.before == "0");
        ours.map(|(name, uplink)| (name.clone(), uplink.nodes.clone())).collect()
    }
}

pub(super) fn open_named(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn in_use(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty)
}

fn is_mount(path: &Path) -> io::Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|at| Path::new(at) == path)))
}

pub(super) fn read(file: &mut File) -> Result<HostChanges, DriverFailure> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    // Earlier programs wrote over the record in its place. What a longer one has left
    // behind a shorter one, when its writer was killed, is not looked at.
    match serde_json::Deserializer::from_str(&text).into_iter().next() {
        None => Ok(HostChanges::default()),
        Some(record) => record.map_err(|error| DriverFailure::Missing(format!("{RECORD} cannot be read: {error}"))),
    }
}

#[cfg(test)]
impl SharedHost {
    /// One whose settings and record lie in a folder, and whose place is mounted, as
    /// on a machine that knows namespaces already.
    pub(super) fn of_test(dir: &Path) -> Self {
        Self { record: dir.join("record.json"), settings: dir.to_owned(), place: "/proc".into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(links: &[(&str, &str)]) -> (tempfile::TempDir, SharedHost) {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in links {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("forwarding"), format!("{value}\n")).unwrap();
        }
        let machine = SharedHost::of_test(dir.path());
        (dir, machine)
    }

    /// What is guarded then, as `uplink: nodes`.
    fn open(machine: &SharedHost, node: &str, link: &str) -> Vec<String> {
        let mut seen = Vec::new();
        let guard = |guarded: &GuardedUplinks| {
            seen = told(guarded);
            Ok(())
        };
        machine.open(node, &[link.to_owned()], guard).unwrap();
        seen
    }

    fn close(machine: &SharedHost, node: &str) -> Vec<String> {
        let mut seen = Vec::new();
        let guard = |guarded: &GuardedUplinks| {
            seen = told(guarded);
            Ok(())
        };
        machine.close(node, guard).unwrap();
        seen
    }

    fn told(guarded: &GuardedUplinks) -> Vec<String> {
        guarded.iter().map(|(link, nodes)| format!("{link}: {}", Vec::from_iter(nodes.clone()).join(" "))).collect()
    }

    fn now(machine: &SharedHost, link: &str) -> String {
        fs::read_to_string(machine.setting(link)).unwrap()
    }

    #[test]
    fn it_is_as_before_when_the_last_of_two_nodes_has_gone() {
        let (_dir, machine) = machine(&[("eth0", "0")]);
        assert_eq!(open(&machine, "a", "eth0"), ["eth0: a"]);
        assert_eq!(open(&machine, "b", "eth0"), ["eth0: a b"]);
        // A daemon that comes back after a crash changes nothing.
        assert_eq!(open(&machine, "a", "eth0"), ["eth0: a b"]);
        assert_eq!(close(&machine, "a"), ["eth0: b"]);
        assert_eq!(now(&machine, "eth0"), "1");
        assert!(close(&machine, "b").is_empty());
        close(&machine, "b");
        assert_eq!(now(&machine, "eth0"), "0");
        assert!(!machine.record.exists());
    }

    #[test]
    fn a_node_with_another_uplink_gives_the_first_one_back() {
        let (_dir, machine) = machine(&[("eth0", "0"), ("eth1", "0")]);
        open(&machine, "a", "eth0");
        assert_eq!(open(&machine, "a", "eth1"), ["eth1: a"]);
        assert_eq!((now(&machine, "eth0"), now(&machine, "eth1")), ("0".to_owned(), "1".to_owned()));
    }

    #[test]
    fn a_machine_that_forwards_by_itself_is_not_guarded_and_goes_on() {
        let (_dir, machine) = machine(&[("eth0", "1")]);
        assert!(open(&machine, "a", "eth0").is_empty());
        close(&machine, "a");
        assert_eq!(now(&machine, "eth0"), "1");
    }

    #[test]
    fn an_uplink_that_is_not_there_is_named() {
        let (_dir, machine) = machine(&[]);
        let error = machine.open("a", &["eth9".to_owned()], |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("eth9"), "{error}");
    }

    #[test]
    fn fault_1_4_a_record_that_cannot_be_written_anew_stays_as_it_was() {
        let (_dir, machine) = machine(&[("eth0", "0")]);
        open(&machine, "a", "eth0");
        // Where it is written before it has its name.
        let half = machine.record.with_extension("half");
        fs::create_dir(&half).unwrap();
        machine.open("b", &["eth0".to_owned()], |_| Ok(())).unwrap_err();
        fs::remove_dir(&half).unwrap();
        // Of a writer that was killed in the middle.
        fs::write(&half, "{\"nodes\":{\"a-node-with-a-long-name-that-was-never-fin").unwrap();
        assert_eq!(open(&machine, "c", "eth0"), ["eth0: a c"]);
        assert!(!half.exists());
    }

    #[test]
    fn fault_1_4_a_record_that_was_written_anew_is_still_held() {
        let (_dir, machine) = machine(&[("eth0", "0")]);
        let guard = |_: &GuardedUplinks| {
            let other = open_named(&machine.record)?;
            assert_eq!(flock(&other, FlockOperation::NonBlockingLockExclusive), Err(rustix::io::Errno::WOULDBLOCK));
            Ok(())
        };
        machine.open("a", &["eth0".to_owned()], guard).unwrap();
        std::thread::scope(|scope| {
            for node in ["b", "c", "d", "e"] {
                let machine = &machine;
                scope.spawn(move || machine.open(node, &["eth0".to_owned()], |_| Ok(())).unwrap());
            }
        });
        assert_eq!(open(&machine, "a", "eth0"), ["eth0: a b c d e"]);
    }

    #[test]
    fn a_record_whose_writer_was_killed_before_it_cut_off_the_old_end_is_read() {
        let (_dir, machine) = machine(&[("eth0", "0")]);
        open(&machine, "a", "eth0");
        let whole = fs::read_to_string(&machine.record).unwrap();
        fs::write(&machine.record, format!("{whole}\"}}}}")).unwrap();
        assert_eq!(open(&machine, "b", "eth0"), ["eth0: a b"]);
    }
}
