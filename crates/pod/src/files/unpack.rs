//! An archive becomes a tree.
//!
//! What comes is a stranger's. Each entry is made in its folder by descriptors, on a way without links;
//! a name that leads elsewhere, a device, a head without an end is refused by its name and the place in
//! the archive, and then nothing of it was ever there ([`super::staging`]).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chownat, fchmod, fchown,
    futimens, linkat, mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::EntryType;
use tokio::sync::mpsc;
use wire::content::ImportedArchive;

use super::attributes;
use super::error::FileError;
use super::heads::{Entry, Source, bad, new_sparse, next, of, shown};
use super::staging::{self, LOST_AND_FOUND, STAGING, Staging};
use super::upload::Piece;

/// The permissions of a folder that the archive does not name itself.
const FOLDER: u32 = 0o755;
/// Folders within folders.
const MAX_DEPTH: usize = 512;
/// Folders of one archive: their times are set when all is there.
const MAX_FOLDERS: usize = 500_000;

/// How an archive is taken in.
#[derive(Clone, Debug)]
pub(crate) struct ImportRequest {
    /// By which the same archive is known when it is sent again.
    pub(crate) name: String,
    /// Whether it takes the place of what is there.
    pub(crate) replace: bool,
}

/// Takes an archive in: all of it is on disk, or nothing.
pub(super) fn unpack(
    root: &Path,
    request: &ImportRequest,
    pieces: mpsc::Receiver<Piece>,
) -> Result<ImportedArchive, FileError> {
    if !request.name.is_empty() && staging::is_from(root, &request.name) {
        return Ok(ImportedArchive::default());
    }
    if !request.replace {
        staging::must_be_empty(root)?;
    }
    let staging = Staging::begin(root, &request.name)?;
    let mut unpacking = Unpacking::begin(&staging.folder())?;
    let mut source = Source::new(pieces);
    while let Some(entry) = next(&mut source)? {
        unpacking.take(entry, &mut source)?;
    }
    source.must_end()?;
    let imported = unpacking.finish()?;
    staging.place(request.replace)?;
    Ok(imported)
}

/// A tree that is being made.
struct Unpacking {
    root: OwnedFd,
    /// Whose folders are that the archive does not name.
    owner: (Uid, Gid),
    /// The folder of the last entry.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Their times, which change while they are filled.
    folders: Vec<(Vec<u8>, Timespec)>,
    done: ImportedArchive,
}

impl Unpacking {
    fn begin(root: &Path) -> Result<Self, FileError> {
        let wrong = |error: io::Error| FileError::at(&root.to_string_lossy())(error);
        let found = fs::metadata(root).map_err(wrong)?;
        let owner = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
        let root = openat(CWD, root, FOLDER_FLAGS, Mode::empty()).map_err(|error| wrong(error.into()))?;
        Ok(Self { root, owner, last: None, folders: Vec::new(), done: ImportedArchive::default() })
    }

    fn take(&mut self, mut entry: Entry, source: &mut Source) -> Result<(), FileError> {
        let path = plain(&entry.path)?;
        // Every disk has its own.
        if path == LOST_AND_FOUND.as_bytes() && entry.kind == EntryType::Directory {
            return skip(source, entry.stored);
        }
        let top = path.split(|byte| *byte == b'/').next().unwrap_or_default();
        if top == STAGING.as_bytes() || top == LOST_AND_FOUND.as_bytes() {
            return Err(bad(format!("{}: a name that no volume keeps", shown(&entry.path))));
        }
        let at = |error: io::Error| FileError::at(&format!("/{}", shown(&path)))(error);
        if path.is_empty() {
            if entry.kind != EntryType::Directory {
                return Err(bad(format!("{:?}: a name of nothing", shown(&entry.path))));
            }
            let root = self.root.try_clone().map_err(at)?;
            self.folder(&path, &root, &entry).map_err(at)?;
            self.done.entries += 1;
            return skip(source, entry.stored);
        }
        let (folder, name) = self.parent(&path)?;
        let name = OsStr::from_bytes(&name);
        match entry.kind {
            EntryType::Directory => {
                make_folder(&folder, name, self.owner).map_err(|error| told(&path, error))?;
                let made = openat(&folder, name, FOLDER_FLAGS, Mode::empty()).map_err(|error| at(error.into()))?;
                self.folder(&path, &made, &entry).map_err(at)?;
                skip(source, entry.stored)?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                make_way(&folder, name).map_err(|error| told(&path, error))?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(&folder, name, flags, Mode::from_raw_mode(0o600));
                let file = File::from(file.map_err(|error| at(error.into()))?);
                self.fill(&file, &mut entry, source).map_err(|why| of(&path, why))?;
                self.dress(&file, &entry).map_err(at)?;
                self.done.files += 1;
            }
            EntryType::Link => {
                let target = plain(&entry.link).map_err(|why| of(&path, why))?;
                let (from, first) = self.parent(&target)?;
                make_way(&folder, name).map_err(|error| told(&path, error))?;
                linkat(&from, OsStr::from_bytes(&first), &folder, name, AtFlags::empty()).map_err(
                    |error| match error {
                        Errno::NOENT => bad(format!("{}: {} is not before it", shown(&path), shown(&target))),
                        error => at(error.into()),
                    },
                )?;
                skip(source, entry.stored)?;
            }
            EntryType::Symlink => {
                make_way(&folder, name).map_err(|error| told(&path, error))?;
                symlinkat(OsStr::from_bytes(&entry.link), &folder, name).map_err(|error| at(error.into()))?;
                dress_name(&folder, name, &entry).map_err(|error| at(error.into()))?;
                skip(source, entry.stored)?;
            }
            EntryType::Fifo => self.node(&folder, name, FileType::Fifo, &entry).map_err(|error| told(&path, error))?,
            EntryType::Char if is_whiteout(&entry) => {
                self.node(&folder, name, FileType::CharacterDevice, &entry).map_err(|error| told(&path, error))?;
            }
            EntryType::Char | EntryType::Block => {
                return Err(bad(format!("{}: a device, and a volume keeps none", shown(&entry.path))));
            }
            other => {
                let kind = char::from(other.as_byte());
                return Err(bad(format!("{}: an entry of the kind {kind:?}, which is not known", shown(&entry.path))));
            }
        }
        self.done.entries += 1;
        Ok(())
    }

    /// The folder that something lies in, and its name there. Folders that the archive does not name
    /// are made.
    fn parent(&mut self, path: &[u8]) -> Result<(OwnedFd, Vec<u8>), FileError> {
        let (folder, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path),
        };
        let wrong = |error: Errno| told(path, error);
        let same = self.last.as_ref().filter(|(last, _)| last == folder);
        let found = match same {
            Some((_, found)) => found.try_clone().map_err(FileError::at(&shown(path)))?,
            None => self.open(folder).map_err(wrong)?,
        };
        let kept = found.try_clone().map_err(FileError::at(&shown(path)))?;
        self.last = Some((folder.to_vec(), kept));
        Ok((found, name.to_vec()))
    }

    fn open(&self, folder: &[u8]) -> rustix::io::Result<OwnedFd> {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let whole = if folder.is_empty() { b".".as_slice() } else { folder };
        match openat2(&self.root, OsStr::from_bytes(whole), FOLDER_FLAGS, Mode::empty(), beneath) {
            Err(Errno::NOENT) => {}
            found => return found,
        }
        let mut at = openat(&self.root, ".", FOLDER_FLAGS, Mode::empty())?;
        for part in folder.split(|byte| *byte == b'/') {
            let part = OsStr::from_bytes(part);
            at = match openat2(&at, part, FOLDER_FLAGS, Mode::empty(), beneath) {
                Err(Errno::NOENT) => {
                    make_folder(&at, part, self.owner)?;
                    openat2(&at, part, FOLDER_FLAGS, Mode::empty(), beneath)?
                }
                found => found?,
            };
        }
        Ok(at)
    }

    /// Whose a folder is, and how. Its time comes at the end.
    fn folder(&mut self, path: &[u8], folder: &OwnedFd, entry: &Entry) -> io::Result<()> {
        if self.folders.len() == MAX_FOLDERS {
            return Err(io::Error::other(format!("the archive has more than {MAX_FOLDERS} folders")));
        }
        self.folders.push((path.to_vec(), entry.modified));
        self.dress(folder, entry)
    }

    /// Gives a file or folder all that is told of it.
    fn dress(&mut self, file: impl AsFd, entry: &Entry) -> io::Result<()> {
        fchown(&file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
        fchmod(&file, Mode::from_raw_mode(entry.mode))?;
        for (name, value) in &entry.attributes {
            if !attributes::write(&file, name, value)? {
                self.done.attributes_left_out += 1;
            }
        }
        Ok(futimens(file, &times(entry.modified))?)
    }

    fn node(&mut self, folder: &OwnedFd, name: &OsStr, kind: FileType, entry: &Entry) -> rustix::io::Result<()> {
        make_way(folder, name)?;
        mknodat(folder, name, kind, Mode::from_raw_mode(entry.mode), 0)?;
        dress_name(folder, name, entry)
    }

    /// Writes the bytes of a file where they belong.
    fn fill(&mut self, file: &File, entry: &mut Entry, source: &mut Source) -> Result<(), FileError> {
        let path = shown(&entry.path);
        let wrong = || FileError::at(&path);
        let mut stored = entry.stored;
        let sparse = match entry.sparse.take() {
            Some((real, parts)) if entry.kind != EntryType::GNUSparse && parts.is_empty() => {
                let (found, taken) = new_sparse(real, stored, source)?;
                stored -= taken;
                Some(found)
            }
            sparse => sparse,
        };
        let (size, parts) = sparse.unwrap_or_else(|| (stored, vec![(0, stored)]));
        for (mut offset, mut left) in parts {
            while left > 0 {
                let bytes = source.take(left)?;
                if bytes.is_empty() {
                    return Err(bad(format!("the archive is cut off in it, at byte {}", source.at)));
                }
                file.write_all_at(&bytes, offset).map_err(wrong())?;
                (offset, left) = (offset + bytes.len() as u64, left - bytes.len() as u64);
            }
        }
        if file.metadata().map_err(wrong())?.size() < size {
            file.set_len(size).map_err(wrong())?;
        }
        self.done.bytes += stored;
        source.pad(stored)
    }

    /// The folders' times, the inner ones first.
    fn finish(mut self) -> Result<ImportedArchive, FileError> {
        for (path, modified) in std::mem::take(&mut self.folders).into_iter().rev() {
            let set = self.open(&path).and_then(|folder| futimens(folder, &times(modified)));
            match set {
                // Something else has taken its place since.
                Ok(()) | Err(Errno::NOTDIR | Errno::NOENT | Errno::LOOP) => {}
                Err(error) => return Err(FileError::at(&shown(&path))(error.into())),
            }
        }
        Ok(self.done)
    }
}

const FOLDER_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A path within the archive, without what means nothing; one that leads out of it is refused.
fn plain(name: &[u8]) -> Result<Vec<u8>, FileError> {
    if name.first() == Some(&b'/') {
        return Err(bad(format!("{}: an absolute path; make the archive of relative ones", shown(name))));
    }
    if name.contains(&0) {
        return Err(bad(format!("{}: a name with a NUL byte in it", shown(name))));
    }
    let parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.iter().any(|part| *part == b"..") {
        return Err(bad(format!("{}: a path that leads out of the archive", shown(name))));
    }
    if parts.len() > MAX_DEPTH {
        return Err(bad(format!("{}: more than {MAX_DEPTH} folders within each other", shown(name))));
    }
    Ok(parts.join(&b'/'))
}

/// Why something cannot be where it is to be.
fn told(path: &[u8], error: Errno) -> FileError {
    match error {
        Errno::LOOP | Errno::XDEV => bad(format!("{}: its way leads over a link", shown(path))),
        Errno::NOTDIR => bad(format!("{}: its way leads over what is no folder, or a link", shown(path))),
        Errno::ISDIR => bad(format!("{}: a folder has this name already", shown(path))),
        error => FileError::at(&format!("/{}", shown(path)))(error.into()),
    }
}

fn make_folder(at: &OwnedFd, name: &OsStr, (uid, gid): (Uid, Gid)) -> rustix::io::Result<()> {
    match mkdirat(at, name, Mode::from_raw_mode(FOLDER)) {
        Ok(()) => chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW),
        // What is there is a folder, or in the way of one.
        Err(Errno::EXIST) => match FileType::from_raw_mode(statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode) {
            FileType::Directory => Ok(()),
            _ => Err(Errno::NOTDIR),
        },
        Err(error) => Err(error),
    }
}

/// The later of two entries of one name is the one that is meant.
fn make_way(at: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    match unlinkat(at, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

fn dress_name(at: &OwnedFd, name: &OsStr, entry: &Entry) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    utimensat(at, name, &times(entry.modified), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(modified: Timespec) -> Timestamps {
    Timestamps { last_access: modified, last_modification: modified }
}

/// What an overlay has removed of the layer below it.
fn is_whiteout(entry: &Entry) -> bool {
    entry.device == Some((0, 0))
}

fn skip(source: &mut Source, mut stored: u64) -> Result<(), FileError> {
    let padding = stored;
    while stored > 0 {
        let bytes = source.take(stored)?;
        if bytes.is_empty() {
            return Err(bad(format!("the archive is cut off at byte {}", source.at)));
        }
        stored -= bytes.len() as u64;
    }
    source.pad(padding)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown, symlink};
    use std::process::Command;

    use bytes::Bytes;
    use rustix::fs::{XattrFlags, lgetxattr, setxattr};
    use tar::{Builder, Header};

    use super::super::pack;
    use super::*;

    /// What came of an archive that is sent in pieces of this size.
    fn import(root: &Path, bytes: &[u8], piece: usize, replace: bool) -> Result<ImportedArchive, FileError> {
        let (sender, receiver) = mpsc::channel(4);
        let pieces: Vec<_> = bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
        let sending = std::thread::spawn(move || {
            for piece in pieces {
                if sender.blocking_send(Piece::Bytes(piece)).is_err() {
                    return;
                }
            }
            let _ = sender.blocking_send(Piece::End);
        });
        let done = unpack(root, &ImportRequest { name: String::new(), replace }, receiver);
        sending.join().unwrap();
        done
    }

    /// The archive of a folder, from this byte on.
    fn export(root: &Path, from: u64) -> Vec<u8> {
        let plan = pack::plan(root, Some(64)).unwrap();
        let (sender, mut receiver) = mpsc::channel(4);
        let root = root.to_owned();
        let length = plan.length;
        std::thread::spawn(move || pack::send(&root, Some(64), &plan, from, sender));
        let mut bytes = Vec::new();
        while let Some(piece) = receiver.blocking_recv() {
            bytes.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(bytes.len() as u64, length - from);
        bytes
    }

    fn at(seconds: i64, nanoseconds: i64) -> Timestamps {
        times(Timespec { tv_sec: seconds, tv_nsec: nanoseconds })
    }

    /// A folder with one of all that a volume may have.
    fn full() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("a/b")).unwrap();
        fs::write(path("a/file"), "what it holds").unwrap();
        fs::set_permissions(path("a/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::hard_link(path("a/file"), path("a/second")).unwrap();
        fs::write(path("empty"), "").unwrap();
        let long = format!("a/b/{}", "é".repeat(110));
        fs::write(path(&long), "long").unwrap();
        symlink("../somewhere/else", path("a/link")).unwrap();
        symlink("x".repeat(300), path("a/far")).unwrap();
        let sparse = File::create(path("sparse")).unwrap();
        for number in 0..40 {
            sparse.write_all_at(&[7; 4096], number * 1024 * 1024).unwrap();
        }
        sparse.set_len(64 * 1024 * 1024 * 1024).unwrap();
        File::create(path("hole")).unwrap().set_len(1 << 20).unwrap();
        mknodat(CWD, path("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
        mknodat(CWD, path("whiteout"), FileType::CharacterDevice, Mode::from_raw_mode(0o600), 0).unwrap();
        mknodat(CWD, path("device"), FileType::CharacterDevice, Mode::from_raw_mode(0o600), rustix::fs::makedev(1, 3))
            .unwrap();
        setxattr(path("a/file"), "user.note", b"two\nlines\0 = x", XattrFlags::empty()).unwrap();
        setxattr(path("a"), "user.folder", b"", XattrFlags::empty()).unwrap();
        for (name, uid) in [("a/file", 1000), ("a/link", 4_000_000), ("a", wire::content::FIRST_USER), ("pipe", 7)] {
            std::os::unix::fs::lchown(path(name), Some(uid), Some(uid)).unwrap();
        }
        fs::set_permissions(path("a/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        for (name, time) in [("a/file", at(-5, 250)), ("a/link", at(1_000, 0)), ("a/b", at(2_000, 1)), ("a", at(3, 0))]
        {
            utimensat(CWD, path(name), &time, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        dir
    }

    /// All that can be seen of a tree.
    fn seen(root: &Path) -> Vec<String> {
        let (mut seen, mut folders) = (Vec::new(), vec![root.to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let found = fs::symlink_metadata(&path).unwrap();
                let name = path.strip_prefix(root).unwrap().display().to_string();
                if found.file_type().is_char_device() && found.rdev() != 0 {
                    continue;
                }
                if found.is_dir() {
                    folders.push(path.clone());
                }
                let held = if found.is_file() && found.len() < 1 << 20 { fs::read(&path).unwrap() } else { Vec::new() };
                let note = ["user.note", "user.folder"].map(|name| {
                    let mut value = [0; 64];
                    lgetxattr(&path, name, &mut value[..]).ok().map(|length| value[..length].to_vec())
                });
                seen.push(format!(
                    "{name} {:o} {}:{} {} {}.{} x{} {held:?} {note:?} {:?}",
                    found.mode(),
                    found.uid(),
                    found.gid(),
                    if found.is_dir() { 0 } else { found.size() },
                    found.mtime(),
                    found.mtime_nsec(),
                    if found.is_dir() { 0 } else { found.nlink() },
                    fs::read_link(&path).ok()
                ));
            }
        }
        seen.sort();
        seen
    }

    #[test]
    fn a_tree_is_the_same_after_it_was_an_archive_and_holes_take_no_room() {
        needs::needs!(root);
        let (here, there) = (full(), tempfile::tempdir().unwrap());
        let plan = pack::plan(here.path(), Some(64)).unwrap();
        assert_eq!((plan.left_out, plan.length < 2 * 1024 * 1024), (1, true), "{plan:?}");
        let bytes = export(here.path(), 0);
        for piece in [1 << 20, 700] {
            let done = import(there.path(), &bytes, piece, true).unwrap();
            assert_eq!((done.entries, done.attributes_left_out), (plan.entries, 0));
            assert_eq!(seen(there.path()), seen(here.path()));
        }
        let sparse = fs::metadata(there.path().join("sparse")).unwrap();
        assert!(sparse.len() == 64 << 30 && sparse.blocks() * 512 < 1 << 20, "{sparse:?}");
        let mut block = [0; 4097];
        File::open(there.path().join("sparse")).unwrap().read_exact_at(&mut block, 39 << 20).unwrap();
        assert_eq!((block[0], block[4095], block[4096]), (7, 7, 0));
        assert_eq!(export(there.path(), 0).len(), bytes.len());
    }

    #[test]
    fn an_archive_goes_on_at_any_byte_and_has_the_tag_of_what_it_is_of() {
        needs::needs!(root);
        let here = full();
        let (whole, plan) = (export(here.path(), 0), pack::plan(here.path(), Some(64)).unwrap());
        for from in (0..whole.len()).step_by(7_777).chain([1, 511, 512, 513, whole.len() - 1]) {
            assert!(export(here.path(), from as u64) == whole[from..], "{from}");
        }
        assert_eq!(pack::plan(here.path(), Some(64)).unwrap(), plan);
        fs::write(here.path().join("a/file"), "What it holds").unwrap();
        assert_ne!(pack::plan(here.path(), Some(64)).unwrap().tag, plan.tag);
    }

    #[test]
    fn gnu_tar_reads_what_is_written_here_and_what_it_writes_is_read() {
        needs::needs!(root);
        let (here, by_tar, back) = (full(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), export(here.path(), 0)).unwrap();
        let tar = |words: &[&str], folder: &Path| {
            let mut command = Command::new("tar");
            command.args(words).arg("--xattrs").arg("--xattrs-include=*").arg("--numeric-owner");
            let output = command.arg("-f").arg(file.path()).arg("-C").arg(folder).arg(".").output().unwrap();
            assert!(output.status.success(), "{words:?} {output:?}");
        };
        tar(&["-x", "-p", "--same-owner"], by_tar.path());
        assert_eq!(seen(by_tar.path()), seen(here.path()));
        fs::remove_file(here.path().join("device")).unwrap();
        for form in ["--format=posix", "--format=gnu"] {
            tar(&["-c", "-S", form], here.path());
            import(back.path(), &fs::read(file.path()).unwrap(), 1 << 16, true).unwrap();
            if form == "--format=posix" {
                assert_eq!(seen(back.path()), seen(here.path()));
            }
            let sparse = fs::metadata(back.path().join("sparse")).unwrap();
            assert!(sparse.len() == 64 << 30 && sparse.blocks() * 512 < 1 << 20, "{form} {sparse:?}");
        }
    }

    /// An archive of entries of these names, kinds and links, with a file before them.
    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        let mut add = |name: &str, kind: EntryType, link: &str| {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(kind);
            let held = if kind == EntryType::Regular { "held" } else { "" };
            header.set_size(held.len() as u64);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_device_major(8).unwrap();
            header.set_device_minor(0).unwrap();
            header.set_cksum();
            builder.append(&header, held.as_bytes()).unwrap();
        };
        add("first", EntryType::Regular, "");
        entries.iter().for_each(|(name, kind, link)| add(name, *kind, link));
        builder.into_inner().unwrap()
    }

    #[test]
    fn what_leads_elsewhere_or_is_no_file_is_refused_by_its_name_and_nothing_is_left() {
        needs::needs!(root);
        let (file, link) = (EntryType::Regular, EntryType::Symlink);
        for (entries, why) in [
            (&[("../x", file, "")][..], "../x: a path that leads out"),
            (&[("a/../../x", file, "")], "a/../../x: a path that leads out"),
            (&[("/etc/passwd", file, "")], "/etc/passwd: an absolute path"),
            (&[("a", link, "/"), ("a/x", file, "")], "a/x: its way leads over"),
            (&[("a", link, "."), ("a/b/x", file, "")], "a/b/x: its way leads over"),
            (&[("a", EntryType::Link, "/etc/passwd")], "a: /etc/passwd: an absolute path"),
            (&[("a", EntryType::Link, "../../etc/passwd")], "leads out of the archive"),
            (&[("a", EntryType::Link, "later")], "a: later is not before it"),
            (&[("sda", EntryType::Block, "")], "sda: a device"),
            (&[("tty", EntryType::Char, "")], "tty: a device"),
            (&[("first/x", file, "")], "first/x: its way leads over what is no folder"),
            (&[("a", EntryType::Directory, ""), ("a", file, "")], "a: a folder has this name"),
            (&[(".palatine-import/ready/x", file, "")], "a name that no volume keeps"),
            (&[(".", file, "")], "a name of nothing"),
            (&[("a", EntryType::new(b'V'), "")], "the kind 'V'"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let said = import(dir.path(), &archive(entries), 4096, false).unwrap_err().to_string();
            assert!(said.contains(why), "{why}: {said}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{why}");
        }
        let dir = tempfile::tempdir().unwrap();
        // Twice the same name: the later one is meant, and a link is not written through.
        let twice = archive(&[("a", link, "/etc/passwd"), ("a", file, ""), ("first", link, "x")]);
        import(dir.path(), &twice, 4096, false).unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"held");
        let said = import(dir.path(), &archive(&[]), 4096, false).unwrap_err().to_string();
        assert!(said.contains("not empty"), "{said}");
    }

    #[test]
    fn an_archive_that_is_cut_off_or_damaged_anywhere_leaves_nothing() {
        needs::needs!(root);
        let whole = archive(&[("b/c", EntryType::Regular, ""), ("d", EntryType::Directory, "")]);
        // Its end is one block of zeros: what follows may be missing.
        let end = whole.len() - 1024;
        for length in (0..end + 511).step_by(101).chain([end, end + 511]) {
            let dir = tempfile::tempdir().unwrap();
            let refused = import(dir.path(), &whole[..length], 300, false);
            assert!(refused.is_err(), "{length}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{length}");
        }
        for byte in (0..end).step_by(37) {
            let dir = tempfile::tempdir().unwrap();
            let mut bytes = whole.clone();
            bytes[byte] ^= 0x55;
            // Damaged contents are taken as they are; nothing panics, and nothing is half there.
            let done = import(dir.path(), &bytes, 4096, false).is_ok();
            assert_eq!(done, fs::read_dir(dir.path()).unwrap().count() > 0, "{byte}");
        }
    }

    #[test]
    fn what_has_no_end_is_refused_before_it_fills_the_memory() {
        needs::needs!(root);
        let dir = tempfile::tempdir().unwrap();
        for kind in [EntryType::XHeader, EntryType::GNULongName, EntryType::XGlobalHeader] {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(u64::MAX / 4);
            header.set_cksum();
            let said = import(dir.path(), header.as_bytes(), 512, false).unwrap_err().to_string();
            assert!(said.contains("1048576 at most"), "{said}");
        }
        let mut long = archive(&[]);
        long.resize(long.len() + 17 * 1024 * 1024, 0);
        let said = import(dir.path(), &long, 1 << 16, false).unwrap_err().to_string();
        assert!(said.contains("follow the archive's end"), "{said}");
        let mut header = Header::new_gnu();
        header.as_old_mut().name[0] = b'x';
        header.set_entry_type(EntryType::GNUSparse);
        header.set_size(512);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.sparse[0].set_offset(u64::MAX - 100);
        gnu.sparse[0].set_length(512);
        gnu.set_real_size(u64::MAX);
        header.set_cksum();
        let said = import(dir.path(), header.as_bytes(), 512, false).unwrap_err().to_string();
        assert!(said.contains("x: its parts lie over each other"), "{said}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_same_upload_is_done_once_and_another_one_finds_what_it_left() {
        needs::needs!(root);
        let dir = tempfile::tempdir().unwrap();
        chown(dir.path(), Some(1000), Some(1000)).unwrap();
        let send = |name: &str| {
            let (sender, receiver) = mpsc::channel(4);
            sender.try_send(Piece::Bytes(archive(&[("new/x", EntryType::Regular, "")]).into())).unwrap();
            sender.try_send(Piece::End).unwrap();
            unpack(dir.path(), &ImportRequest { name: name.to_owned(), replace: false }, receiver)
        };
        assert_eq!(send("one").unwrap().files, 2);
        assert_eq!(send("one").unwrap(), ImportedArchive::default());
        assert!(matches!(send("two"), Err(FileError::NotEmpty(_))));
        let made = fs::metadata(dir.path().join("new")).unwrap();
        assert_eq!((made.uid(), made.mode() & 0o777), (1000, 0o755), "what the archive does not name is the disk's");
    }
}
