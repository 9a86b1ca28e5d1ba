//! Snapshots of volumes: copies of their disks, which nothing writes to.
//!
//! ```text
//! <state>/snapshots/<id>.ext4       the copy
//! <state>/snapshots/<id>.half       one that is being made
//! <state>/snapshots/<id>.removed    one that is being erased
//! <state>/volumes/<id>.half         a volume's disk that is being put back
//! <state>/volumes/<id>.restored     the last order by which one was put back
//! <state>/volumes/<id>.restoring    the one by which one is being put back
//! ```
//!
//! A disk is copied byte by byte, with its holes, or shares its blocks where the node's file
//! system can do that; nobody looks into it. No VMM has it meanwhile: the copy is what a crash
//! would have left, whole and of one instant. It has its name when all of it is on the disk, and
//! takes the place of another in one step: what is cut off is swept, and asked for again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use domain::{SnapshotId, VolumeId};

use crate::kept::{allocated, allocated_file};
use crate::{DriverFailure, Volumes, disk, files};

const MIB: u64 = 1024 * 1024;
const DISK: &str = "ext4";

/// The snapshots of a node.
#[derive(Clone, Debug)]
pub struct Snapshots {
    dir: PathBuf,
    volumes: Volumes,
}

/// A snapshot's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotDisk {
    /// Which snapshot it is.
    pub id: SnapshotId,
    /// The size of the disk that it is a copy of, in MiB.
    pub size_mib: u64,
    /// What it takes of the node's disk.
    pub bytes: u64,
}

impl Snapshots {
    /// Those under this state folder.
    #[must_use]
    pub fn of(state: &Path) -> Self {
        Self { dir: state.join("snapshots"), volumes: Volumes::of(state) }
    }

    /// All of them, in the order of their ids.
    ///
    /// # Errors
    /// When they cannot be listed: then nobody knows what is promised to them.
    pub fn list(&self) -> io::Result<Vec<SnapshotDisk>> {
        let mut found = Vec::new();
        for name in files::names(&self.dir)? {
            let Some(id) = name.strip_suffix(".ext4").and_then(|id| id.parse().ok()) else { continue };
            found.extend(self.find(id)?);
        }
        found.sort_by_key(|disk| disk.id);
        Ok(found)
    }

    /// One of them, if it is there.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn find(&self, id: SnapshotId) -> io::Result<Option<SnapshotDisk>> {
        match std::fs::metadata(self.path(id)) {
            Ok(file) => Ok(Some(SnapshotDisk { id, size_mib: file.len() / MIB, bytes: allocated_file(&file) })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a snapshot of a volume, unless there is one of this id: that one stays as it is.
    /// Takes as long as the disk is copied.
    ///
    /// # Errors
    /// [`DriverFailure::Taken`] while a VMM has the volume, [`DriverFailure::Missing`] where there
    /// is none; what the host lacks.
    pub fn make(&self, id: SnapshotId, of: VolumeId) -> Result<(), DriverFailure> {
        let path = self.path(id);
        if path.try_exists()? {
            return Ok(());
        }
        durable::make_dir("snapshots", &self.dir)?;
        let source = self.volumes.open(of)?;
        let half = path.with_extension("half");
        let copied = copy(&source, &half, 0);
        durable::failpoint("snapshot", "copied");
        or_drop(&half, copied)?;
        Ok(durable::move_to("snapshot", &half, &path)?)
    }

    /// Puts a volume back to what a snapshot of it holds, in one step; its size stays. `order` is
    /// noted with the volume: of two the higher one is done, and each once, however often it is
    /// asked for. Whether it was done now.
    ///
    /// # Errors
    /// As [`Snapshots::make`]; [`DriverFailure::Missing`] also where there is no such snapshot.
    pub fn restore(&self, id: SnapshotId, to: VolumeId, order: u64) -> Result<bool, DriverFailure> {
        if self.is_restored(to, order)? {
            return Ok(false);
        }
        let snapshot = self.path(id);
        disk::must_be_there(&snapshot)?;
        // Held until the other disk has its name: no VMM gets the one that goes.
        let before = self.volumes.open(to)?;
        let path = self.volumes.path(to);
        let (half, order_of_it) = (path.with_extension("half"), path.with_extension("restoring"));
        // First: on a full disk nothing is put back of which it could not be noted that it was.
        durable::replace("restoring", &order_of_it, order.to_string().as_bytes())?;
        let copied = copy(&File::open(&snapshot)?, &half, before.metadata()?.len());
        durable::failpoint("restore", "copied");
        or_drop(&half, copied)?;
        durable::move_to("restore", &half, &path)?;
        durable::move_to("restored", &order_of_it, &self.note(to))?;
        Ok(true)
    }

    /// Whether a volume was put back by this order, or by a later one.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn is_restored(&self, volume: VolumeId, order: u64) -> io::Result<bool> {
        Ok(order_in(&self.note(volume))?.is_some_and(|done| done >= order))
    }

    fn note(&self, volume: VolumeId) -> PathBuf {
        self.volumes.path(volume).with_extension("restored")
    }

    /// Erases a snapshot. One that is not there is erased already.
    ///
    /// # Errors
    /// What the host says.
    pub fn erase(&self, id: SnapshotId) -> io::Result<()> {
        let path = self.path(id);
        let removed = path.with_extension("removed");
        if path.try_exists()? {
            durable::move_to("snapshot erased", &path, &removed)?;
        }
        files::remove(&removed)
    }

    /// What they take of the node's disk, with those that are being made, in bytes.
    ///
    /// # Errors
    /// When they cannot be looked at.
    pub fn taken(&self) -> io::Result<u64> {
        allocated(&self.dir)
    }

    /// Sweeps what was cut off; how many halves of snapshots there were. Those of volumes are
    /// swept with theirs.
    ///
    /// # Errors
    /// What cannot be removed.
    pub fn tidy(&self) -> io::Result<usize> {
        let mut halves = 0;
        for name in files::names(&self.dir)? {
            if name.ends_with(".half") || name.ends_with(".removed") {
                halves += usize::from(name.ends_with(".half"));
                files::remove(&self.dir.join(name))?;
            }
        }
        Ok(halves)
    }

    fn path(&self, id: SnapshotId) -> PathBuf {
        self.dir.join(format!("{id}.{DISK}"))
    }
}

/// Copies a disk to a new file that has at least this length, and waits for the node's disk.
fn copy(source: &File, to: &Path, least: u64) -> io::Result<()> {
    files::remove(to)?;
    let target = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(to)?;
    disk::copy_all(source, &target)?;
    if target.metadata()?.len() < least {
        target.set_len(least)?;
    }
    target.sync_all()
}

/// Half a copy is of use to nobody, and takes room where there may be none.
fn or_drop(half: &Path, copied: io::Result<()>) -> Result<(), DriverFailure> {
    copied.map_err(|error| {
        if let Err(left) = files::remove(half) {
            tracing::warn!(half = %half.display(), error = %left, "half a copy stays until the next start");
        }
        error.into()
    })
}

/// The order by which a volume was put back last.
fn order_in(note: &Path) -> io::Result<Option<u64>> {
    let text = match std::fs::read_to_string(note) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", note.display()));
    text.trim().parse().map(Some).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    const VOLUME: VolumeId = VolumeId::from_bits(1);

    fn id(bits: u64) -> SnapshotId {
        SnapshotId::from_bits(bits)
    }

    fn volume_file(state: &Path) -> PathBuf {
        state.join(format!("volumes/{VOLUME}.ext4"))
    }

    fn write(state: &Path, at: u64, text: &[u8]) {
        let file = OpenOptions::new().write(true).open(volume_file(state)).unwrap();
        file.write_all_at(text, at).unwrap();
    }

    fn read(state: &Path, at: u64) -> [u8; 4] {
        let mut there = [0; 4];
        File::open(volume_file(state)).unwrap().read_exact_at(&mut there, at).unwrap();
        there
    }

    /// A volume with something on it, and a snapshot of that.
    fn with_a_snapshot() -> tempfile::TempDir {
        let state = tempfile::tempdir().unwrap();
        operate(state.path(), "volume");
        operate(state.path(), "make");
        write(state.path(), 50 * MIB, b"new!");
        state
    }

    #[test]
    fn a_snapshot_is_sparse_and_whole_and_puts_its_volume_back_once_for_each_order() {
        let state = with_a_snapshot();
        let (snapshots, volumes) = (Snapshots::of(state.path()), Volumes::of(state.path()));
        let [found] = snapshots.list().unwrap().try_into().unwrap();
        assert_eq!((found.id, found.size_mib), (id(1), 64));
        assert!(found.bytes < 16 * MIB, "{} bytes on disk", found.bytes);
        let mode = fs::metadata(state.path().join(format!("snapshots/{}.ext4", id(1)))).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        // It is not made anew, whatever its volume is by now.
        snapshots.make(id(1), VOLUME).unwrap();
        assert_eq!(read(state.path(), 50 * MIB), *b"new!");
        // A volume that has grown since then stays as large.
        volumes.grow(VOLUME, 128).unwrap();
        assert!(snapshots.restore(id(1), VOLUME, 5).unwrap());
        assert_eq!((read(state.path(), 50 * MIB), volumes.find(VOLUME).unwrap().unwrap().size_mib), (*b"kept", 128));
        write(state.path(), 50 * MIB, b"more");
        for late in [5, 4] {
            assert!(!snapshots.restore(id(1), VOLUME, late).unwrap(), "what comes late takes nothing back");
        }
        assert_eq!(read(state.path(), 50 * MIB), *b"more");
        assert!(snapshots.restore(id(1), VOLUME, 6).unwrap());
        snapshots.erase(id(1)).unwrap();
        snapshots.erase(id(1)).unwrap();
        assert_eq!(snapshots.list().unwrap(), []);
        assert!(matches!(snapshots.restore(id(1), VOLUME, 7), Err(DriverFailure::Missing(_))));
        assert!(matches!(snapshots.make(id(2), VolumeId::from_bits(9)), Err(DriverFailure::Missing(_))));
        // A volume that is erased takes its note with it.
        volumes.erase(VOLUME).unwrap();
        assert_eq!(files::names(&state.path().join("volumes")).unwrap(), Vec::<String>::new());
    }

    /// Mounts a file system of so many files and folders.
    fn small_disk(at: &Path, options: &str) {
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "palatine-test"]).arg(at);
        assert!(mount.status().unwrap().success());
    }

    #[test]
    fn a_volume_that_cannot_be_put_back_for_want_of_room_is_what_it_was() {
        needs::needs!(root);
        let state = tempfile::tempdir().unwrap();
        // It, two folders, a volume, a snapshot, and one file more: the copy alone has room.
        small_disk(state.path(), "size=256m,nr_inodes=6");
        operate(state.path(), "volume");
        operate(state.path(), "make");
        write(state.path(), 50 * MIB, b"new!");
        let refused = Snapshots::of(state.path()).restore(id(1), VOLUME, 1);
        let (text, names) = (read(state.path(), 50 * MIB), files::names(&state.path().join("volumes")).unwrap());
        small_disk(state.path(), "remount,nr_inodes=100");
        let restored = Snapshots::of(state.path()).restore(id(1), VOLUME, 1);
        let after = read(state.path(), 50 * MIB);
        assert!(std::process::Command::new("umount").arg(state.path()).status().unwrap().success());
        assert!(matches!(&refused, Err(DriverFailure::Io(_))), "{refused:?}");
        assert_eq!(text, *b"new!", "it was put back, and that it was is not told: {names:?}");
        assert!(restored.unwrap());
        assert_eq!(after, *b"kept");
    }

    #[test]
    fn a_volume_that_a_vmm_has_is_neither_copied_nor_put_back() {
        let state = with_a_snapshot();
        let snapshots = Snapshots::of(state.path());
        let held = Volumes::of(state.path()).open(VOLUME).unwrap();
        assert!(matches!(snapshots.make(id(2), VOLUME), Err(DriverFailure::Taken(_))));
        assert!(matches!(snapshots.restore(id(1), VOLUME, 1), Err(DriverFailure::Taken(_))));
        drop(held);
        assert_eq!(read(state.path(), 50 * MIB), *b"new!");
        assert_eq!(files::names(&state.path().join("snapshots")).unwrap().len(), 1);
    }

    const STATE: &str = "PALATINE_TEST_STATE";
    const OPERATION: &str = "PALATINE_TEST_OPERATION";

    #[test]
    #[ignore = "a child process of the test below"]
    fn the_process_that_is_killed() {
        let Some(state) = std::env::var_os(STATE).map(PathBuf::from) else { return };
        operate(&state, &std::env::var(OPERATION).unwrap());
    }

    fn operate(state: &Path, operation: &str) {
        let snapshots = Snapshots::of(state);
        match operation {
            "volume" => {
                Volumes::of(state).make(VOLUME, 64).unwrap();
                write(state, 50 * MIB, b"kept");
            }
            "make" => snapshots.make(id(1), VOLUME).unwrap(),
            "restore" => drop(snapshots.restore(id(1), VOLUME, 1).unwrap()),
            "erase" => snapshots.erase(id(1)).unwrap(),
            other => panic!("no operation {other}"),
        }
    }

    /// Runs the operation in a process of its own; says whether it was killed.
    fn run(state: &Path, operation: &str, variable: &str, value: &str) -> bool {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "snapshots::tests::the_process_that_is_killed"])
            .envs([(STATE, state.to_str().unwrap()), (OPERATION, operation), (variable, value)])
            .output()
            .unwrap()
            .status;
        !status.success()
    }

    #[test]
    fn after_a_kill_at_each_step_a_snapshot_is_whole_or_not_there_and_a_volume_what_it_was_or_what_it_is_to_be() {
        let with_volume = || {
            let state = tempfile::tempdir().unwrap();
            operate(state.path(), "volume");
            state
        };
        for (operation, start) in [
            ("make", with_volume as fn() -> tempfile::TempDir),
            ("restore", with_a_snapshot),
            ("erase", with_a_snapshot),
        ] {
            let (state, list) = (start(), tempfile::NamedTempFile::new().unwrap());
            assert!(!run(state.path(), operation, durable::SEEN, list.path().to_str().unwrap()));
            let points = fs::read_to_string(list.path()).unwrap();
            assert!(points.lines().count() > 0, "{operation}: {points}");
            for point in points.lines() {
                let state = start();
                assert!(run(state.path(), operation, durable::AT, point), "{operation} not killed at {point}");
                let (snapshots, volumes) = (Snapshots::of(state.path()), Volumes::of(state.path()));
                volumes.tidy().unwrap();
                snapshots.tidy().unwrap();
                let text = read(state.path(), 50 * MIB);
                assert!(text == *b"kept" || text == *b"new!", "{operation}, {point}: {text:?}");
                operate(state.path(), operation);
                let snapshots = snapshots.list().unwrap().len();
                let halves = ["volumes", "snapshots"].map(|dir| {
                    let names = files::names(&state.path().join(dir)).unwrap();
                    names.iter().filter(|name| name.ends_with(".half")).count()
                });
                assert_eq!(halves, [0, 0], "{operation}, {point}");
                match operation {
                    "make" => assert_eq!((snapshots, read(state.path(), 50 * MIB)), (1, *b"kept"), "{point}"),
                    "restore" => assert_eq!((snapshots, read(state.path(), 50 * MIB)), (1, *b"kept"), "{point}"),
                    _ => assert_eq!((snapshots, read(state.path(), 50 * MIB)), (0, *b"new!"), "{point}"),
                }
                // What it holds is what the volume held.
                if operation == "make" {
                    write(state.path(), 50 * MIB, b"new!");
                    operate(state.path(), "restore");
                    assert_eq!(read(state.path(), 50 * MIB), *b"kept", "{point}");
                }
            }
        }
    }
}
