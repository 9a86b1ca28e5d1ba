//! Files on their way out.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::time::SystemTime;

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::error::FileError;
use super::own::refuse_own;

/// A file that is open for reading.
#[derive(Debug)]
pub(crate) struct Download {
    /// The file. Its rights were looked at when it was opened.
    pub(crate) file: File,
    /// Bytes; `None` of a file whose bytes are made as it is read.
    pub(crate) size: Option<u64>,
    /// When it was written last.
    pub(crate) modified: SystemTime,
    /// A strong validator: other bytes have another one.
    pub(crate) tag: String,
}

/// Opens a file. A pipe or a device is none: the one would wait, the other never end.
pub(crate) fn open(path: &str) -> Result<Download, FileError> {
    let at = || FileError::at(path);
    regular(&fs::metadata(path).map_err(at())?, path)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, path, flags, Mode::empty()).map_err(|error| at()(error.into()))?);
    let found = file.metadata().map_err(at())?;
    regular(&found, path)?;
    refuse_own(&file, path)?;
    let tag = format!("\"{:x}-{:x}-{:x}.{:x}\"", found.ino(), found.size(), found.mtime(), found.mtime_nsec());
    let size = Some(found.len()).filter(|size| *size > 0 || !is_made(&file));
    Ok(Download { file, size, modified: found.modified().unwrap_or(SystemTime::UNIX_EPOCH), tag })
}

fn regular(found: &fs::Metadata, path: &str) -> Result<(), FileError> {
    match found.file_type() {
        kind if kind.is_dir() => Err(FileError::Directory(path.to_owned())),
        kind if !kind.is_file() => Err(FileError::NoFile(path.to_owned())),
        _ => Ok(()),
    }
}

/// Whether its bytes are the kernel's, who knows no size of them before.
fn is_made(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|found| super::upload::KERNELS.contains(&found.f_type))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_file_is_open_with_its_size_and_a_tag_that_changes_with_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let path = path.to_str().unwrap();
        fs::write(path, "hello").unwrap();
        let first = open(path).unwrap();
        assert_eq!(first.size, Some(5));
        fs::write(path, "longer").unwrap();
        assert_ne!(open(path).unwrap().tag, first.tag);
        fs::write(path, "").unwrap();
        assert_eq!(open(path).unwrap().size, Some(0));
        assert!(matches!(open(dir.path().to_str().unwrap()), Err(FileError::Directory(_))));
        assert!(matches!(open("/dev/zero"), Err(FileError::NoFile(_))));
        assert!(matches!(open("/nowhere"), Err(FileError::Io { .. })));
    }

    #[test]
    fn the_kernels_files_are_read_and_this_programs_own_are_not() {
        let mut made = open("/proc/meminfo").unwrap();
        let mut text = String::new();
        made.file.read_to_string(&mut text).unwrap();
        assert_eq!((made.size, text.contains("MemTotal")), (None, true));
        let pid = std::process::id();
        for own in ["/proc/self/mem".to_owned(), "/proc/thread-self/environ".to_owned(), format!("/proc/{pid}/maps")] {
            assert!(matches!(open(&own), Err(FileError::Own(_))), "{own}");
        }
    }
}
