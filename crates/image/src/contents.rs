//! What a recipe puts into its layer: every path once, sorted.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use tar::{Builder, EntryType, Header};

use crate::recipe::{Action, Ownership, RecipeError};
use crate::{ImageError, Progress};

const DIRECTORY: u32 = 0o755;
const FILE: u32 = 0o644;
const PROGRAM: u32 = 0o755;
/// Directories below each other at most.
const MAX_DEPTH: usize = 64;

enum Node {
    Directory,
    Text(String),
    File { from: PathBuf, size: u64 },
    Symlink(PathBuf),
}

/// An owner's numbers: user and group.
pub(crate) type OwnerIds = (u32, u32);

struct PlannedFile {
    node: Node,
    mode: u32,
    owner: OwnerIds,
}

/// A layer's content, by paths without a leading slash.
pub(crate) struct LayerContents(BTreeMap<PathBuf, PlannedFile>);

impl LayerContents {
    /// What these steps say, with files from `context`; later ones win. `owner` looks names up.
    pub(crate) fn of(
        steps: &[&Action],
        context: &Path,
        owner: &mut dyn FnMut(&Ownership) -> Result<OwnerIds, ImageError>,
    ) -> Result<Self, ImageError> {
        let mut contents = Self(BTreeMap::new());
        for step in steps {
            match step {
                Action::Directory(one) => {
                    let mode = one.mode.map_or(DIRECTORY, |mode| mode.0);
                    contents.put(&target(&one.path)?, Node::Directory, mode, owner(&one.owner)?);
                }
                Action::Write(one) => {
                    let mode = one.mode.map_or(FILE, |mode| mode.0);
                    contents.put(&target(&one.to)?, Node::Text(one.text.clone()), mode, owner(&one.owner)?);
                }
                Action::Copy(one) => {
                    let (from, mode) = (inside(context, &one.from)?, one.mode.map(|mode| mode.0));
                    contents.copy(&from, &target(&one.to)?, mode, owner(&one.owner)?, MAX_DEPTH)?;
                }
                Action::Packages(_) | Action::Pip(_) | Action::Npm(_) | Action::Tar(_) | Action::Run(_) => {}
            }
        }
        Ok(contents)
    }

    /// The bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        let size = |placed: &PlannedFile| match &placed.node {
            Node::Directory | Node::Symlink(_) => 0,
            Node::Text(text) => text.len() as u64,
            Node::File { size, .. } => *size,
        };
        self.0.values().map(size).sum()
    }

    /// Writes the archive.
    pub(crate) fn write(&self, to: &mut File, progress: &dyn Progress) -> Result<(), ImageError> {
        let mut archive = Builder::new(to);
        for (path, placed) in &self.0 {
            append(&mut archive, path, placed, progress).map_err(|source| ImageError::file("pack", path, source))?;
        }
        archive.into_inner().map(|_| ()).map_err(|source| ImageError::file("pack", Path::new("the layer"), source))
    }

    fn put(&mut self, path: &Path, node: Node, mode: u32, owner: OwnerIds) {
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            let implied = || PlannedFile { node: Node::Directory, mode: DIRECTORY, owner: (0, 0) };
            self.0.entry(parent.to_owned()).or_insert_with(implied);
        }
        if !path.as_os_str().is_empty() {
            self.0.insert(path.to_owned(), PlannedFile { node, mode, owner });
        }
    }

    fn copy(
        &mut self,
        from: &Path,
        to: &Path,
        mode: Option<u32>,
        owner: OwnerIds,
        depth: usize,
    ) -> Result<(), ImageError> {
        let failed = |source| ImageError::file("read", from, source);
        let data = fs::symlink_metadata(from).map_err(failed)?;
        if data.is_symlink() {
            self.put(to, Node::Symlink(fs::read_link(from).map_err(failed)?), 0o777, owner);
        } else if data.is_file() {
            let own = if data.permissions().mode() & 0o111 == 0 { FILE } else { PROGRAM };
            self.put(to, Node::File { from: from.to_owned(), size: data.len() }, mode.unwrap_or(own), owner);
        } else if data.is_dir() && depth > 0 {
            self.put(to, Node::Directory, DIRECTORY, owner);
            for entry in fs::read_dir(from).map_err(failed)? {
                let name = entry.map_err(failed)?.file_name();
                self.copy(&from.join(&name), &to.join(&name), mode, owner, depth - 1)?;
            }
        } else {
            return Err(RecipeError::Special(from.to_owned()).into());
        }
        Ok(())
    }
}

fn append(
    archive: &mut Builder<&mut File>,
    path: &Path,
    placed: &PlannedFile,
    progress: &dyn Progress,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(placed.mode);
    header.set_uid(placed.owner.0.into());
    header.set_gid(placed.owner.1.into());
    header.set_mtime(0);
    header.set_size(0);
    match &placed.node {
        Node::Directory => {
            header.set_entry_type(EntryType::Directory);
            archive.append_data(&mut header, path, io::empty())
        }
        Node::Text(text) => {
            header.set_size(text.len() as u64);
            archive.append_data(&mut header, path, text.as_bytes())
        }
        Node::File { from, size } => {
            header.set_size(*size);
            // A file that grows or shrinks meanwhile must not shift what follows.
            let content = Exactly { from: File::open(from)?, left: *size, progress };
            archive.append_data(&mut header, path, content)
        }
        Node::Symlink(target) => {
            header.set_entry_type(EntryType::Symlink);
            archive.append_link(&mut header, path, target)
        }
    }
}

/// As many bytes as were announced, or an error.
struct Exactly<'a> {
    from: File,
    left: u64,
    progress: &'a dyn Progress,
}

impl Read for Exactly<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(into.len(), |left| left.min(into.len()));
        let read = self.from.read(&mut into[..most])?;
        if read == 0 && most > 0 {
            return Err(io::Error::other("the file became shorter while it was read"));
        }
        self.left -= read as u64;
        self.progress.advance(read as u64);
        Ok(read)
    }
}

/// A path in the image, without its leading slash.
pub(crate) fn target(path: &str) -> Result<PathBuf, RecipeError> {
    let wrong = || RecipeError::Target(path.to_owned());
    let below = Path::new(path).strip_prefix("/").map_err(|_| wrong())?;
    let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
    if plain && !path.as_bytes().contains(&0) { Ok(below.components().collect()) } else { Err(wrong()) }
}

/// A path in the context, which no `..` and no symlink leads out of.
pub(crate) fn inside(context: &Path, from: &Path) -> Result<PathBuf, RecipeError> {
    let outside = || RecipeError::Outside { from: from.to_owned(), context: context.to_owned() };
    let root = context.canonicalize().map_err(|_| outside())?;
    let plain = from.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    let path = root.join(from);
    let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
    let within = parent.is_some_and(|parent| parent.starts_with(&root)) && path.symlink_metadata().is_ok();
    if plain && within && !from.as_os_str().as_bytes().is_empty() { Ok(path) } else { Err(outside()) }
}
