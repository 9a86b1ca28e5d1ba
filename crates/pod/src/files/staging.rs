//! Where an archive is taken in: beside what is on the disk, which it becomes in steps that are
//! finished whatever cuts them off.
//!
//! ```text
//! /.palatine-import/new      the archive, until all of it is there and on disk
//! /.palatine-import/ready    the same: from here on it becomes what the disk holds
//! /.palatine-import/old      what the disk held
//! /.palatine-import/placing  the archive, of which some may be in its place
//! ```
//!
//! Whoever mounts the disk next finishes it ([`recover`]): before `ready` there is the disk as it was,
//! and after it what the archive holds.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{Timespec, Timestamps, futimens, syncfs};

use super::attributes;
use super::error::FileError;
use super::tree;

/// The folder of what is taken in, at the disk's root.
pub(super) const STAGING: &str = ".palatine-import";
/// The one folder of an empty file system.
pub(super) const LOST_AND_FOUND: &str = "lost+found";
/// Its mode tells it from a folder that somebody else has called so.
const OURS: u32 = 0o700;
const MODE: u32 = 0o7777;

/// An archive that is being taken in. Dropped before it is placed, it was never there.
#[derive(Debug)]
pub(super) struct Staging {
    root: PathBuf,
    placed: bool,
}

impl Staging {
    /// Begins, once what was cut off before is finished.
    pub(super) fn begin(root: &Path, name: &str) -> Result<Self, FileError> {
        recover(root).map_err(at(root))?;
        let staging = Self { root: root.to_owned(), placed: false };
        let (folder, new) = (root.join(STAGING), staging.folder());
        DirBuilder::new().mode(OURS).create(&folder).map_err(at(&folder))?;
        DirBuilder::new().mode(OURS).create(&new).map_err(at(&new))?;
        let prepared = like(root, &new).and_then(|()| {
            let new = File::open(&new)?;
            attributes::write(&new, attributes::IMPORT, name.as_bytes()).map(drop)
        });
        prepared.map_err(at(&new))?;
        Ok(staging)
    }

    /// Where the archive goes.
    pub(super) fn folder(&self) -> PathBuf {
        self.root.join(STAGING).join("new")
    }

    /// Puts it in the place of what is there, which must be nothing unless it is to be replaced.
    pub(super) fn place(mut self, replace: bool) -> Result<(), FileError> {
        if !replace {
            must_be_empty(&self.root)?;
        }
        let root = File::open(&self.root).map_err(at(&self.root))?;
        syncfs(&root).map_err(|error| at(&self.root)(error.into()))?;
        let folder = self.root.join(STAGING);
        let ready = fs::rename(self.folder(), folder.join("ready")).and_then(|()| sync(&folder));
        ready.map_err(at(&folder))?;
        self.placed = true;
        finish(&self.root).map_err(at(&self.root))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.placed
            && let Err(error) = remove(&self.root.join(STAGING))
        {
            tracing::warn!(%error, "what an archive that broke off has left stays until the disk is mounted again");
        }
    }
}

/// Whether the archive of this name is what the disk was filled from last.
pub(super) fn is_from(root: &Path, name: &str) -> bool {
    attributes::read(root, attributes::IMPORT).is_ok_and(|found| found.as_deref() == Some(name.as_bytes()))
}

/// Nothing is on the disk but what every new one has.
pub(super) fn must_be_empty(root: &Path) -> Result<(), FileError> {
    match held(root).map_err(at(root))?.first() {
        Some(name) => Err(FileError::NotEmpty(name.to_string_lossy().into_owned())),
        None => Ok(()),
    }
}

/// Finishes what was cut off. What others have called as we do is left alone.
pub(crate) fn recover(root: &Path) -> io::Result<()> {
    let folder = root.join(STAGING);
    let found = match fs::symlink_metadata(&folder) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.is_dir() || found.uid() != 0 || found.mode() & MODE != OURS {
        return Ok(());
    }
    if is_folder(&folder.join("placing")) || is_folder(&folder.join("ready")) {
        return finish(root);
    }
    remove(&folder)
}

fn finish(root: &Path) -> io::Result<()> {
    let folder = root.join(STAGING);
    let (old, ready, placing) = (folder.join("old"), folder.join("ready"), folder.join("placing"));
    // Once some of the archive may be in its place, what is there is not told from it.
    if !is_folder(&placing) {
        if !is_folder(&old) {
            DirBuilder::new().mode(OURS).create(&old)?;
        }
        for name in held(root)? {
            fs::rename(root.join(&name), old.join(&name))?;
        }
        sync(root)?;
        fs::rename(&ready, &placing)?;
        sync(&folder)?;
    }
    like(&placing, root)?;
    for entry in fs::read_dir(&placing)? {
        let name = entry?.file_name();
        fs::rename(placing.join(&name), root.join(&name))?;
    }
    sync(root)?;
    remove(&folder)?;
    sync(root)
}

/// The names at the root, but for those that are no owner's.
fn held(root: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let names = fs::read_dir(root)?.map(|entry| entry.map(|entry| entry.file_name()));
    let is_held = |name: &io::Result<std::ffi::OsString>| {
        name.as_ref().map_or(true, |name| name != STAGING && name != LOST_AND_FOUND)
    };
    names.filter(is_held).collect()
}

/// Has a folder be as another one is: whose, with which permissions, attributes and times.
fn like(from: &Path, to: &Path) -> io::Result<()> {
    let found = fs::metadata(from)?;
    chown(to, Some(found.uid()), Some(found.gid()))?;
    fs::set_permissions(to, Permissions::from_mode(found.mode() & MODE))?;
    let folder = File::open(to)?;
    attributes::copy(from, to, &folder)?;
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: time(found.atime(), found.atime_nsec()),
        last_modification: time(found.mtime(), found.mtime_nsec()),
    };
    Ok(futimens(&folder, &times)?)
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

fn remove(folder: &Path) -> io::Result<()> {
    let path = folder.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
    tree::remove(path).map_err(io::Error::other)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_string_lossy().into_owned();
    move |error| FileError::Io { path, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(LOST_AND_FOUND)).unwrap();
        dir
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn staged(dir: &tempfile::TempDir) -> Staging {
        let staging = Staging::begin(dir.path(), "first").unwrap();
        fs::write(staging.folder().join("a"), "new").unwrap();
        fs::create_dir(staging.folder().join("b")).unwrap();
        staging
    }

    #[test]
    fn what_breaks_off_was_never_there_and_what_is_whole_takes_an_empty_place() {
        needs::needs!(root);
        let dir = disk();
        drop(staged(&dir));
        assert_eq!(names(dir.path()), [LOST_AND_FOUND]);
        staged(&dir).place(false).unwrap();
        assert_eq!(names(dir.path()), ["a", "b", LOST_AND_FOUND]);
        let refused = staged(&dir).place(false);
        assert!(matches!(refused, Err(FileError::NotEmpty(_))), "{refused:?}");
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"new");
    }

    #[test]
    fn what_is_replaced_is_gone_once_the_archive_is_there() {
        needs::needs!(root);
        let dir = disk();
        fs::create_dir_all(dir.path().join("deep/er")).unwrap();
        fs::write(dir.path().join("a"), "old").unwrap();
        let staging = staged(&dir);
        fs::set_permissions(staging.folder(), Permissions::from_mode(0o750)).unwrap();
        staging.place(true).unwrap();
        assert_eq!(names(dir.path()), ["a", "b", LOST_AND_FOUND]);
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"new");
        assert_eq!(fs::metadata(dir.path()).unwrap().mode() & MODE, 0o750);
        assert!(!is_from(dir.path(), "second"));
    }

    /// At each step at which it may have been cut off.
    #[test]
    fn whatever_cuts_it_off_there_is_the_old_disk_or_the_new_one() {
        needs::needs!(root);
        let cut = |steps: &dyn Fn(&Path)| {
            let dir = disk();
            for name in ["a", "old1", "old2"] {
                fs::write(dir.path().join(name), "old").unwrap();
            }
            let mut staging = staged(&dir);
            staging.placed = true;
            drop(staging);
            steps(dir.path());
            recover(dir.path()).unwrap();
            recover(dir.path()).unwrap();
            (names(dir.path()), fs::read_to_string(dir.path().join("a")).unwrap())
        };
        let (before, after) = (vec!["a", LOST_AND_FOUND, "old1", "old2"], vec!["a", "b", LOST_AND_FOUND]);
        let within = |root: &Path, name: &str| root.join(STAGING).join(name);
        let ready = |root: &Path| fs::rename(within(root, "new"), within(root, "ready")).unwrap();
        let some_old = |root: &Path| {
            ready(root);
            fs::create_dir(within(root, "old")).unwrap();
            fs::rename(root.join("old1"), within(root, "old").join("old1")).unwrap();
        };
        let placing = |root: &Path| {
            some_old(root);
            for name in ["a", "old2"] {
                fs::rename(root.join(name), within(root, "old").join(name)).unwrap();
            }
            fs::rename(within(root, "ready"), within(root, "placing")).unwrap();
        };
        let some_new = |root: &Path| {
            placing(root);
            fs::rename(within(root, "placing").join("a"), root.join("a")).unwrap();
        };
        assert_eq!(cut(&|_| ()), (before.iter().map(ToString::to_string).collect(), "old".to_owned()));
        for steps in [&ready as &dyn Fn(&Path), &some_old, &placing, &some_new] {
            assert_eq!(cut(steps), (after.iter().map(ToString::to_string).collect(), "new".to_owned()));
        }
    }

    #[test]
    fn what_somebody_else_has_called_so_is_left_alone() {
        needs::needs!(root);
        let dir = disk();
        let folder = dir.path().join(STAGING);
        fs::create_dir(&folder).unwrap();
        chown(&folder, Some(1000), Some(1000)).unwrap();
        fs::write(folder.join("ready"), "x").unwrap();
        recover(dir.path()).unwrap();
        assert_eq!(names(&folder), ["ready"]);
        let elsewhere = disk();
        std::os::unix::fs::symlink(dir.path(), elsewhere.path().join(STAGING)).unwrap();
        recover(elsewhere.path()).unwrap();
        assert!(folder.exists());
    }
}
