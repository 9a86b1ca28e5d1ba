//! A directory that is an image's `/`, and what may be done below it.
//!
//! Every path goes through `openat2` with `RESOLVE_IN_ROOT`: the kernel itself
//! resolves symlinks with this directory as `/`. Only the last name of a path is
//! handled by itself, and never followed.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, chownat, fchmod, fchown,
    futimens, linkat, mkdirat, openat, openat2, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::path::{MAX_DEPTH, RelativePath};

/// Directories that whiteouts and replacements look into, below each other.
const MAX_REMOVAL_DEPTH: usize = 2 * MAX_DEPTH;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Owner, permissions and time of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
}

/// What an implied directory gets.
const IMPLIED: Attributes = Attributes { mode: 0o755, uid: 0, gid: 0, mtime: 0 };

/// An image's root. No operation changes the time of a directory by making or
/// removing something in it: only an entry of its own does.
#[derive(Debug)]
pub(crate) struct ImageRoot {
    directory: OwnedFd,
    /// What is added to the image's ids of users and groups.
    shift: u32,
}

/// Ids of users and groups that a root with shifted ids holds.
pub(crate) const SHIFTED_IDS: u32 = 1 << 16;

/// Which inodes a layer has made: what its own whiteouts spare.
pub(super) type CreatedInodes = HashSet<u64>;

impl ImageRoot {
    /// Makes an empty root.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Self::create_shifted(path, 0)
    }

    /// Makes an empty root whose owners are `shift` above those of the image: for
    /// whoever works in it in a user namespace of its own.
    pub(crate) fn create_shifted(path: &Path, shift: u32) -> io::Result<Self> {
        std::fs::create_dir(path)?;
        let directory = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
        let root = Self { directory, shift };
        set(&root.directory, root.implied())?;
        Ok(root)
    }

    /// An entry's attributes as they are on the disk; nothing where its owner has no place here.
    pub(super) fn placed(&self, attributes: Attributes) -> Option<Attributes> {
        if self.shift == 0 {
            return Some(attributes);
        }
        let placed = |id: u32| (id < SHIFTED_IDS).then_some(id + self.shift);
        Some(Attributes { uid: placed(attributes.uid)?, gid: placed(attributes.gid)?, ..attributes })
    }

    fn implied(&self) -> Attributes {
        Attributes { uid: self.shift, gid: self.shift, ..IMPLIED }
    }

    /// A regular file's bytes, at most `at_most`; nothing if it is not there.
    pub(crate) fn read(&self, path: &str, at_most: u64) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match openat2(&self.directory, path, flags, Mode::empty(), confined()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let mut bytes = Vec::new();
        file.take(at_most).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Makes or keeps the directory and sets its attributes.
    pub(super) fn directory(
        &self,
        path: &RelativePath,
        attributes: Attributes,
        made: &mut CreatedInodes,
    ) -> io::Result<()> {
        let Some((parent, name)) = path.split() else { return set(&self.directory, attributes) };
        let parent = self.parent(&parent, made)?;
        if kind(&parent, name)? != Some(FileType::Directory) {
            remove(&parent, name)?;
            steady(&parent, || mkdirat(&parent, name, Mode::RWXU))?;
        }
        let directory = openat(&parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        set(&directory, attributes)?;
        note(&directory, made)
    }

    /// A new file, empty, in the place of whatever was there.
    pub(super) fn file(&self, path: &RelativePath, made: &mut CreatedInodes) -> io::Result<File> {
        let (parent, name) = self.place(path, made)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = steady(&parent, || openat(&parent, &name[..], flags, Mode::RUSR | Mode::WUSR))?;
        note(&file, made)?;
        Ok(File::from(file))
    }

    /// A new symlink, in the place of whatever was there. Its target is only
    /// text here.
    pub(super) fn symlink(
        &self,
        path: &RelativePath,
        target: &[u8],
        with: Attributes,
        made: &mut CreatedInodes,
    ) -> io::Result<()> {
        let (parent, name) = self.place(path, made)?;
        steady(&parent, || symlinkat(target, &parent, &name[..]))?;
        let (uid, gid) = owner(with);
        chownat(&parent, &name[..], Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        utimensat(&parent, &name[..], &times(with), AtFlags::SYMLINK_NOFOLLOW)?;
        made.insert(statat(&parent, &name[..], AtFlags::SYMLINK_NOFOLLOW)?.st_ino);
        Ok(())
    }

    /// A second name for a file or symlink of the image; `false` if there is no
    /// such file.
    pub(super) fn link(
        &self,
        path: &RelativePath,
        target: &RelativePath,
        made: &mut CreatedInodes,
    ) -> io::Result<bool> {
        let Some((from, from_name)) = target.split() else { return Ok(false) };
        let Some(from) = self.existing(&from)? else { return Ok(false) };
        if !matches!(kind(&from, from_name)?, Some(FileType::RegularFile | FileType::Symlink)) {
            return Ok(false);
        }
        let inode = statat(&from, from_name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino;
        let (parent, name) = self.resolve(path, made)?;
        let already = statat(&parent, &name[..], AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| stat.st_ino == inode);
        if !already {
            remove(&parent, &name)?;
            steady(&parent, || linkat(&from, from_name, &parent, &name[..], AtFlags::empty()))?;
        }
        made.insert(inode);
        Ok(true)
    }

    /// Removes what lower layers have at this path.
    pub(super) fn whiteout(&self, path: &RelativePath, made: &CreatedInodes) -> io::Result<()> {
        let Some((parent, name)) = path.split() else { return Ok(()) };
        let Some(parent) = self.existing(&parent)? else { return Ok(()) };
        prune(&parent, name, made, MAX_REMOVAL_DEPTH).map(|_| ())
    }

    /// Removes what lower layers have in this directory.
    pub(super) fn opaque(&self, path: &RelativePath, made: &CreatedInodes) -> io::Result<()> {
        let Some(directory) = self.existing(path)? else { return Ok(()) };
        for name in names(&directory)? {
            prune(&directory, name.to_bytes(), made, MAX_REMOVAL_DEPTH)?;
        }
        Ok(())
    }

    /// The parent of a path and the name in it, which is free afterwards.
    fn place(&self, path: &RelativePath, made: &mut CreatedInodes) -> io::Result<(OwnedFd, Vec<u8>)> {
        let (parent, name) = self.resolve(path, made)?;
        remove(&parent, &name)?;
        Ok((parent, name))
    }

    fn resolve(&self, path: &RelativePath, made: &mut CreatedInodes) -> io::Result<(OwnedFd, Vec<u8>)> {
        let (parent, name) = path.split().ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?;
        Ok((self.parent(&parent, made)?, name.to_vec()))
    }

    /// The directory at this path, with its missing ancestors made.
    fn parent(&self, path: &RelativePath, made: &mut CreatedInodes) -> io::Result<OwnedFd> {
        match self.existing(path)? {
            Some(directory) => return Ok(directory),
            None => self.make_missing(path, made)?,
        }
        self.existing(path)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotADirectory))
    }

    fn make_missing(&self, path: &RelativePath, made: &mut CreatedInodes) -> io::Result<()> {
        for prefix in path.prefixes() {
            if self.existing(&prefix)?.is_some() {
                continue;
            }
            let Some((above, name)) = prefix.split() else { continue };
            let above = self.existing(&above)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotADirectory))?;
            steady(&above, || mkdirat(&above, name, Mode::RWXU))?;
            let directory = openat(&above, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
            set(&directory, self.implied())?;
            note(&directory, made)?;
        }
        Ok(())
    }

    fn existing(&self, path: &RelativePath) -> io::Result<Option<OwnedFd>> {
        match openat2(&self.directory, path.bytes(), DIRECTORY, Mode::empty(), confined()) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Sets an open file's or directory's owner, permissions and time.
pub(super) fn set(file: impl AsFd, attributes: Attributes) -> io::Result<()> {
    let (uid, gid) = owner(attributes);
    fchown(&file, Some(uid), Some(gid))?;
    fchmod(&file, Mode::from_bits_truncate(attributes.mode))?;
    Ok(futimens(&file, &times(attributes))?)
}

const fn confined() -> ResolveFlags {
    ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV)
}

fn owner(attributes: Attributes) -> (Uid, Gid) {
    (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid))
}

const fn times(attributes: Attributes) -> Timestamps {
    let at = Timespec { tv_sec: attributes.mtime, tv_nsec: 0 };
    Timestamps { last_access: at, last_modification: at }
}

/// Does something in a directory and gives the directory its time back.
fn steady<T>(directory: &OwnedFd, work: impl FnOnce() -> rustix::io::Result<T>) -> io::Result<T> {
    let before = rustix::fs::fstat(directory)?;
    let done = work()?;
    let mtime = Attributes { mtime: before.st_mtime, ..IMPLIED };
    futimens(directory, &times(mtime))?;
    Ok(done)
}

fn note(file: impl AsFd, made: &mut CreatedInodes) -> io::Result<()> {
    made.insert(rustix::fs::fstat(file)?.st_ino);
    Ok(())
}

fn stat(parent: &OwnedFd, name: &[u8]) -> io::Result<Option<Stat>> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn kind(parent: &OwnedFd, name: &[u8]) -> io::Result<Option<FileType>> {
    Ok(stat(parent, name)?.map(|stat| FileType::from_raw_mode(stat.st_mode)))
}

fn remove(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    prune(parent, name, &CreatedInodes::new(), MAX_REMOVAL_DEPTH).map(|_| ())
}

/// Removes `name` and all below it but what is in `spared` and the directories
/// that lead there; whether anything was spared.
fn prune(parent: &OwnedFd, name: &[u8], spared: &CreatedInodes, depth: usize) -> io::Result<bool> {
    let Some(stat) = stat(parent, name)? else { return Ok(false) };
    let mut keeps = spared.contains(&stat.st_ino);
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        if !keeps {
            steady(parent, || unlinkat(parent, name, AtFlags::empty()))?;
        }
        return Ok(keeps);
    }
    if depth == 0 {
        return Err(io::Error::other("directories are nested too deep"));
    }
    let directory = openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    for below in names(&directory)? {
        keeps |= prune(&directory, below.to_bytes(), spared, depth - 1)?;
    }
    if !keeps {
        steady(parent, || unlinkat(parent, name, AtFlags::REMOVEDIR))?;
    }
    Ok(keeps)
}

fn names(directory: &OwnedFd) -> io::Result<Vec<std::ffi::CString>> {
    let ours = |name: &CStr| !matches!(name.to_bytes(), b"." | b"..");
    let entries = Dir::read_from(directory)?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_owned()));
    Ok(names.collect::<rustix::io::Result<Vec<_>>>()?.into_iter().filter(|name| ours(name)).collect())
}
