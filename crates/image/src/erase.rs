//! Removes folders that strangers have filled, however deep.
//!
//! The library's own way takes an open file and a piece of the stack for each folder within
//! another, and a build makes as many of those as it likes.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, open, openat, renameat, unlinkat};
use rustix::io::Errno;
use rustix::path::Arg;

/// How a folder is called in which those that go lie beside each other.
const PLACE: &str = "going-";

/// Removes a folder with all in it. Each folder within is moved to the top before it is looked
/// into. What is there of one that was cut off is in a folder beside it, and removed as any.
pub(crate) fn erase_folder(path: &Path) -> io::Result<()> {
    let beside = path.parent().unwrap_or(path);
    let place = tempfile::Builder::new().prefix(PLACE).tempdir_in(beside)?.keep();
    if let Err(error) = fs::rename(path, place.join("0")) {
        fs::remove_dir(place)?;
        return Err(error);
    }
    let top = open(&place, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let (mut next, mut at) = (1_u64, 0_u64);
    while at < next {
        let name = at.to_string();
        let found = empty_into(&top, &open_folder(&top, name.as_str())?, &mut next)?;
        match unlinkat(&top, name.as_str(), AtFlags::REMOVEDIR) {
            Ok(()) => at += 1,
            // Not all that is in a folder is seen while things leave it.
            Err(Errno::NOTEMPTY) if found => {}
            Err(error) => return Err(error.into()),
        }
    }
    fs::remove_dir(place)
}

/// Removes the files of a folder, and moves its folders to the top; whether there was anything.
fn empty_into(top: &OwnedFd, folder: &OwnedFd, next: &mut u64) -> io::Result<bool> {
    let mut found = false;
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        found = true;
        match unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => {
                renameat(folder, name, top, next.to_string())?;
                *next += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

fn open_folder(at: impl AsFd, name: impl Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use rustix::fs::mkdirat;

    use super::*;

    #[test]
    fn a_folder_of_any_depth_is_removed_and_nothing_that_a_link_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let (deep, kept) = (dir.path().join(".tmp1.work"), dir.path().join("kept"));
        fs::create_dir(&deep).unwrap();
        fs::write(&kept, "kept").unwrap();
        for number in 0..100 {
            fs::create_dir(deep.join(number.to_string())).unwrap();
            fs::write(deep.join(number.to_string()).join("file"), "x").unwrap();
        }
        std::os::unix::fs::symlink(dir.path(), deep.join("link")).unwrap();
        fs::hard_link(&kept, deep.join("same")).unwrap();
        let mut at = open_folder(rustix::fs::CWD, &deep).unwrap();
        for _ in 0..3_000 {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = open_folder(&at, "d").unwrap();
        }
        drop(at);
        erase_folder(&deep).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(kept).unwrap(), "kept");
        assert!(erase_folder(&deep).is_err_and(|error| error.kind() == io::ErrorKind::NotFound));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
