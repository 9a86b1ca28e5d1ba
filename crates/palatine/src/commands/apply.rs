//! Changes made true in a folder here.
//!
//! Every folder on the way to a file is opened by itself and no link is followed, so that nothing outside is reached,
//! whatever the folder has of links. All is looked at before anything is written: what is no longer as it was copied is
//! somebody else's work, and then nothing is.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fchmod, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::changes::Change;
use super::folder::{Folder, contents};

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);
/// What a file that is being written is called, beside the one that it becomes.
const DRAFT: &str = ".palatine-run.draft";

/// Makes these changes, all of them or, where one cannot be made safely, none.
///
/// # Errors
/// Something here is not as it was copied, or cannot be written: what was written before that stays.
pub(crate) fn apply(folder: &Folder, changes: &[Change], most: u64) -> Result<()> {
    let gone = changes.iter().filter(|change| change.after.is_none()).count();
    if gone > 0 && gone == folder.files.len() {
        bail!("nothing is changed here: of all that was copied the agent has no file any more");
    }
    let root = openat(CWD, &folder.root, FOLDER, Mode::empty()).with_context(|| folder.root.display().to_string())?;
    let odd: Vec<_> = changes.iter().filter_map(|change| conflict(folder, &root, change, most)).collect();
    if !odd.is_empty() {
        bail!("nothing is changed here: {}", odd.join("; "));
    }
    changes.iter().try_for_each(|change| make(&root, change).with_context(|| format!("change {:?}", change.path)))
}

/// What here is not as it was when it was copied.
fn conflict(folder: &Folder, root: &OwnedFd, change: &Change, most: u64) -> Option<String> {
    let path = &change.path;
    let (parents, name) = split(path);
    // What has no folder yet is not there.
    let there = match parent(root, &parents, false) {
        Ok(parent) => match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Some(FileType::from_raw_mode(found.st_mode)),
            Err(Errno::NOENT) => None,
            Err(error) => return Some(format!("{path:?}: {error}")),
        },
        Err(Errno::NOENT) => None,
        Err(Errno::NOTDIR | Errno::LOOP) => return Some(format!("{path:?} is in what is no folder here")),
        Err(error) => return Some(format!("{path:?}: {error}")),
    };
    match (&change.before, there) {
        (None, None) => None,
        (None, Some(_)) => Some(format!("{path:?} is here and was not copied")),
        (Some(_), None) => Some(format!("{path:?} is gone here")),
        (Some(before), Some(FileType::RegularFile)) => {
            let same = contents(&folder.root.join(path), most).is_ok_and(|now| now == *before);
            (!same).then(|| format!("{path:?} was changed here meanwhile"))
        }
        (Some(_), Some(_)) => Some(format!("{path:?} is no file here")),
    }
}

fn split(path: &str) -> (Vec<&str>, &str) {
    let mut parts: Vec<_> = path.split('/').collect();
    let name = parts.pop().unwrap_or_default();
    (parts, name)
}

/// Opens the folder of these names, one after the other; makes them where that is asked for.
fn parent(root: &OwnedFd, names: &[&str], make: bool) -> Result<OwnedFd, Errno> {
    let mut at = root.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    for name in names {
        if make {
            match mkdirat(&at, *name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        at = openat(&at, *name, FOLDER, Mode::empty())?;
    }
    Ok(at)
}

fn make(root: &OwnedFd, change: &Change) -> Result<()> {
    let (parents, name) = split(&change.path);
    let Some(after) = &change.after else {
        unlinkat(parent(root, &parents, false)?, name, AtFlags::empty())?;
        remove_empty(root, &parents);
        return Ok(());
    };
    let parent = parent(root, &parents, true)?;
    // Of a file that is here its owner's word counts, of a new one the umask.
    let kept = change.before.as_ref().map(|_| statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)).transpose()?;
    let mode = if after.is_program { 0o777 } else { 0o666 };
    let first = kept.map_or(mode, |_| 0o600);
    // One that was left by a run that was killed.
    let _ = unlinkat(&parent, DRAFT, AtFlags::empty());
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut draft = File::from(openat(&parent, DRAFT, flags, Mode::from_raw_mode(first))?);
    let written = (|| {
        draft.write_all(&after.bytes)?;
        if let Some(kept) = kept {
            fchmod(&draft, permissions(Mode::from_raw_mode(kept.st_mode), after.is_program))?;
        }
        draft.sync_all()?;
        Ok(renameat(&parent, DRAFT, &parent, name)?)
    })();
    if written.is_err() {
        let _ = unlinkat(&parent, DRAFT, AtFlags::empty());
    }
    written
}

/// A file's permissions, once it may be run, or may not: by those who may read it.
fn permissions(mode: Mode, is_program: bool) -> Mode {
    let mode = mode & Mode::from_raw_mode(0o777);
    let run = Mode::from_raw_mode(0o111);
    if is_program { mode | (Mode::from_raw_mode(mode.bits() >> 2) & run) } else { mode.difference(run) }
}

/// Removes folders that hold nothing any more, as git does.
fn remove_empty(root: &OwnedFd, names: &[&str]) {
    let mut names = names;
    while let Some((last, rest)) = names.split_last() {
        let Ok(at) = parent(root, rest, false) else { return };
        if unlinkat(at, *last, AtFlags::REMOVEDIR).is_err() {
            return;
        }
        names = rest;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;
    use crate::commands::folder::{Bounds, Contents};

    const MOST: u64 = 1000;

    fn text(text: &str) -> Option<Contents> {
        Some(Contents { bytes: text.as_bytes().to_vec(), is_program: false })
    }

    fn change(path: &str, before: Option<Contents>, after: Option<Contents>) -> Change {
        Change { path: path.to_owned(), before, after }
    }

    fn copied() -> (TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("a"), "1").unwrap();
        fs::write(dir.path().join("sub/b"), "2").unwrap();
        let folder = Folder::read(dir.path(), Bounds::default()).unwrap();
        (dir, folder)
    }

    #[test]
    fn files_are_written_made_and_removed_with_the_folders_that_hold_nothing_more() {
        let (dir, folder) = copied();
        let program = Contents { bytes: b"#!/bin/sh\n".to_vec(), is_program: true };
        let changes = [
            change("a", text("1"), text("one")),
            change("new/deep/run", None, Some(program)),
            change("sub/b", text("2"), None),
        ];
        apply(&folder, &changes, MOST).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!((read("a"), read("new/deep/run")), ("one".to_owned(), "#!/bin/sh\n".to_owned()));
        assert!(!dir.path().join("sub").exists());
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        fs::write(dir.path().join("made"), "").unwrap();
        assert_eq!(mode("a"), mode("made"), "the umask's");
        assert_eq!(mode("new/deep/run") & 0o100, 0o100);
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
    }

    #[test]
    fn no_link_is_followed_and_nothing_outside_is_reached() {
        let (dir, folder) = copied();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("file"), "mine").unwrap();
        symlink(elsewhere.path(), dir.path().join("folder")).unwrap();
        symlink(elsewhere.path().join("file"), dir.path().join("link")).unwrap();
        symlink(elsewhere.path().join("none"), dir.path().join("dangling")).unwrap();
        for path in ["folder/file", "folder/new", "link", "dangling"] {
            let refused = apply(&folder, &[change(path, None, text("evil"))], MOST);
            assert!(refused.unwrap_err().to_string().starts_with("nothing is changed here"), "{path}");
        }
        // One that became a link after it was copied.
        fs::remove_file(dir.path().join("a")).unwrap();
        symlink(elsewhere.path().join("file"), dir.path().join("a")).unwrap();
        for after in [text("evil"), None] {
            assert!(apply(&folder, &[change("a", text("1"), after)], MOST).is_err());
        }
        fs::remove_dir_all(dir.path().join("sub")).unwrap();
        symlink(elsewhere.path(), dir.path().join("sub")).unwrap();
        fs::write(elsewhere.path().join("b"), "2").unwrap();
        assert!(apply(&folder, &[change("sub/b", text("2"), None)], MOST).is_err());
        let mut left: Vec<_> =
            fs::read_dir(elsewhere.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["b", "file"]);
        assert_eq!(fs::read(elsewhere.path().join("file")).unwrap(), b"mine");
    }

    #[test]
    fn an_agent_that_has_lost_all_takes_nothing_with_it() {
        let (dir, folder) = copied();
        let changes = [change("a", text("1"), None), change("new", None, text("x")), change("sub/b", text("2"), None)];
        assert!(apply(&folder, &changes, MOST).unwrap_err().to_string().contains("no file any more"));
        assert!(dir.path().join("a").exists() && !dir.path().join("new").exists());
    }

    #[test]
    fn a_file_keeps_its_permissions_but_for_whether_it_may_be_run() {
        let (dir, folder) = copied();
        let path = dir.path().join("a");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let program = Contents { bytes: b"2".to_vec(), is_program: true };
        apply(&folder, &[change("a", text("1"), Some(program.clone()))], MOST).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        apply(&folder, &[change("a", Some(program), text("2"))], MOST).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_was_changed_here_meanwhile_keeps_all_as_it_is() {
        let (dir, folder) = copied();
        fs::write(dir.path().join("sub/b"), "changed here").unwrap();
        fs::write(dir.path().join("new"), "mine").unwrap();
        let changes = [
            change("a", text("1"), text("one")),
            change("new", None, text("the agent's")),
            change("sub/b", text("2"), text("two")),
        ];
        let said = apply(&folder, &changes, MOST).unwrap_err().to_string();
        assert!(
            said.contains("\"new\" is here and was not copied") && said.contains("\"sub/b\" was changed"),
            "{said}"
        );
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!([read("a"), read("new"), read("sub/b")], ["1", "mine", "changed here"]);
    }
}
