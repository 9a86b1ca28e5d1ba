//! The root that steps work in, and what one of them changed there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::BuildError;
use super::documents::BuiltLayer;
use crate::assemble::{budget, one_layer};
use crate::blobs::BlobStore;
use crate::contract::Accounts;
use crate::digest::BlobDigest;
use crate::layer::ImageRoot;
use crate::{Config, ImageError, Progress};

/// The host's id for the image's root, and for its other users those above: they mean
/// nobody there. (`systemd` gives containers ids below this, and people none above.)
pub(super) const SHIFT: u32 = 0x7000_0000;
/// What says that a root has Debian's packages, and what installs more: bytes of each at most.
const STATUS: &str = "var/lib/dpkg/status";
const APT: &str = "usr/bin/apt-get";
const MAX_STATUS: u64 = 64 << 20;
/// Directories below each other at most.
const MAX_DEPTH: usize = 128;

/// The files of the layers so far, with shifted owners.
pub(super) struct BuildRoot {
    path: PathBuf,
    root: ImageRoot,
    /// So many layers are in it.
    applied: usize,
}

impl BuildRoot {
    /// An empty one.
    pub(super) fn create(path: PathBuf) -> Result<Self, ImageError> {
        let root = ImageRoot::create_shifted(&path, SHIFT);
        let root = root.map_err(|source| ImageError::file("create", &path, source))?;
        Ok(Self { path, root, applied: 0 })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What it has installed.
    pub(super) fn below(&self) -> Result<Below, ImageError> {
        if self.applied == 0 { Ok(Below::Nothing) } else { Below::of(&self.root) }
    }

    pub(super) fn accounts(&self) -> Result<Accounts, ImageError> {
        Accounts::of(&self.root).map_err(|source| ImageError::file("read the accounts of", &self.path, source))
    }

    /// Unpacks the layers that are not in it yet.
    pub(super) fn catch_up(
        &mut self,
        layers: &[BuiltLayer],
        blobs: &BlobStore,
        bounds: &Config,
        to: &dyn Progress,
    ) -> Result<(), ImageError> {
        let mut budget = budget(bounds);
        for (at, layer) in layers.iter().enumerate().skip(self.applied) {
            to.step("unpack a layer", Some(layer.descriptor.size()));
            let sums = (BlobDigest::named(&layer.descriptor)?, layer.diff_id);
            one_layer(&self.root, at + 1, sums, blobs, &mut budget, bounds, to)?;
        }
        self.applied = layers.len();
        Ok(())
    }

    /// The next layer was made here.
    pub(super) fn made_one(&mut self) {
        self.applied += 1;
    }
}

/// What is below a step that installs packages.
pub(super) enum Below {
    /// An empty root.
    Nothing,
    /// One of Debian's, with what it has installed, as dpkg writes it down.
    Debian(String),
}

impl Below {
    /// What this root has.
    fn of(root: &ImageRoot) -> Result<Self, ImageError> {
        let read = |path| root.read(path, MAX_STATUS).map_err(BuildError::io("read what the image has installed"));
        match (read(STATUS)?, read(APT)?) {
            (Some(status), Some(_)) => Ok(Self::Debian(String::from_utf8_lossy(&status).into_owned())),
            _ => Err(BuildError::NoApt.into()),
        }
    }

    /// What it has installed, as dpkg writes it down.
    pub(super) fn status(&self) -> &str {
        match self {
            Self::Nothing => "",
            Self::Debian(status) => status,
        }
    }
}

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    File,
    Directory,
    Symlink,
    /// A device, pipe or socket, which no image has.
    Other,
}

/// A path as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SeenFile {
    pub(super) kind: FileKind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) inode: u64,
    pub(super) links: u64,
    /// When its content or anything of it was last changed: nobody inside can set that.
    changed: (i64, i64),
}

impl SeenFile {
    fn of(data: &fs::Metadata) -> Self {
        let kind = data.file_type();
        let kind = match () {
            () if kind.is_dir() => FileKind::Directory,
            () if kind.is_file() => FileKind::File,
            () if kind.is_symlink() => FileKind::Symlink,
            () => FileKind::Other,
        };
        Self {
            kind,
            mode: data.mode() & 0o7777,
            uid: data.uid(),
            gid: data.gid(),
            size: data.len(),
            mtime: data.mtime(),
            inode: data.ino(),
            links: data.nlink(),
            changed: (data.ctime(), data.ctime_nsec()),
        }
    }

    /// Whether a layer has to say anything about it, given how it was. That something was
    /// made or removed in a directory is told by what was.
    fn is_news(&self, before: &Self) -> bool {
        match (self.kind, before.kind) {
            (FileKind::Directory, FileKind::Directory) => {
                (self.mode, self.uid, self.gid) != (before.mode, before.uid, before.gid)
            }
            _ => self != before,
        }
    }
}

/// Everything below a root, by paths without a leading slash.
pub(super) type Tree = BTreeMap<PathBuf, SeenFile>;

/// Looks at everything below `root`, where nobody is at work: at most so many entries.
pub(super) fn tree(root: &Path, most: u64) -> Result<Tree, ImageError> {
    let mut seen = Tree::new();
    let mut open = vec![PathBuf::new()];
    while let Some(dir) = open.pop() {
        let odd = |why| ImageError::from(BuildError::Tree { path: dir.clone(), why });
        if dir.components().count() > MAX_DEPTH {
            return Err(odd("is nested too deep"));
        }
        let path = root.join(&dir);
        let failed = |source| ImageError::file("list", &path, source);
        for entry in fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let below = dir.join(entry.file_name());
            let file = SeenFile::of(&entry.metadata().map_err(failed)?);
            if file.kind == FileKind::Directory {
                open.push(below.clone());
            }
            seen.insert(below, file);
            if seen.len() as u64 > most {
                return Err(odd("has more files than images.max_entries"));
            }
        }
    }
    Ok(seen)
}

/// What became of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is there, and new or otherwise than it was.
    Put(SeenFile),
    /// It is gone.
    Gone,
}

/// What is otherwise in `after`. Of what is gone with its directory only that is named.
pub(super) fn changes(before: &Tree, after: &Tree) -> BTreeMap<PathBuf, Change> {
    let news = after.iter().filter(|(path, file)| before.get(*path).is_none_or(|before| file.is_news(before)));
    let news = news.map(|(path, file)| (path.clone(), Change::Put(file.clone())));
    let lost = |path: &Path| before.contains_key(path) && !after.contains_key(path);
    let gone = before.keys().filter(|path| {
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        // A directory that became a file took what was in it along, too.
        let with_it = above.is_some_and(|above| lost(above) || after.get(above).is_some_and(is_no_directory));
        lost(path) && !with_it
    });
    news.chain(gone.map(|path| (path.clone(), Change::Gone))).collect()
}

fn is_no_directory(file: &SeenFile) -> bool {
    file.kind != FileKind::Directory
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(dir: &Path) -> Tree {
        tree(dir, 1000).unwrap()
    }

    #[test]
    fn a_change_is_what_was_made_written_turned_or_removed_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["kept/a", "gone/b/c", "kept/turned", "kept/written", "was_dir/x"] {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), name).unwrap();
        }
        let before = now(dir.path());
        assert!(changes(&before, &now(dir.path())).is_empty());
        fs::remove_dir_all(path("gone")).unwrap();
        fs::remove_dir_all(path("was_dir")).unwrap();
        fs::write(path("was_dir"), "file").unwrap();
        fs::write(path("kept/new"), "new").unwrap();
        fs::write(path("kept/written"), "other").unwrap();
        fs::set_permissions(path("kept/turned"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let found = changes(&before, &now(dir.path()));
        let names: Vec<_> = found.iter().map(|(path, what)| (path.to_str().unwrap(), *what == Change::Gone)).collect();
        let expected =
            [("gone", true), ("kept/new", false), ("kept/turned", false), ("kept/written", false), ("was_dir", false)];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_tree_with_more_files_than_allowed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert!(tree(dir.path(), 3).is_ok());
        assert!(tree(dir.path(), 2).unwrap_err().to_string().contains("max_entries"));
    }
}
