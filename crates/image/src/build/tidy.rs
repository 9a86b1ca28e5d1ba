//! Takes out of a root what would be otherwise in the next build, and what no image needs.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::root::{FileKind, Tree};
use crate::ImageError;

/// Directories that are left empty.
const EMPTY: [&str; 9] = [
    "dev",
    "run",
    "tmp",
    "var/tmp",
    "var/cache/apt",
    "var/cache/ldconfig",
    "var/cache/man",
    "var/lib/apt/lists",
    "root/.cache",
];
/// Directories whose files go, and whose directories stay: they may have owners of their own.
const WITHOUT_FILES: [&str; 1] = ["var/log"];
/// Files that are of the machine that built, or its copies of what was before.
const GONE: [&str; 3] = ["etc/hostname", "etc/resolv.conf", "var/lib/systemd/random-seed"];
/// Files that must be there and say nothing: who boots gives itself an identity.
const BLANK: [&str; 1] = ["etc/machine-id"];
/// Where copies of what was before lie, and how they are named.
const COPIES: [(&str, &str); 3] = [("etc", "-"), ("var/lib/dpkg", "-old"), ("var/cache/debconf", "-old")];
/// Compiled Python: its folder, and the flag of what depends on no file's time and is not checked.
const COMPILED: &str = "__pycache__";
const UNCHECKED_HASH: u32 = 1;

/// What is to be done to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Removed,
    Blanked,
}

/// Tidies the root whose content this is, where nobody is at work.
pub(super) fn tidy(root: &Path, content: &Tree) -> Result<(), ImageError> {
    // From below: a directory goes after what is in it.
    for (path, file) in content.iter().rev() {
        let full = root.join(path);
        let failed = |source| ImageError::file("tidy", &full, source);
        match fate(path, file.kind) {
            Fate::Removed if file.kind == FileKind::Directory => fs::remove_dir(&full).map_err(failed)?,
            Fate::Removed => fs::remove_file(&full).map_err(failed)?,
            Fate::Blanked if file.size > 0 => {
                drop(File::options().write(true).truncate(true).open(&full).map_err(failed)?)
            }
            Fate::Blanked => {}
            Fate::Kept if is_stale(path, &full, file.kind).map_err(failed)? => {
                fs::remove_file(&full).map_err(failed)?;
                // What has other content stays.
                drop(fs::remove_dir(full.parent().unwrap_or(root)));
            }
            Fate::Kept => {}
        }
    }
    Ok(())
}

fn fate(path: &Path, kind: FileKind) -> Fate {
    let below = |dir: &&str| path.starts_with(dir) && path != Path::new(dir);
    let is_copy = |(dir, end): &(&str, &str)| {
        let name = path.file_name().and_then(|name| name.to_str());
        path.parent() == Some(Path::new(dir)) && kind == FileKind::File && name.is_some_and(|name| name.ends_with(end))
    };
    let is = |file: &&str| path == Path::new(file) && kind != FileKind::Directory;
    if EMPTY.iter().any(below) || GONE.iter().any(is) || COPIES.iter().any(is_copy) {
        return Fate::Removed;
    }
    if WITHOUT_FILES.iter().any(below) && kind != FileKind::Directory {
        return Fate::Removed;
    }
    if BLANK.iter().any(is) && kind == FileKind::File {
        return Fate::Blanked;
    }
    Fate::Kept
}

/// Whether this is compiled Python that depends on times, or that is checked at each start.
fn is_stale(path: &Path, full: &PathBuf, kind: FileKind) -> io::Result<bool> {
    let of_python = path.extension().is_some_and(|end| end == "pyc")
        && path.parent().and_then(Path::file_name).is_some_and(|dir| dir == COMPILED);
    if kind != FileKind::File || !of_python {
        return Ok(false);
    }
    // The magic number, then the flags (PEP 552).
    let mut head = Vec::new();
    File::open(full)?.take(8).read_to_end(&mut head)?;
    let flags = head.get(4..8).and_then(|flags| Some(u32::from_le_bytes(flags.try_into().ok()?)));
    Ok(flags != Some(UNCHECKED_HASH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::root::tree;

    #[test]
    fn what_is_of_one_build_or_one_machine_goes_and_all_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let compiled = |flags: u8| [&[1, 2, 3, 4, flags, 0, 0, 0][..], b"rest"].concat();
        let kept: [(&str, Vec<u8>); 7] = [
            ("etc/passwd", b"x".to_vec()),
            ("usr/lib/run/file", b"x".to_vec()),
            ("etc/systemd/thing-", b"x".to_vec()),
            ("var/cache/debconf/config.dat", b"x".to_vec()),
            ("lib/__pycache__/unchecked.cpython-311.pyc", compiled(1)),
            ("lib/legacy.pyc", compiled(0)),
            ("root/.profile", b"x".to_vec()),
        ];
        let gone: [(&str, Vec<u8>); 13] = [
            ("etc/passwd-", b"x".to_vec()),
            ("etc/hostname", b"x".to_vec()),
            ("etc/resolv.conf", b"x".to_vec()),
            ("var/log/apt/history.log", b"x".to_vec()),
            ("var/log/dpkg.log", b"x".to_vec()),
            ("var/cache/apt/pkgcache.bin", b"x".to_vec()),
            ("var/cache/debconf/config.dat-old", b"x".to_vec()),
            ("var/lib/dpkg/status-old", b"x".to_vec()),
            ("tmp/a/b/c", b"x".to_vec()),
            ("root/.cache/pip/x", b"x".to_vec()),
            ("lib/__pycache__/timed.cpython-311.pyc", compiled(0)),
            ("lib/__pycache__/checked.cpython-311.pyc", compiled(3)),
            ("only/__pycache__/short.cpython-311.pyc", b"x".to_vec()),
        ];
        for (name, bytes) in kept.iter().chain(&gone).chain([&("etc/machine-id", b"abc".to_vec())]) {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        tidy(dir.path(), &tree(dir.path(), 1000).unwrap()).unwrap();
        let there = |name: &str| dir.path().join(name).exists();
        for (name, _) in &kept {
            assert!(there(name), "{name}");
        }
        for (name, _) in &gone {
            assert!(!there(name), "{name}");
        }
        assert!(there("var/log/apt") && there("tmp") && !there("tmp/a") && !there("only/__pycache__"));
        assert_eq!(fs::read(dir.path().join("etc/machine-id")).unwrap(), b"");
    }

    #[test]
    fn what_is_tidied_is_never_what_a_link_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        for path in [root.join("etc"), root.join("var"), outside.clone()] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(outside.join("canary"), "untouched").unwrap();
        std::os::unix::fs::symlink(outside.join("canary"), root.join("etc/machine-id")).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("tmp")).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("var/log")).unwrap();
        tidy(&root, &tree(&root, 1000).unwrap()).unwrap();
        assert_eq!(fs::read(outside.join("canary")).unwrap(), b"untouched");
    }
}
