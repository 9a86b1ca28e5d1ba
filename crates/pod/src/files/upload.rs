//! Files that come from outside: whole, or not at all.
//!
//! An upload goes to a temporary file beside its target and takes its place when all of
//! it is there, so that one that breaks off, or finds the disk full, leaves what was
//! there. What is no regular file of a disk (a device, a file of `/proc`) is written
//! where it is, and so is what a link leads to that leads nowhere yet.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC, openat, statfs};
use tokio::sync::mpsc;
use wire::filesystem::{UploadedFile, UploadedType};

use super::error::FileError;
use super::metadata;
use super::mode::{FileMode, PERMISSIONS};
use super::own::refuse_own;
use super::paths::{UploadKind, name_of};
use super::rights::start;
use super::tree::ensure_parent;
use crate::process::User;

/// The permissions of a file that is new.
const FILE: u32 = 0o644;
/// Filesystems whose files are the kernel's.
pub(super) const KERNELS: [i64; 4] = [PROC_SUPER_MAGIC, 0x6265_6572, 0x6367_7270, 0x0027_e0eb];

/// What an upload is, and where it goes.
#[derive(Debug)]
pub(crate) struct Upload {
    /// An absolute path.
    pub(crate) path: String,
    /// What is said of it.
    pub(crate) metadata: BTreeMap<String, String>,
    /// Whether its bytes come compressed.
    pub(crate) gzip: bool,
    /// Its permissions, where they are said.
    pub(crate) mode: Option<FileMode>,
    /// Whose it is, where that is said; of one that takes another's place the other's else.
    pub(crate) owner: Option<Owner>,
    /// Whether it is on disk, and not only in memory, when it is there.
    pub(crate) sync: bool,
}

/// User and group of a file, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What comes of an upload. One that ends without its end is broken off.
#[derive(Debug)]
pub(crate) enum Piece {
    /// The next bytes.
    Bytes(Bytes),
    /// There are no more.
    End,
}

/// Takes an upload in, as this user.
pub(crate) async fn receive(
    upload: Upload,
    user: &User,
    pieces: mpsc::Receiver<Piece>,
) -> Result<UploadedFile, FileError> {
    start(user, move |_| upload.take(pieces)).await
}

impl Upload {
    /// Takes it in, in a thread that has its user's rights.
    pub(super) fn take(self, mut pieces: mpsc::Receiver<Piece>) -> Result<UploadedFile, FileError> {
        ensure_parent(&self.path)?;
        let target = WriteTarget::open(&self.path)?;
        let mut sink = Sink::new(target.file(), self.gzip);
        loop {
            match pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => sink.write(&bytes).map_err(|error| wrong(&self.path, error))?,
                Some(Piece::End) => break,
                None => return Err(FileError::BrokenOff("its end did not come")),
            }
        }
        sink.finish().map_err(|error| wrong(&self.path, error))?;
        if let Some(Owner { uid, gid }) = self.owner {
            fchown(target.file(), Some(uid), Some(gid)).map_err(FileError::at(&self.path))?;
        }
        if self.sync {
            target.file().sync_all().map_err(FileError::at(&self.path))?;
        }
        target.finish(self.path, &self.metadata, self.mode)
    }
}

/// The kernel's own errors are of the file; the others of the bytes.
fn wrong(path: &str, error: io::Error) -> FileError {
    match error.raw_os_error() {
        Some(_) => FileError::at(path)(error),
        None => FileError::Malformed(format!("the body is not gzip, as its headers say: {error}")),
    }
}

/// Where bytes go.
enum Sink<'a> {
    Plain(&'a File),
    Gzip(Box<MultiGzDecoder<&'a File>>),
}

impl<'a> Sink<'a> {
    fn new(file: &'a File, gzip: bool) -> Self {
        if gzip { Self::Gzip(Box::new(MultiGzDecoder::new(file))) } else { Self::Plain(file) }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(bytes),
            Self::Gzip(decoder) => decoder.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Gzip(mut decoder) => decoder.try_finish(),
        }
    }
}

/// A file that is being written.
pub(super) enum WriteTarget {
    /// One that takes the place of another when it is whole.
    Beside { file: File, temporary: Temporary, becomes: PathBuf, mode: u32 },
    /// One that can only be written where it is.
    InPlace(File),
}

impl WriteTarget {
    /// Opens what a path leads to for writing.
    pub(super) fn open(path: &str) -> Result<Self, FileError> {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => Err(FileError::Directory(path.to_owned())),
            Ok(found) if found.is_file() && !is_kernels(path)? => {
                let becomes = fs::canonicalize(path).map_err(FileError::at(path))?;
                Self::beside(becomes, UploadKind::Replacement, found.mode() & PERMISSIONS)
            }
            Ok(found) if found.is_file() || found.file_type().is_char_device() => Self::in_place(path),
            Ok(_) => Err(FileError::NoFile(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let link = fs::symlink_metadata(path).is_ok();
                if link { Self::in_place(path) } else { Self::beside(path.into(), UploadKind::New, FILE) }
            }
            Err(error) => Err(FileError::at(path)(error)),
        }
    }

    fn beside(becomes: PathBuf, kind: UploadKind, mode: u32) -> Result<Self, FileError> {
        let shown = becomes.to_string_lossy().into_owned();
        let number = getrandom::u64().map_err(|error| FileError::Thread(io::Error::other(error)))?;
        let temporary = becomes.with_file_name(kind.temporary_name(number));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(CWD, &temporary, flags, Mode::from_raw_mode(mode))
            .map_err(|error| FileError::at(&shown)(error.into()))?;
        Ok(Self::Beside { file: file.into(), temporary: Temporary(Some(temporary)), becomes, mode })
    }

    fn in_place(path: &str) -> Result<Self, FileError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat(CWD, path, flags, Mode::from_raw_mode(FILE));
        let file = File::from(file.map_err(|error| FileError::at(path)(error.into()))?);
        refuse_own(&file, path)?;
        Ok(Self::InPlace(file))
    }

    /// Where its bytes go.
    pub(super) const fn file(&self) -> &File {
        match self {
            Self::Beside { file, .. } | Self::InPlace(file) => file,
        }
    }

    /// All of it is written: it takes its place.
    pub(super) fn finish(
        self,
        path: String,
        metadata: &BTreeMap<String, String>,
        asked: Option<FileMode>,
    ) -> Result<UploadedFile, FileError> {
        metadata::write(self.file(), metadata).map_err(|error| FileError::at(&path)(error.into()))?;
        if let Self::Beside { file, temporary, becomes, mode } = self {
            let replaced = fs::symlink_metadata(&becomes).is_ok().then_some(mode);
            if let Some(mode) = asked.map(FileMode::bits).or(replaced) {
                file.set_permissions(fs::Permissions::from_mode(mode)).map_err(FileError::at(&path))?;
            }
            temporary.become_file(&becomes).map_err(FileError::at(&path))?;
        }
        let name = name_of(&path);
        // Of a filesystem that keeps none, nothing is claimed.
        Ok(UploadedFile { metadata: metadata::read(&path), path, name, kind: UploadedType::File })
    }
}

fn is_kernels(path: &str) -> Result<bool, FileError> {
    let found = statfs(path).map_err(|error| FileError::at(path)(error.into()))?;
    Ok(KERNELS.contains(&found.f_type))
}

/// A temporary file; removed where it does not become another.
pub(super) struct Temporary(Option<PathBuf>);

impl Temporary {
    fn become_file(mut self, path: &Path) -> io::Result<()> {
        let Some(temporary) = self.0.take() else { return Ok(()) };
        let renamed = fs::rename(&temporary, path);
        if renamed.is_err() {
            self.0 = Some(temporary);
        }
        renamed
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // It may be gone with its folder.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn upload(path: &Path, pieces: Vec<Piece>, gzip: bool) -> Result<UploadedFile, FileError> {
        let (sender, receiver) = mpsc::channel(pieces.len().max(1));
        pieces.into_iter().for_each(|piece| sender.try_send(piece).unwrap());
        drop(sender);
        let metadata = [("author".to_owned(), "mish".to_owned())].into();
        Upload { path: path.to_str().unwrap().to_owned(), metadata, gzip, mode: None, owner: None, sync: false }
            .take(receiver)
    }

    fn bytes(text: &'static str) -> Piece {
        Piece::Bytes(Bytes::from_static(text.as_bytes()))
    }

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn an_upload_is_there_whole_and_one_that_breaks_off_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let done = upload(&path, vec![bytes("one "), bytes("two"), Piece::End], false).unwrap();
        assert_eq!((done.path.as_str(), done.name.as_str()), (path.to_str().unwrap(), "b"));
        assert_eq!(fs::read(&path).unwrap(), b"one two");
        assert!(matches!(upload(&path, vec![bytes("half")], false), Err(FileError::BrokenOff(_))));
        assert_eq!(fs::read(&path).unwrap(), b"one two");
        assert_eq!(names(&dir.path().join("a")), ["b"], "nothing is left beside it");
        assert!(matches!(upload(&dir.path().join("a"), vec![Piece::End], false), Err(FileError::Directory(_))));
    }

    #[test]
    fn a_replaced_file_keeps_its_permissions_and_the_link_that_leads_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4710)).unwrap();
        symlink("file", &link).unwrap();
        upload(&link, vec![bytes("new"), Piece::End], false).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o710);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let lost = dir.path().join("lost");
        symlink("target", &lost).unwrap();
        upload(&lost, vec![bytes("new"), Piece::End], false).unwrap();
        assert_eq!(fs::read(dir.path().join("target")).unwrap(), b"new");
    }

    #[test]
    fn compressed_bytes_are_unpacked_and_what_is_not_compressed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"unpacked").unwrap();
        let packed = Bytes::from(encoder.finish().unwrap());
        upload(&path, vec![Piece::Bytes(packed.clone()), Piece::End], true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"unpacked");
        for bad in [Bytes::from_static(b"plain"), packed.slice(..packed.len() - 9)] {
            let refused = upload(&path, vec![Piece::Bytes(bad), Piece::End], true);
            assert!(matches!(refused, Err(FileError::Malformed(_))), "{refused:?}");
        }
        assert_eq!((fs::read(&path).unwrap(), names(dir.path())), (b"unpacked".to_vec(), vec!["file".to_owned()]));
    }

    #[test]
    fn a_device_takes_bytes_and_a_pipe_is_refused() {
        upload(Path::new("/dev/null"), vec![bytes("x"), Piece::End], false).unwrap();
        let own = upload(Path::new("/proc/self/comm"), vec![bytes("x"), Piece::End], false);
        assert!(matches!(own, Err(FileError::Own(_))), "{own:?}");
        let full = upload(Path::new("/dev/full"), vec![bytes("x"), Piece::End], false).unwrap_err();
        assert_eq!(wire::filesystem::FilesError::from(full).code, 507);
    }
}
