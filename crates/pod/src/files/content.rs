//! A folder of the guest as a tree of its own: the inside of E2B's volume-content API.
//!
//! Each piece of work is done in a thread for which the folder is the root: the kernel ends there
//! whatever a path leads over, `..` and links too. What is changed is on disk before it is told.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::process::{chdir, chroot};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use wire::content::{ImportedArchive, VolumeEntryChange, VolumeEntryStat, VolumeEntryType};

use super::compose;
use super::download::{Download, open};
use super::error::FileError;
use super::mode::FileMode;
use super::pack::{self, ArchivePlan};
use super::paths::{PathBase, name_of};
use super::rights::{FileWorkers, spawn, start};
use super::tree::{self, MAX_ENTRIES};
use super::unpack::{self, ImportRequest};
use super::upload::{Owner, Piece, Upload};
use crate::process::{Privileges, User};

/// The permissions of a folder that is made.
const FOLDER: u32 = 0o755;
/// What of a mode is told.
const MODE: u32 = 0o7777;
/// What the kernel counts the size of a disk in.
const SECTOR: u64 = 512;
const MIB: u64 = 1024 * 1024;

/// A folder of the guest, worked on as root. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct FileTree {
    root: Arc<Path>,
    workers: FileWorkers,
    user: User,
}

/// What is to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NewEntry {
    /// Whose it is; that of the folder it is in where this is absent.
    pub(crate) uid: Option<u32>,
    /// Of which group; likewise.
    pub(crate) gid: Option<u32>,
    /// Its permissions.
    pub(crate) mode: Option<FileMode>,
    /// Whether a folder's parents are made and it may be there; whether a file is written over.
    pub(crate) force: bool,
}

impl NewEntry {
    fn owner(&self, of: &Metadata) -> Owner {
        Owner { uid: self.uid.unwrap_or_else(|| of.uid()), gid: self.gid.unwrap_or_else(|| of.gid()) }
    }
}

impl FileTree {
    /// The tree under this folder.
    pub(crate) fn new(root: impl Into<PathBuf>, workers: FileWorkers) -> Self {
        let user = User { uid: 0, gid: 0, groups: vec![0], name: None, home: None, privileges: Privileges::Machine };
        Self { root: root.into().into(), workers, user }
    }

    /// What is at a path.
    pub(crate) async fn stat(&self, path: String) -> Result<VolumeEntryStat, FileError> {
        self.run(path, stat).await
    }

    /// What is in a folder, so many levels deep.
    pub(crate) async fn list(&self, path: String, depth: u32) -> Result<Vec<VolumeEntryStat>, FileError> {
        self.run(path, move |path| list(path, depth)).await
    }

    /// Makes a folder.
    pub(crate) async fn make_dir(&self, path: String, new: NewEntry) -> Result<VolumeEntryStat, FileError> {
        self.run(path, move |path| make_dir(path, &new)).await
    }

    /// Changes whose something is, or its permissions.
    pub(crate) async fn change(&self, path: String, to: VolumeEntryChange) -> Result<VolumeEntryStat, FileError> {
        let mode = to.mode.map(FileMode::of).transpose()?;
        self.run(path, move |path| {
            chown(path, to.uid, to.gid).map_err(FileError::at(path))?;
            if let Some(mode) = mode {
                tree::set_mode(path, mode)?;
            }
            sync_entry(path)?;
            stat(path)
        })
        .await
    }

    /// Removes something that is there, a folder with all in it.
    pub(crate) async fn remove(&self, path: String) -> Result<(), FileError> {
        self.run(path, |path| {
            fs::symlink_metadata(path).map_err(FileError::at(path))?;
            tree::remove(path)?;
            sync_parent(path)
        })
        .await
    }

    /// Makes one file of several, which are gone then.
    pub(crate) async fn compose(
        &self,
        sources: Vec<String>,
        path: String,
        mode: Option<FileMode>,
    ) -> Result<VolumeEntryStat, FileError> {
        let sources = sources.iter().map(|source| rooted(source)).collect::<Result<Vec<_>, _>>()?;
        let (root, path) = (Arc::clone(&self.root), rooted(&path)?);
        random_numbers()?;
        start(&self.user, move |_| {
            enter(&root)?;
            let like = like(&path, true)?;
            let owner = NewEntry::default().owner(&like);
            compose::join(&sources, path.clone(), mode, Some(owner))?;
            sync_parent(&path)?;
            stat(&path)
        })
        .await
    }

    /// Measures the archive of all files.
    pub(crate) async fn plan_archive(&self) -> Result<ArchivePlan, FileError> {
        let root = Arc::clone(&self.root);
        start(&self.user, move |_| {
            let size_mib = disk_mib(&root);
            enter(&root)?;
            pack::plan(Path::new("/"), size_mib)
        })
        .await
    }

    /// Sends the archive that was measured, from this byte on.
    pub(crate) fn send_archive(
        &self,
        plan: ArchivePlan,
        from: u64,
        pieces: mpsc::Sender<io::Result<Bytes>>,
    ) -> Result<(), FileError> {
        let root = Arc::clone(&self.root);
        spawn(&self.user, move |rights| {
            let size_mib = disk_mib(&root);
            match rights.and_then(|_| enter(&root)) {
                Ok(()) => pack::send(Path::new("/"), size_mib, &plan, from, pieces),
                Err(error) => drop(pieces.blocking_send(Err(io::Error::other(error)))),
            }
        })
    }

    /// Takes an archive in: all that it holds is on disk, or nothing. `turn` is given back when nothing more
    /// is done for it, also where its caller is gone before.
    pub(crate) async fn receive_archive(
        &self,
        request: ImportRequest,
        turn: OwnedSemaphorePermit,
        pieces: mpsc::Receiver<Piece>,
    ) -> Result<ImportedArchive, FileError> {
        let root = Arc::clone(&self.root);
        start(&self.user, move |_| {
            enter(&root)?;
            let done = unpack::unpack(Path::new("/"), &request, pieces);
            drop(turn);
            done
        })
        .await
    }

    /// Opens a file for reading.
    pub(crate) async fn open(&self, path: String) -> Result<Download, FileError> {
        self.run(path, open).await
    }

    /// Takes a file in.
    pub(crate) async fn receive(
        &self,
        path: String,
        new: NewEntry,
        pieces: mpsc::Receiver<Piece>,
    ) -> Result<VolumeEntryStat, FileError> {
        let (root, path) = (Arc::clone(&self.root), rooted(&path)?);
        random_numbers()?;
        start(&self.user, move |_| {
            enter(&root)?;
            take(&path, &new, pieces)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        path: String,
        work: impl FnOnce(&str) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, FileError> {
        let (root, path) = (Arc::clone(&self.root), rooted(&path)?);
        let work = move || {
            enter(&root)?;
            work(&path)
        };
        self.workers.run(&self.user, work).await
    }
}

/// Has random numbers there, by which temporary files are named. Where this program is linked without
/// a library it opens `/dev/urandom` for the first one, once: in the tree there is none.
fn random_numbers() -> Result<(), FileError> {
    getrandom::u64().map(drop).map_err(|error| FileError::Thread(io::Error::other(error)))
}

/// The size of the disk that a folder is the root of, in MiB, where it is one.
fn disk_mib(root: &Path) -> Option<u64> {
    let device = fs::metadata(root).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let sectors = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/size")).ok()?;
    Some(sectors.trim().parse::<u64>().ok()? * SECTOR / MIB)
}

/// The absolute path that is meant.
fn rooted(path: &str) -> Result<String, FileError> {
    if path.is_empty() {
        return Err(FileError::Malformed("the parameter path says which file or folder is meant".to_owned()));
    }
    let base = PathBase { home: "/", workdir: "/" };
    Ok(base.resolve(&format!("/{path}"))?)
}

/// Makes a folder all that this thread sees, for good: it ends with its work.
#[expect(unsafe_code, reason = "the thread's own root and working directory; it shares no descriptor less")]
fn enter(root: &Path) -> Result<(), FileError> {
    let shown = || root.to_string_lossy().into_owned();
    let refused = |error: rustix::io::Errno| FileError::at(&shown())(error.into());
    // SAFETY: it takes this thread's root and working directory apart from the others' and touches
    // no file descriptor; the thread ends here.
    unsafe { unshare_unsafe(UnshareFlags::FS) }.map_err(refused)?;
    chroot(root).map_err(refused)?;
    chdir("/").map_err(refused)
}

fn stat(path: &str) -> Result<VolumeEntryStat, FileError> {
    let found = fs::symlink_metadata(path).map_err(FileError::at(path))?;
    let target = match found.is_symlink() {
        true => Some(fs::read_link(path).map_err(FileError::at(path))?.to_string_lossy().into_owned()),
        false => None,
    };
    Ok(VolumeEntryStat {
        name: name_of(path),
        kind: kind(&found),
        path: path.to_owned(),
        size: i64::try_from(found.size()).unwrap_or(i64::MAX),
        mode: found.mode() & MODE,
        uid: found.uid(),
        gid: found.gid(),
        atime: time_of(found.atime(), found.atime_nsec()),
        mtime: time_of(found.mtime(), found.mtime_nsec()),
        ctime: time_of(found.ctime(), found.ctime_nsec()),
        target,
    })
}

fn kind(found: &Metadata) -> VolumeEntryType {
    match found.file_type() {
        kind if kind.is_file() => VolumeEntryType::File,
        kind if kind.is_dir() => VolumeEntryType::Directory,
        kind if kind.is_symlink() => VolumeEntryType::Symlink,
        _ => VolumeEntryType::Unknown,
    }
}

/// A file's time as the API tells it. One that no calendar has (whoever wrote the disk chose it)
/// is told as the epoch.
fn time_of(seconds: i64, nanoseconds: i64) -> String {
    let all = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let at = OffsetDateTime::from_unix_timestamp_nanos(all).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    at.format(&Rfc3339).unwrap_or_else(|_| "1970-01-01T00:00:00Z".to_owned())
}

/// By name, a folder before what is in it. Links are not followed but for the folder itself.
fn list(path: &str, depth: u32) -> Result<Vec<VolumeEntryStat>, FileError> {
    let mut entries = Vec::new();
    let mut folders = vec![(path.to_owned(), names(path)?.into_iter())];
    while let Some((folder, left)) = folders.last_mut() {
        let Some(name) = left.next() else {
            folders.pop();
            continue;
        };
        let path = format!("{}/{name}", folder.trim_end_matches('/'));
        let entry = match stat(&path) {
            Ok(entry) => entry,
            // Gone meanwhile.
            Err(FileError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if entries.len() == MAX_ENTRIES {
            return Err(FileError::TooMany(MAX_ENTRIES));
        }
        let is_dir = entry.kind == VolumeEntryType::Directory;
        entries.push(entry);
        if is_dir && folders.len() < usize::try_from(depth).unwrap_or(usize::MAX) {
            folders.push((path.clone(), names(&path)?.into_iter()));
        }
    }
    Ok(entries)
}

fn names(path: &str) -> Result<Vec<String>, FileError> {
    if !fs::metadata(path).map_err(FileError::at(path))?.is_dir() {
        return Err(FileError::NoDirectory(path.to_owned()));
    }
    tree::names(path)
}

fn make_dir(path: &str, new: &NewEntry) -> Result<VolumeEntryStat, FileError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() && new.force => return stat(path),
        Ok(_) => return Err(FileError::Exists(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(FileError::at(path)(error)),
    }
    let mut missing = Vec::new();
    let mut above = parent_of(path);
    while let (true, Some(folder)) = (new.force, above) {
        match fs::metadata(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(folder),
            Err(error) => return Err(FileError::at(path)(error)),
            Ok(_) => break,
        }
        above = parent_of(folder);
    }
    for folder in missing.into_iter().rev() {
        make_one(folder, &NewEntry::default())?;
    }
    make_one(path, new)?;
    stat(path)
}

fn make_one(path: &str, new: &NewEntry) -> Result<(), FileError> {
    let above = fs::metadata(parent_of(path).unwrap_or("/")).map_err(FileError::at(path))?;
    DirBuilder::new().mode(FOLDER).create(path).map_err(FileError::at(path))?;
    let Owner { uid, gid } = new.owner(&above);
    chown(path, Some(uid), Some(gid)).map_err(FileError::at(path))?;
    if let Some(mode) = new.mode {
        tree::set_mode(path, mode)?;
    }
    sync_entry(path)?;
    sync_parent(path)
}

/// Unlike E2B's other way in, this makes no folder for a file, and writes over one only if it is
/// told to.
fn take(path: &str, new: &NewEntry, pieces: mpsc::Receiver<Piece>) -> Result<VolumeEntryStat, FileError> {
    let like = like(path, new.force)?;
    let upload = Upload {
        path: path.to_owned(),
        metadata: [].into(),
        gzip: false,
        mode: new.mode,
        owner: Some(new.owner(&like)),
        sync: true,
    };
    upload.take(pieces)?;
    sync_parent(path)?;
    stat(path)
}

/// Whose a file is to be that is written: as the one before, or as its folder.
fn like(path: &str, force: bool) -> Result<Metadata, FileError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(FileError::Directory(path.to_owned())),
        Ok(found) if !found.is_file() => Err(FileError::NoFile(path.to_owned())),
        Ok(_) if !force => Err(FileError::Exists(path.to_owned())),
        Ok(found) => Ok(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = parent_of(path).unwrap_or("/");
            fs::metadata(above).map_err(FileError::at(above))
        }
        Err(error) => Err(FileError::at(path)(error)),
    }
}

fn parent_of(path: &str) -> Option<&str> {
    Path::new(path).parent().and_then(Path::to_str)
}

/// Has on disk what was changed of a file or a folder: its folder's entries do not say whose it is.
fn sync_entry(path: &str) -> Result<(), FileError> {
    let found = fs::metadata(path).map_err(FileError::at(path))?;
    if found.is_file() || found.is_dir() {
        File::open(path).and_then(|entry| entry.sync_all()).map_err(FileError::at(path))?;
    }
    Ok(())
}

/// Has a folder's entries on disk.
fn sync_parent(path: &str) -> Result<(), FileError> {
    let folder = parent_of(path).unwrap_or("/");
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(FileError::at(folder))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree(dir: &tempfile::TempDir) -> FileTree {
        FileTree::new(dir.path(), FileWorkers::default())
    }

    async fn put(tree: &FileTree, path: &str, new: NewEntry, text: &str) -> Result<VolumeEntryStat, FileError> {
        let (pieces, taken) = mpsc::channel(2);
        pieces.send(Piece::Bytes(Bytes::from(text.to_owned()))).await.unwrap();
        pieces.send(Piece::End).await.unwrap();
        tree.receive(path.to_owned(), new, taken).await
    }

    #[tokio::test]
    async fn no_path_and_no_link_leads_out_of_the_tree() {
        needs::needs!(root);
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("secret"), "host's").unwrap();
        let outside = other.path().join("secret");
        symlink(&outside, dir.path().join("absolute")).unwrap();
        symlink("../../../../../../etc/passwd", dir.path().join("relative")).unwrap();
        symlink("/", dir.path().join("top")).unwrap();
        let tree = tree(&dir);
        for path in ["absolute", "relative", "/../../../../etc/passwd", outside.to_str().unwrap()] {
            let found = tree.open(path.to_owned()).await.unwrap_err();
            assert!(
                matches!(&found, FileError::Io { error, .. } if error.kind() == io::ErrorKind::NotFound),
                "{path}: {found}"
            );
        }
        // A link to the root is a link to the tree's.
        let listed = tree.list("top".to_owned(), 1).await.unwrap();
        assert_eq!(listed.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["absolute", "relative", "top"]);
        assert_eq!(listed[0].kind, VolumeEntryType::Symlink);
        assert_eq!(listed[0].target.as_deref(), outside.to_str());
        // What is written through one stays inside, too.
        let force = NewEntry { force: true, ..NewEntry::default() };
        assert!(put(&tree, "absolute", force, "guest's").await.is_err());
        assert_eq!(fs::read_to_string(outside).unwrap(), "host's");
        assert!(Path::new("/etc/passwd").exists(), "this thread has its own root still");
    }

    #[tokio::test]
    async fn what_is_written_is_whole_and_belongs_to_the_folders_owner_unless_said() {
        needs::needs!(root);
        let dir = tempfile::tempdir().unwrap();
        let tree = tree(&dir);
        chown(dir.path(), Some(1000), Some(1001)).unwrap();
        let made = put(&tree, "notes.txt", NewEntry::default(), "one").await.unwrap();
        assert_eq!(
            (made.path.as_str(), made.size, made.uid, made.gid, made.mode),
            ("/notes.txt", 3, 1000, 1001, 0o644)
        );
        assert!(matches!(put(&tree, "notes.txt", NewEntry::default(), "two").await, Err(FileError::Exists(_))));
        let force = NewEntry { force: true, ..NewEntry::default() };
        assert_eq!(put(&tree, "notes.txt", force, "three").await.unwrap().size, 5);
        let given = NewEntry { uid: Some(7), gid: Some(8), mode: Some(FileMode::of(0o600).unwrap()), force: true };
        let made = put(&tree, "/notes.txt", given, "four").await.unwrap();
        assert_eq!((made.uid, made.gid, made.mode), (7, 8, 0o600));
        assert!(put(&tree, "none/notes.txt", NewEntry::default(), "x").await.is_err(), "no folder is made for it");
        assert!(!dir.path().join("none").exists());
        // One that breaks off leaves what was there.
        let (pieces, taken) = mpsc::channel(2);
        pieces.send(Piece::Bytes(Bytes::from_static(b"half"))).await.unwrap();
        drop(pieces);
        assert!(tree.receive("notes.txt".to_owned(), force, taken).await.is_err());
        assert_eq!(fs::read_to_string(dir.path().join("notes.txt")).unwrap(), "four");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn folders_are_made_with_their_parents_only_by_force_and_removed_with_all_in_them() {
        needs::needs!(root);
        let dir = tempfile::tempdir().unwrap();
        let tree = tree(&dir);
        let deep = || "a/b/c".to_owned();
        assert!(tree.make_dir(deep(), NewEntry::default()).await.is_err());
        let given = NewEntry { uid: Some(5), force: true, mode: Some(FileMode::of(0o700).unwrap()), gid: None };
        let made = tree.make_dir(deep(), given).await.unwrap();
        assert_eq!((made.uid, made.mode, made.kind), (5, 0o700, VolumeEntryType::Directory));
        assert_eq!(tree.stat("a/b".to_owned()).await.unwrap().uid, 0);
        assert_eq!(tree.make_dir(deep(), given).await.unwrap().path, "/a/b/c");
        assert!(matches!(tree.make_dir(deep(), NewEntry::default()).await, Err(FileError::Exists(_))));
        let listed = tree.list("/".to_owned(), 9).await.unwrap();
        assert_eq!(listed.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["/a", "/a/b", "/a/b/c"]);
        let change = VolumeEntryChange { uid: Some(9), gid: None, mode: Some(0o750) };
        let changed = tree.change("a".to_owned(), change).await.unwrap();
        assert_eq!((changed.uid, changed.gid, changed.mode), (9, 0, 0o750));
        let wrong = VolumeEntryChange { mode: Some(0o4755), ..VolumeEntryChange::default() };
        assert!(matches!(tree.change("a".to_owned(), wrong).await, Err(FileError::Malformed(_))));
        tree.remove("a".to_owned()).await.unwrap();
        assert!(tree.remove("a".to_owned()).await.is_err(), "what is not there is not removed");
        for path in ["/", "..", "a/.."] {
            assert!(tree.remove(path.to_owned()).await.is_err(), "{path}");
        }
        assert!(matches!(tree.stat(String::new()).await, Err(FileError::Malformed(_))));
        assert!(dir.path().exists());
    }
}
