//! Folders: listed, made, moved, removed. All of it runs with the rights of its thread.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use rustix::path::Arg;
use wire::filesystem::EntryInfo;

use super::entry::EntryReader;
use super::error::FileError;
use super::mode::FileMode;

/// Entries of one answer.
pub(crate) const MAX_ENTRIES: usize = 10_000;
/// Folders within folders that are removed at once: each is open meanwhile.
const MAX_LEVELS: usize = 1024;
/// The permissions of a folder that is made.
const FOLDER: u32 = 0o755;

/// What is at a path.
pub(crate) fn stat(path: &str) -> Result<EntryInfo, FileError> {
    EntryReader::new().read(path)
}

/// Makes a folder, and those that it is in.
pub(crate) fn make_dir(path: &str) -> Result<EntryInfo, FileError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Err(FileError::Exists(path.to_owned())),
        Ok(_) => return Err(FileError::NoDirectory(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(FileError::at(path)(error)),
    }
    ensure_dir(path)?;
    stat(path)
}

/// Makes a folder where it is not there, and those that it is in.
pub(super) fn ensure_dir(path: &str) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(FOLDER).create(path).map_err(FileError::at(path))
}

/// Makes the folder of a file where it is not there.
pub(super) fn ensure_parent(path: &str) -> Result<(), FileError> {
    let parent = Path::new(path).parent().and_then(Path::to_str);
    parent.map_or(Ok(()), ensure_dir)
}

/// Gives a file or a folder other permissions.
pub(crate) fn set_mode(path: &str, mode: FileMode) -> Result<EntryInfo, FileError> {
    fs::set_permissions(path, Permissions::from_mode(mode.bits())).map_err(FileError::at(path))?;
    stat(path)
}

/// Gives a file or a folder another path.
pub(crate) fn move_to(source: &str, destination: &str) -> Result<EntryInfo, FileError> {
    // The source first: a folder is not made for what is not there.
    fs::symlink_metadata(source).map_err(FileError::at(source))?;
    ensure_parent(destination)?;
    fs::rename(source, destination).map_err(FileError::at(source))?;
    stat(destination)
}

/// Removes a file, or a folder with all that is in it. What is not there is removed.
pub(crate) fn remove(path: &str) -> Result<(), FileError> {
    if Path::new(path).file_name().is_none() {
        return Err(FileError::Root);
    }
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => remove_folder(path)?,
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(FileError::at(path)),
    }
}

/// Removes what is in a folder, then the folder. It goes from folder to folder by open
/// descriptors, so that no link that is put there meanwhile leads it elsewhere, and
/// without recursion, so that no tree is too deep for the stack.
fn remove_folder(path: &str) -> Result<io::Result<()>, FileError> {
    let mut open = match Dir::new(open_folder(CWD, path).map_err(|error| FileError::at(path)(error.into()))?) {
        Ok(dir) => vec![(dir, Box::<OsStr>::from(OsStr::new(path)))],
        Err(error) => return Ok(Err(error.into())),
    };
    while let Some((dir, _)) = open.last_mut() {
        let Some(entry) = dir.read() else {
            let Some((_, name)) = open.pop() else { break };
            if let Some((parent, _)) = open.last() {
                unlink(parent, &name, AtFlags::REMOVEDIR).map_err(|error| FileError::at(path)(error.into()))?;
            }
            continue;
        };
        let entry = entry.map_err(|error| FileError::at(path)(error.into()))?;
        let name: Box<OsStr> = OsStr::from_bytes(entry.file_name().to_bytes()).into();
        if matches!(name.as_bytes(), b"." | b"..") {
            continue;
        }
        match unlink(dir, &name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::ISDIR) if open.len() < MAX_LEVELS => {
                let Some((dir, _)) = open.last() else { break };
                let within = dir.fd().and_then(|dir| open_folder(dir, &*name)).and_then(Dir::new);
                open.push((within.map_err(|error| FileError::at(path)(error.into()))?, name));
            }
            Err(Errno::ISDIR) => return Err(FileError::TooDeep(MAX_LEVELS)),
            Err(error) => return Err(FileError::at(path)(error.into())),
        }
    }
    Ok(fs::remove_dir(path))
}

fn open_folder(dir: impl AsFd, name: impl Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

/// What another one removed meanwhile is removed.
fn unlink(dir: &Dir, name: &OsStr, flags: AtFlags) -> rustix::io::Result<()> {
    match unlinkat(dir.fd()?, name, flags) {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}

/// Tells what is in a folder, so many levels deep: by name, a folder before what is in it.
/// Links are not followed but for the folder itself.
pub(crate) fn list(path: &str, depth: u32, mut tell: impl FnMut(EntryInfo)) -> Result<(), FileError> {
    let resolved = fs::canonicalize(path).map_err(FileError::at(path))?;
    if !resolved.is_dir() {
        return Err(FileError::NoDirectory(path.to_owned()));
    }
    // The folder itself must be readable; one within it that is not is told without what is in it.
    let mut reader = EntryReader::new();
    let mut folders = vec![(path.to_owned(), names(path)?.into_iter())];
    let mut left = MAX_ENTRIES;
    while let Some((folder, names_left)) = folders.last_mut() {
        let Some(name) = names_left.next() else {
            folders.pop();
            continue;
        };
        let path = format!("{}/{name}", folder.trim_end_matches('/'));
        let entry = match reader.read(&path) {
            Ok(entry) => entry,
            // Gone meanwhile.
            Err(FileError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let deeper = folders.len() < usize::try_from(depth).unwrap_or(usize::MAX) && entry.permissions.starts_with('d');
        left = left.checked_sub(1).ok_or(FileError::TooMany(MAX_ENTRIES))?;
        tell(entry);
        if deeper {
            match names(&path) {
                Ok(names) => folders.push((path, names.into_iter())),
                Err(FileError::Io { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// The names in a folder that are text, in their order.
pub(super) fn names(path: &str) -> Result<Vec<String>, FileError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(FileError::at(path))? {
        let entry = entry.map_err(FileError::at(path))?;
        if names.len() == MAX_ENTRIES {
            return Err(FileError::TooMany(MAX_ENTRIES));
        }
        // A name that is no text can be named by nobody who asks.
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn listed(path: &str, depth: u32) -> Vec<String> {
        let mut seen = Vec::new();
        list(path, depth, |entry| seen.push(entry.path.strip_prefix(path).unwrap().to_owned())).unwrap();
        seen
    }

    #[test]
    fn a_folder_is_listed_as_deep_as_asked_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| format!("{}/{name}", dir.path().to_str().unwrap());
        make_dir(&path("top/b/c/d")).unwrap();
        fs::write(path("top/a"), "").unwrap();
        fs::write(path("top/b/c/x"), "").unwrap();
        symlink(path("top/b"), path("top/link")).unwrap();
        let top = path("top");
        assert_eq!(listed(&top, 0), ["/a", "/b", "/link"]);
        assert_eq!(listed(&top, 2), ["/a", "/b", "/b/c", "/link"]);
        assert_eq!(listed(&top, 9), ["/a", "/b", "/b/c", "/b/c/d", "/b/c/x", "/link"]);
        assert_eq!(listed(&path("top/link"), 1), ["/c"], "the folder itself may be a link");
        assert!(matches!(list(&path("top/a"), 1, |_| ()), Err(FileError::NoDirectory(_))));
        assert!(matches!(list(&path("none"), 1, |_| ()), Err(FileError::Io { .. })));
    }

    #[test]
    fn a_folder_is_given_permissions_that_give_no_more_rights() {
        let dir = tempfile::tempdir().unwrap();
        let path = format!("{}/top", dir.path().to_str().unwrap());
        make_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o2755)).unwrap();
        let entry = set_mode(&path, "510".parse().unwrap()).unwrap();
        assert_eq!((entry.mode, &*entry.permissions), (0o510, "dr-x--x---"));
        assert!(set_mode(&format!("{path}/none"), "700".parse().unwrap()).is_err());
    }

    #[test]
    fn an_answer_has_so_many_entries_at_most() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        for folder in ["a", "b"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
            for number in 0..MAX_ENTRIES / 2 {
                fs::write(dir.path().join(folder).join(number.to_string()), "").unwrap();
            }
        }
        assert_eq!(listed(path, 1).len(), 2);
        assert!(matches!(list(path, 2, |_| ()), Err(FileError::TooMany(MAX_ENTRIES))));
    }

    #[test]
    fn what_is_made_is_moved_and_removed_with_all_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| format!("{}/{name}", dir.path().to_str().unwrap());
        make_dir(&path("a/b")).unwrap();
        assert!(matches!(make_dir(&path("a/b")), Err(FileError::Exists(_))));
        fs::write(path("a/b/file"), "x").unwrap();
        assert!(matches!(make_dir(&path("a/b/file")), Err(FileError::NoDirectory(_))));
        assert!(make_dir(&path("a/b/file/c")).is_err());
        symlink(path("a/b"), path("link")).unwrap();
        assert_eq!(move_to(&path("a/b/file"), &path("new/folder/file")).unwrap().path, path("new/folder/file"));
        assert!(move_to(&path("absent"), &path("other/file")).is_err());
        assert!(!Path::new(&path("other")).exists(), "no folder is made for nothing");
        remove(&path("link")).unwrap();
        assert!(Path::new(&path("a/b")).exists(), "a link is removed, not what it leads to");
        remove(&path("a")).unwrap();
        remove(&path("a")).unwrap();
        assert!(!Path::new(&path("a")).exists());
        let mut deep = path("deep");
        (0..400).for_each(|_| deep.push_str("/d"));
        ensure_dir(&deep).unwrap();
        remove(&path("deep")).unwrap();
        assert!(!Path::new(&path("deep")).exists());
        assert!(matches!(remove("/"), Err(FileError::Root)));
        assert!(matches!(remove("/a/.."), Err(FileError::Root)));
    }
}
