//! A folder here that a coding agent works on a copy of: what of it is copied, and changed again.
//!
//! What git would leave out is left out (`.gitignore` and its like), and so is `.git` itself: the keys in its
//! configuration stay here, and what it has of hooks is nobody's to change. So are links and what is neither file nor
//! folder. All of it is held in memory, within [`Bounds`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ignore::WalkBuilder;
use rustix::fs::OFlags;
use std::os::unix::fs::OpenOptionsExt;

/// What is copied there and back at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Files, and everything else that has a name.
    pub(crate) entries: usize,
    /// Bytes of one file.
    pub(crate) file: u64,
    /// Bytes of all of them.
    pub(crate) bytes: u64,
    /// Bytes of a path.
    pub(crate) path: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { entries: 50_000, file: 32 * 1024 * 1024, bytes: 128 * 1024 * 1024, path: 4096 }
    }
}

/// A file's bytes, and whether it may be run: all that git knows of one, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_program: bool,
}

/// A folder as it was when it was copied.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) root: PathBuf,
    /// By their paths in the folder, `/` between the parts.
    pub(crate) files: BTreeMap<String, Contents>,
    /// What is not copied, and why.
    pub(crate) skipped: Vec<Skipped>,
}

/// Something that is left out of a copy.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Skipped {
    pub(crate) path: String,
    pub(crate) why: &'static str,
}

/// Git's own folder, in any writing that a filesystem may take for it.
pub(crate) fn is_gits(name: &str) -> bool {
    name.trim_end_matches(['.', ' ']).eq_ignore_ascii_case(".git") || name.eq_ignore_ascii_case("git~1")
}

impl Folder {
    /// Reads it.
    ///
    /// # Errors
    /// It is no folder, something in it cannot be read, or it is larger than its bounds.
    pub(crate) fn read(folder: &Path, bounds: Bounds) -> Result<Self> {
        let root = folder.canonicalize().with_context(|| folder.display().to_string())?;
        if !root.is_dir() {
            bail!("{}: it is no folder", folder.display());
        }
        let mut read = Self { root: root.clone(), files: BTreeMap::new(), skipped: Vec::new() };
        let mut walk = WalkBuilder::new(&root);
        walk.hidden(false).ignore(false).require_git(false).follow_links(false);
        walk.filter_entry(|entry| !entry.file_name().to_str().is_some_and(is_gits));
        let (mut entries, mut bytes) = (0, 0);
        for entry in walk.build() {
            let entry = entry.with_context(|| format!("read {}", folder.display()))?;
            let path = entry.path();
            let kind = entry.file_type().context("the standard input is no folder")?;
            if kind.is_dir() {
                continue;
            }
            entries += 1;
            if entries > bounds.entries {
                bail!("{} has more than {} files that git would not leave out", folder.display(), bounds.entries);
            }
            let name = path.strip_prefix(&root).context("a file of another folder")?;
            let Some(name) = name.to_str() else {
                read.skip(name.display().to_string(), "its name is not UTF-8");
                continue;
            };
            if !kind.is_file() {
                read.skip(name.to_owned(), if kind.is_symlink() { "it is a link" } else { "it is no file" });
                continue;
            }
            let contents = contents(path, bounds.file)?;
            bytes += contents.bytes.len() as u64;
            if bytes > bounds.bytes {
                bail!("{} has more than {} bytes that git would not leave out", folder.display(), bounds.bytes);
            }
            read.files.insert(name.to_owned(), contents);
        }
        Ok(read)
    }

    fn skip(&mut self, path: String, why: &'static str) {
        self.skipped.push(Skipped { path, why });
    }

    /// It, as tar knows it.
    pub(crate) fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, contents) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(contents.bytes.len() as u64);
            header.set_mode(if contents.is_program { 0o755 } else { 0o644 });
            header.set_entry_type(tar::EntryType::Regular);
            archive.append_data(&mut header, path, contents.bytes.as_slice()).with_context(|| path.clone())?;
        }
        archive.into_inner().context("write the archive")
    }
}

/// A file here, to which no link leads.
pub(crate) fn contents(path: &Path, most: u64) -> Result<Contents> {
    let shown = || path.display().to_string();
    let no_link = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = File::options().read(true).custom_flags(no_link).open(path).with_context(shown)?;
    let found = file.metadata().with_context(shown)?;
    if !found.is_file() {
        bail!("{}: it is no file", path.display());
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).with_context(shown)?;
    if bytes.len() as u64 > most {
        bail!("{}: it has more than {most} bytes; have git leave it out", path.display());
    }
    Ok(Contents { bytes, is_program: found.permissions().mode() & 0o100 != 0 })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const SMALL: Bounds = Bounds { entries: 8, file: 100, bytes: 200, path: 64 };

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn what_git_leaves_out_is_left_out_and_so_are_links_and_git_itself() {
        let dir = folder(&[
            (".gitignore", "*.log\n/target\n"),
            (".hidden", "h"),
            (".git/config", "token"),
            ("sub/.git/hooks/pre-commit", "evil"),
            ("sub/a.log", "log"),
            ("sub/a.txt", "text"),
            ("target/large", "large"),
            ("run.sh", "#!/bin/sh\n"),
        ]);
        fs::set_permissions(dir.path().join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let read = Folder::read(dir.path(), SMALL).unwrap();
        let names: Vec<_> = read.files.keys().map(String::as_str).collect();
        assert_eq!(names, [".gitignore", ".hidden", "run.sh", "sub/a.txt"]);
        assert!(read.files["run.sh"].is_program && !read.files["sub/a.txt"].is_program);
        assert_eq!(read.skipped, [Skipped { path: "link".to_owned(), why: "it is a link" }]);
    }

    #[test]
    fn a_folder_beyond_its_bounds_is_refused_by_name_before_anything_is_copied() {
        let refused = |files: &[(&str, &str)]| {
            let dir = folder(files);
            format!("{:#}", Folder::read(dir.path(), SMALL).unwrap_err())
        };
        let long = "x".repeat(101);
        assert!(refused(&[("big", &long)]).contains("big: it has more than 100 bytes"));
        let half = "x".repeat(90);
        assert!(refused(&[("1", &half), ("2", &half), ("3", &half)]).contains("more than 200 bytes"));
        let names: Vec<String> = (0..9).map(|n| format!("f{n}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
        assert!(refused(&many).contains("more than 8 files"));
        assert!(Folder::read(Path::new("/no/such/folder"), SMALL).unwrap_err().to_string().contains("/no/such/folder"));
    }

    #[test]
    fn what_is_archived_is_what_was_read() {
        let dir = folder(&[("a", "1"), (&format!("{}/deep", "d".repeat(50)), "2")]);
        let archived = Folder::read(dir.path(), SMALL).unwrap().archive().unwrap();
        let mut archive = tar::Archive::new(archived.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().to_str().unwrap().len(), text)
        });
        assert_eq!(entries.collect::<Vec<_>>(), [(1, "1".to_owned()), (55, "2".to_owned())]);
    }

    #[test]
    fn gits_own_folder_is_known_in_any_writing() {
        assert!([".git", ".GIT", ".Git.", ".git ", "GIT~1"].into_iter().all(is_gits));
        assert!(![".gitignore", ".github", "git", ".gitx"].into_iter().any(is_gits));
    }
}
