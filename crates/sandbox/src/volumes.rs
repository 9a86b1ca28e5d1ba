//! Volumes: disks that outlive every run, one file each.
//!
//! ```text
//! <state>/volumes/<id>.ext4      the disk; its length is its size
//! <state>/volumes/<id>.half      one that is being made
//! <state>/volumes/<id>.removed   one that is being erased
//! ```
//!
//! The host makes an empty file system in a file that is new, and looks into it never again:
//! once a guest has had a disk, it is checked, mounted and read in guests alone. A disk that
//! is there is never made anew, whatever is on it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use domain::VolumeId;

use crate::kept::{allocated, allocated_file};
use crate::{DriverFailure, command, disk, files};

const MIB: u64 = 1024 * 1024;
const DISK: &str = "ext4";
/// Journal of a small volume, and of a large one, in MiB.
const LEAST_JOURNAL_MIB: u64 = 4;
const MOST_JOURNAL_MIB: u64 = 128;
/// A volume has one MiB of journal for as many.
const MIB_PER_JOURNAL_MIB: u64 = 64;
/// For so many MiB making a file system may take a second longer: it writes about one in 70,000 of them.
const MIB_PER_SECOND: u64 = 64 * 1024;

/// The volumes of a node.
#[derive(Clone, Debug)]
pub struct Volumes(PathBuf);

/// A volume's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeDisk {
    /// Which volume it is.
    pub id: VolumeId,
    /// Its size, in MiB.
    pub size_mib: u64,
    /// What it takes of the node's disk.
    pub bytes: u64,
}

impl Volumes {
    /// Those under this state folder.
    #[must_use]
    pub fn of(state: &std::path::Path) -> Self {
        Self(state.join("volumes"))
    }

    /// All of them, in the order of their ids.
    ///
    /// # Errors
    /// When they cannot be listed: then nobody knows what is promised to them.
    pub fn list(&self) -> io::Result<Vec<VolumeDisk>> {
        let mut found = Vec::new();
        for name in files::names(&self.0)? {
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
    pub fn find(&self, id: VolumeId) -> io::Result<Option<VolumeDisk>> {
        match std::fs::metadata(self.path(id)) {
            Ok(file) => Ok(Some(VolumeDisk { id, size_mib: file.len() / MIB, bytes: allocated_file(&file) })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes an empty volume, unless there is one of this id: that one stays as it is.
    ///
    /// # Errors
    /// What the host lacks.
    pub fn make(&self, id: VolumeId, size_mib: u64) -> Result<(), DriverFailure> {
        let path = self.path(id);
        if path.try_exists()? {
            return Ok(());
        }
        durable::make_dir("volumes", &self.0)?;
        let half = path.with_extension("half");
        files::remove(&half)?;
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&half)?;
        make_file_system(&half, size_mib)?;
        durable::failpoint("volume", "made");
        File::open(&half)?.sync_all()?;
        Ok(durable::move_to("volume", &half, &path)?)
    }

    /// Makes a volume's disk larger; what is on it, its guest makes use of the room at its next
    /// mount. A disk is never made smaller.
    ///
    /// # Errors
    /// [`DriverFailure::Taken`] while a VMM has it; what the host lacks.
    pub fn grow(&self, id: VolumeId, size_mib: u64) -> Result<(), DriverFailure> {
        let file = self.open(id)?;
        let bytes = size_mib.saturating_mul(MIB);
        if file.metadata()?.len() < bytes {
            file.set_len(bytes)?;
            durable::failpoint("volume", "grown");
            file.sync_all()?;
        }
        Ok(())
    }

    /// Erases a volume. One that is not there is erased already.
    ///
    /// # Errors
    /// [`DriverFailure::Taken`] while a VMM has it; what the host says.
    pub fn erase(&self, id: VolumeId) -> Result<(), DriverFailure> {
        let path = self.path(id);
        let notes = ["restored", "restoring"].map(|note| path.with_extension(note));
        if !path.try_exists()? {
            notes.iter().try_for_each(|note| files::remove(note))?;
            return Ok(files::remove(&path.with_extension("removed"))?);
        }
        // Nobody else gets it from here on, whatever is in it.
        let held = File::open(&path)?;
        disk::claim(&held, &path)?;
        let removed = path.with_extension("removed");
        durable::move_to("volume erased", &path, &removed)?;
        files::remove(&removed)?;
        notes.iter().try_for_each(|note| files::remove(note))?;
        drop(held);
        Ok(())
    }

    /// What they take of the node's disk, with those that are being made or put back, in bytes.
    ///
    /// # Errors
    /// When they cannot be looked at.
    pub fn taken(&self) -> io::Result<u64> {
        allocated(&self.0)
    }

    /// Finishes what was cut off: the halves of volumes that were being made, and what was being
    /// erased.
    ///
    /// # Errors
    /// What cannot be removed.
    pub fn tidy(&self) -> io::Result<()> {
        for name in files::names(&self.0)? {
            if [".half", ".removed", ".restoring"].iter().any(|end| name.ends_with(end)) {
                files::remove(&self.0.join(name))?;
            }
        }
        Ok(())
    }

    /// Opens a volume for one VMM, which holds it as long as the file is open anywhere.
    ///
    /// # Errors
    /// [`DriverFailure::Missing`] where there is none, or nothing is in it;
    /// [`DriverFailure::Taken`] while another has it.
    pub(crate) fn open(&self, id: VolumeId) -> Result<File, DriverFailure> {
        let path = self.path(id);
        disk::must_be_there(&path)?;
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        disk::claim(&file, &path)?;
        Ok(file)
    }

    pub(crate) fn path(&self, id: VolumeId) -> PathBuf {
        self.0.join(format!("{id}.{DISK}"))
    }
}

/// Makes an empty file system that can grow while it is mounted, in a file that is new.
fn make_file_system(path: &std::path::Path, size_mib: u64) -> Result<(), DriverFailure> {
    let journal_mib = (size_mib / MIB_PER_JOURNAL_MIB).clamp(LEAST_JOURNAL_MIB, MOST_JOURNAL_MIB);
    let journal = format!("size={journal_mib}");
    // The file's blocks are zero: nothing is left for the guest to initialise.
    let extended = "assume_storage_prezeroed=1,lazy_itable_init=0,root_owner=0:0";
    let (file, size) = (path.to_string_lossy(), format!("{size_mib}M"));
    let options = ["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-J", &journal, "-E", extended, &file, &size];
    command::run_within("mke2fs", &options, "", making(size_mib))
}

/// How long making a file system of this size may take.
fn making(size_mib: u64) -> Duration {
    command::DEADLINE + Duration::from_secs(size_mib / MIB_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::path::Path;

    use super::*;

    fn id(bits: u64) -> VolumeId {
        VolumeId::from_bits(bits)
    }

    fn file_of(state: &Path, id: VolumeId) -> PathBuf {
        state.join(format!("volumes/{id}.ext4"))
    }

    #[test]
    fn a_volume_is_made_sparse_and_only_once() {
        let state = tempfile::tempdir().unwrap();
        let volumes = Volumes::of(state.path());
        assert_eq!(volumes.list().unwrap(), []);
        volumes.make(id(7), 256).unwrap();
        let [found] = volumes.list().unwrap().try_into().unwrap();
        assert_eq!((found.id, found.size_mib), (id(7), 256));
        assert!(found.bytes < 16 * MIB, "{} bytes on disk", found.bytes);
        let path = file_of(state.path(), id(7));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"the owner's", 99 * MIB).unwrap();
        volumes.make(id(7), 256).unwrap();
        let mut there = [0; 11];
        File::open(&path).unwrap().read_exact_at(&mut there, 99 * MIB).unwrap();
        assert_eq!(&there, b"the owner's");
    }

    #[test]
    fn a_large_volume_may_take_longer_to_make() {
        let seconds = [64, 1024 * 1024, domain::MAX_VOLUME_MIB].map(|mib| making(mib).as_secs());
        assert_eq!(seconds, [20, 36, 276]);
    }

    #[test]
    fn a_large_volume_is_made_and_takes_little_room() {
        let state = tempfile::tempdir().unwrap();
        let volumes = Volumes::of(state.path());
        volumes.make(id(1), 1024 * 1024).unwrap();
        let found = volumes.find(id(1)).unwrap().unwrap();
        assert!(found.size_mib == 1024 * 1024 && found.bytes < 64 * MIB, "{} bytes on disk", found.bytes);
    }

    #[test]
    fn a_volume_grows_and_never_shrinks_and_none_is_made_by_growing() {
        let state = tempfile::tempdir().unwrap();
        let volumes = Volumes::of(state.path());
        assert!(matches!(volumes.grow(id(1), 128), Err(DriverFailure::Missing(_))));
        assert_eq!(volumes.list().unwrap(), []);
        volumes.make(id(1), 64).unwrap();
        volumes.grow(id(1), 128).unwrap();
        volumes.grow(id(1), 64).unwrap();
        assert_eq!(volumes.find(id(1)).unwrap().unwrap().size_mib, 128);
    }

    #[test]
    fn a_volume_that_a_vmm_has_is_neither_grown_nor_erased_nor_given_to_another() {
        let state = tempfile::tempdir().unwrap();
        let volumes = Volumes::of(state.path());
        volumes.make(id(1), 64).unwrap();
        let held = volumes.open(id(1)).unwrap();
        for refused in [volumes.grow(id(1), 128), volumes.erase(id(1)), volumes.open(id(1)).map(drop)] {
            assert!(matches!(refused, Err(DriverFailure::Taken(_))), "{refused:?}");
        }
        assert_eq!(volumes.find(id(1)).unwrap().unwrap().size_mib, 64);
        drop(held);
        volumes.erase(id(1)).unwrap();
        volumes.erase(id(1)).unwrap();
        assert_eq!(volumes.list().unwrap(), []);
        // One that has lost all it held is given to nobody, and can be erased.
        fs::write(file_of(state.path(), id(2)), "").unwrap();
        assert!(matches!(volumes.open(id(2)), Err(DriverFailure::Missing(_))));
        volumes.erase(id(2)).unwrap();
        assert_eq!(volumes.list().unwrap(), []);
    }

    #[test]
    fn what_was_cut_off_is_finished_and_what_is_no_volume_is_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let volumes = Volumes::of(state.path());
        volumes.make(id(1), 64).unwrap();
        for name in ["0000000000000002.half", "0000000000000003.removed", "notes.txt", "precious.ext4"] {
            fs::write(state.path().join("volumes").join(name), "x").unwrap();
        }
        volumes.tidy().unwrap();
        let mut left = files::names(&state.path().join("volumes")).unwrap();
        left.sort();
        assert_eq!(left, ["0000000000000001.ext4", "notes.txt", "precious.ext4"]);
        assert_eq!(volumes.list().unwrap().len(), 1);
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
        let volumes = Volumes::of(state);
        match operation {
            "make" => volumes.make(id(1), 64).unwrap(),
            "grow" => volumes.grow(id(1), 128).unwrap(),
            "erase" => volumes.erase(id(1)).unwrap(),
            other => panic!("no operation {other}"),
        }
    }

    /// Runs the operation in a process of its own; says whether it was killed.
    fn run(state: &Path, operation: &str, variable: &str, value: &str) -> bool {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "volumes::tests::the_process_that_is_killed"])
            .envs([(STATE, state.to_str().unwrap()), (OPERATION, operation), (variable, value)])
            .output()
            .unwrap()
            .status;
        !status.success()
    }

    fn with_a_volume() -> tempfile::TempDir {
        let state = tempfile::tempdir().unwrap();
        operate(state.path(), "make");
        OpenOptions::new()
            .write(true)
            .open(file_of(state.path(), id(1)))
            .unwrap()
            .write_all_at(b"kept", 50 * MIB)
            .unwrap();
        state
    }

    fn keeps_its_data(state: &Path) -> bool {
        let mut there = [0; 4];
        File::open(file_of(state, id(1))).unwrap().read_exact_at(&mut there, 50 * MIB).unwrap();
        &there == b"kept"
    }

    #[test]
    fn a_volume_is_whole_or_not_there_after_a_kill_at_each_step_of_making_growing_and_erasing_it() {
        for (operation, start) in [
            ("make", tempfile::tempdir as fn() -> io::Result<tempfile::TempDir>),
            ("grow", || Ok(with_a_volume())),
            ("erase", || Ok(with_a_volume())),
        ] {
            let (state, list) = (start().unwrap(), tempfile::NamedTempFile::new().unwrap());
            assert!(!run(state.path(), operation, durable::SEEN, list.path().to_str().unwrap()));
            let points = fs::read_to_string(list.path()).unwrap();
            assert!(points.lines().count() > 0, "{operation}: {points}");
            for point in points.lines() {
                let state = start().unwrap();
                assert!(run(state.path(), operation, durable::AT, point), "{operation} not killed at {point}");
                let volumes = Volumes::of(state.path());
                volumes.tidy().unwrap();
                if operation == "grow" {
                    assert!(keeps_its_data(state.path()), "{point}");
                }
                operate(state.path(), operation);
                let left: Vec<_> = volumes.list().unwrap().iter().map(|disk| disk.size_mib).collect();
                let expected: &[u64] = match operation {
                    "make" => &[64],
                    "grow" => &[128],
                    _ => &[],
                };
                assert_eq!(left, expected, "{operation}, {point}");
            }
        }
    }
}
