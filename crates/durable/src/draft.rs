//! A file before it has its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::folder::parent;

/// Random bytes in the name of a draft: no two makers have the same.
const NAME_BYTES: usize = 8;

/// A file that is being made.
pub(crate) enum TempFile {
    /// In no folder: it goes with whoever holds it.
    Nameless(File),
    /// Under a name of its own, where the file system knows no others.
    Named(File, PathBuf),
}

impl TempFile {
    /// One in the folder of this path.
    pub(crate) fn beside(path: &Path) -> io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        match open(parent(path), flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(Self::Nameless(file.into())),
            Err(error) if is_unknown(error) => Self::named(path),
            Err(error) => Err(error.into()),
        }
    }

    fn named(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_string_lossy();
        let mut random = [0; NAME_BYTES];
        getrandom(&mut random, GetRandomFlags::empty())?;
        let draft = path.with_file_name(format!(".{name}.{:016x}", u64::from_ne_bytes(random)));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        Ok(Self::Named(file, draft))
    }

    pub(crate) fn file(&mut self) -> &mut File {
        match self {
            Self::Nameless(file) | Self::Named(file, _) => file,
        }
    }

    /// Gives it this name too, unless something has it.
    pub(crate) fn publish(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Nameless(file) => {
                let held = format!("/proc/self/fd/{}", file.as_raw_fd());
                Ok(linkat(CWD, held, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
            }
            Self::Named(_, draft) => fs::hard_link(draft, path),
        }
    }

    /// Takes the name back under which it was written.
    pub(crate) fn tidy(self) -> io::Result<()> {
        match self {
            Self::Nameless(_) => Ok(()),
            Self::Named(_, draft) => fs::remove_file(draft),
        }
    }
}

/// What a file system says that knows no files without a name, or a kernel.
fn is_unknown(error: Errno) -> bool {
    matches!(error, Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn fault_1_4_drafts_with_names_are_each_makers_own_and_the_first_to_finish_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let mut drafts: Vec<TempFile> = (0..4).map(|_| TempFile::named(&path).unwrap()).collect();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
        for (number, draft) in drafts.iter_mut().enumerate() {
            write!(draft.file(), "{number}").unwrap();
        }
        let won: Vec<bool> = drafts.iter().map(|draft| draft.publish(&path).is_ok()).collect();
        assert_eq!(won, [true, false, false, false]);
        drafts.into_iter().for_each(|draft| draft.tidy().unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "0");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
