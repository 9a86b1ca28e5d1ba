//! One file out of several pieces.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, fchown};

use wire::filesystem::UploadedFile;

use super::download::open;
use super::error::FileError;
use super::mode::FileMode;
use super::rights::start;
use super::tree::ensure_parent;
use super::upload::{Owner, WriteTarget};
use crate::process::User;

/// Puts files together, in their order, as this user; they are removed when the whole is there.
pub(crate) async fn compose(
    sources: Vec<String>,
    destination: String,
    mode: Option<FileMode>,
    user: &User,
) -> Result<UploadedFile, FileError> {
    start(user, move |_| join(&sources, destination, mode, None)).await
}

/// With `kept` the whole is this owner's, and on disk when it is there.
pub(super) fn join(
    sources: &[String],
    destination: String,
    mode: Option<FileMode>,
    kept: Option<Owner>,
) -> Result<UploadedFile, FileError> {
    if sources.contains(&destination) {
        return Err(FileError::Malformed(format!("{destination:?} cannot be a piece of itself")));
    }
    // All of them first: nothing is made for pieces that are not there, nor is the whole removed as
    // one of them, which it may be by another path.
    let there = fs::metadata(&destination).ok().map(|found| (found.dev(), found.ino()));
    for source in sources {
        let found = open(source)?.file.metadata().map_err(FileError::at(source))?;
        if there == Some((found.dev(), found.ino())) {
            return Err(FileError::Malformed(format!("{destination:?} is its own piece {source:?}")));
        }
    }
    ensure_parent(&destination)?;
    let target = WriteTarget::open(&destination)?;
    for source in sources {
        let mut piece: File = open(source)?.file;
        io::copy(&mut piece, &mut target.file()).map_err(FileError::at(&destination))?;
    }
    if let Some(Owner { uid, gid }) = kept {
        let on_disk = fchown(target.file(), Some(uid), Some(gid)).and_then(|()| target.file().sync_all());
        on_disk.map_err(FileError::at(&destination))?;
    }
    let whole = target.finish(destination, &[].into(), mode)?;
    for source in sources {
        // The whole is there: a piece that stays is no failure of it.
        let _ = fs::remove_file(source);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_one_file_and_are_gone_and_nothing_happens_where_one_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let names = ["2", "1", "3"].map(path);
        for (name, text) in names.iter().zip(["one ", "two ", "three"]) {
            fs::write(name, text).unwrap();
        }
        fs::write(path("whole"), "old").unwrap();
        let missing = [names[0].clone(), path("none")];
        assert!(matches!(join(&missing, path("whole"), None, None), Err(FileError::Io { .. })));
        assert!(matches!(join(&names, names[1].clone(), None, None), Err(FileError::Malformed(_))));
        assert_eq!(fs::read(path("whole")).unwrap(), b"old");
        std::os::unix::fs::symlink(dir.path(), path("link")).unwrap();
        for itself in
            ["../".to_owned() + dir.path().file_name().unwrap().to_str().unwrap() + "/whole", "link/whole".to_owned()]
        {
            let refused = join(&[path(&itself), path("1")], path("whole"), None, None);
            assert!(matches!(refused, Err(FileError::Malformed(_))), "{refused:?}");
            assert_eq!(fs::read(path("whole")).unwrap(), b"old");
        }
        fs::remove_file(path("link")).unwrap();
        assert_eq!(join(&names, path("whole"), None, None).unwrap().path, path("whole"));
        assert_eq!(fs::read(path("whole")).unwrap(), b"one two three");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
