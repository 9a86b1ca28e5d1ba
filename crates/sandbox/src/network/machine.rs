//! What is changed on the machine itself, for all nodes on it together: forwarding on
//! the interfaces that lead to the internet, and the place of the namespaces' names.
//! Both are as before when the last node has gone.
//!
//! What was before, and for whom it was changed, is kept where the change itself is:
//! until the machine is booted again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::mount::{UnmountFlags, unmount};
use serde::{Deserialize, Serialize};

use super::guest::NAMESPACES;
use crate::{Failure, files};

const RECORD: &str = "/run/palatine-network.json";
const SETTINGS: &str = "/proc/sys/net/ipv4/conf";
/// The record may be removed between its opening and its locking.
const TRIES: usize = 100;

/// What was changed.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
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
pub(super) struct Machine {
    record: PathBuf,
    settings: PathBuf,
    place: PathBuf,
}

impl Machine {
    pub(super) fn this() -> Self {
        Self { record: RECORD.into(), settings: SETTINGS.into(), place: NAMESPACES.into() }
    }

    /// Switches forwarding on for a node. `guard` is told which of its uplinks do
    /// not forward by themselves, and stands before they do.
    pub(super) fn open(
        &self,
        node: &str,
        uplinks: &[String],
        guard: impl FnOnce(&[String]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut file = self.lock()?;
        let mut record = read(&mut file)?;
        for name in uplinks {
            let now = fs::read_to_string(self.setting(name))
                .map_err(|_| Failure::Missing(format!("network.uplinks: this machine has no interface {name}")))?;
            let uplink = record.uplinks.entry(name.clone()).or_default();
            if uplink.nodes.is_empty() {
                now.trim().clone_into(&mut uplink.before);
            }
            uplink.nodes.insert(node.to_owned());
        }
        if record.place.is_some() || !is_mount(&self.place)? {
            record.place.get_or_insert_default().insert(node.to_owned());
        }
        write(&mut file, &record)?;
        let guarded: Vec<String> = uplinks.iter().filter(|name| record.uplinks[*name].before == "0").cloned().collect();
        guard(&guarded)?;
        for name in uplinks {
            fs::write(self.setting(name), "1")?;
        }
        Ok(())
    }

    /// Gives back what no other node needs.
    pub(super) fn close(&self, node: &str) -> Result<(), Failure> {
        if !self.record.exists() {
            return Ok(());
        }
        let mut file = self.lock()?;
        let mut record = read(&mut file)?;
        for (name, uplink) in &mut record.uplinks {
            if uplink.nodes.remove(node) && uplink.nodes.is_empty() {
                match fs::write(self.setting(name), &uplink.before) {
                    // The interface is gone, and its setting with it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    done => done?,
                }
            }
        }
        record.uplinks.retain(|_, uplink| !uplink.nodes.is_empty());
        if let Some(nodes) = &mut record.place {
            nodes.remove(node);
        }
        if record.place.as_ref().is_some_and(BTreeSet::is_empty) {
            self.remove_place()?;
            record.place = None;
        }
        let unchanged = record.uplinks.is_empty() && record.place.is_none();
        if unchanged { Ok(files::remove(&self.record)?) } else { write(&mut file, &record) }
    }

    /// Unless somebody else has put a namespace there meanwhile.
    fn remove_place(&self) -> Result<(), Failure> {
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

    /// The record, for us alone.
    fn lock(&self) -> Result<File, Failure> {
        for _ in 0..TRIES {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.record)?;
            flock(&file, FlockOperation::LockExclusive)?;
            if same(&file, &self.record)? {
                return Ok(file);
            }
        }
        Err(Failure::Missing(format!("{} is always in use", self.record.display())))
    }
}

fn in_use(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty)
}

fn is_mount(path: &Path) -> io::Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|at| Path::new(at) == path)))
}

fn same(file: &File, path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(named) => Ok(named.ino() == file.metadata()?.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn read(file: &mut File) -> Result<Record, Failure> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    if text.is_empty() {
        return Ok(Record::default());
    }
    serde_json::from_str(&text).map_err(|error| Failure::Missing(format!("{RECORD} cannot be read: {error}")))
}

fn write(file: &mut File, record: &Record) -> Result<(), Failure> {
    let text = serde_json::to_vec(record).map_err(io::Error::from)?;
    file.rewind()?;
    file.write_all(&text)?;
    Ok(file.set_len(text.len() as u64)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(links: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in links {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("forwarding"), format!("{value}\n")).unwrap();
        }
        // A place that is mounted, as on a machine that knows namespaces already.
        let machine =
            Machine { record: dir.path().join("record"), settings: dir.path().to_owned(), place: "/proc".into() };
        (dir, machine)
    }

    fn open(machine: &Machine, node: &str, link: &str) -> Vec<String> {
        let mut seen = Vec::new();
        let guard = |guarded: &[String]| {
            seen.extend_from_slice(guarded);
            Ok(())
        };
        machine.open(node, &[link.to_owned()], guard).unwrap();
        seen
    }

    #[test]
    fn it_is_as_before_when_the_last_of_two_nodes_has_gone() {
        let (_dir, machine) = machine(&[("eth0", "0")]);
        assert_eq!(open(&machine, "a", "eth0"), ["eth0"]);
        assert_eq!(open(&machine, "b", "eth0"), ["eth0"]);
        // A daemon that comes back after a crash changes nothing.
        assert_eq!(open(&machine, "a", "eth0"), ["eth0"]);
        let now = || fs::read_to_string(machine.setting("eth0")).unwrap();
        machine.close("a").unwrap();
        assert_eq!(now(), "1");
        machine.close("b").unwrap();
        machine.close("b").unwrap();
        assert_eq!(now(), "0");
        assert!(!machine.record.exists());
    }

    #[test]
    fn a_machine_that_forwards_by_itself_is_not_guarded_and_goes_on() {
        let (_dir, machine) = machine(&[("eth0", "1")]);
        assert!(open(&machine, "a", "eth0").is_empty());
        machine.close("a").unwrap();
        assert_eq!(fs::read_to_string(machine.setting("eth0")).unwrap(), "1");
    }

    #[test]
    fn an_uplink_that_is_not_there_is_named() {
        let (_dir, machine) = machine(&[]);
        let error = machine.open("a", &["eth9".to_owned()], |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("eth9"), "{error}");
    }
}
