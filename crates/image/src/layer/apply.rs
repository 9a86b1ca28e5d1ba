//! Applies one layer's archive to a root.

use std::collections::HashSet;
use std::io::{self, Read, Seek, SeekFrom};

use super::LayerError;
use super::archive::TarReader;
use super::entry::{EntryHeader, EntryKind, ExtendedHeaders};
use super::error::shown;
use super::path::RelativePath;
use super::root::{CreatedInodes, ImageRoot, set};
use super::sparse::SparseMap;
use crate::Progress;

/// The name before which a whiteout stands.
const WHITEOUT: &[u8] = b".wh.";
/// The whiteout of everything in a directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What other names of this kind mean is nobody's business but aufs's.
const PRIVATE: &[u8] = b".wh..wh.";
/// Bytes of a symlink's target at most.
const MAX_TARGET: usize = 4095;
/// Devices of one layer that are named in warnings.
const MAX_WARNINGS: usize = 16;

/// What all layers of an image may have together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnpackBudget {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Of `entries`, for the error's text.
    pub(crate) max_entries: u64,
}

impl UnpackBudget {
    fn entry(&mut self) -> Result<(), LayerError> {
        self.entries = self.entries.checked_sub(1).ok_or(LayerError::TooMany(self.max_entries))?;
        Ok(())
    }

    fn spend(&mut self, bytes: u64) -> Result<(), LayerError> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or(LayerError::TooLarge)?;
        Ok(())
    }
}

/// Applies the archive to the root, over what lower layers left there; whether a file
/// of it grants capabilities.
pub(crate) fn apply(
    root: &ImageRoot,
    archive: impl Read,
    budget: &mut UnpackBudget,
    to: &dyn Progress,
) -> Result<bool, LayerError> {
    let mut layer = Layer { root, made: CreatedInodes::new(), left_out: HashSet::new(), grants: false, to };
    let mut extended = ExtendedHeaders::default();
    let mut archive = TarReader::new(archive);
    while let Some(header) = archive.next().map_err(|error| super::error::read(&error))? {
        budget.entry()?;
        if let Some(mut head) = extended.take(&header, &mut archive)? {
            head.attributes = root.placed(head.attributes).ok_or_else(|| LayerError::Owner(shown(&head.path)))?;
            match &head.what {
                EntryKind::File => budget.spend(archive.left())?,
                // The disk holds its holes too.
                EntryKind::Holes(sparse) => budget.spend(sparse.size)?,
                EntryKind::Directory | EntryKind::Symlink(_) | EntryKind::Hardlink(_) | EntryKind::Device(_) => {}
            }
            layer.entry(&head, &mut archive)?;
        }
    }
    Ok(layer.grants)
}

struct Layer<'a> {
    root: &'a ImageRoot,
    made: CreatedInodes,
    /// Devices of this layer.
    left_out: HashSet<Vec<u8>>,
    /// Whether one of its files grants capabilities.
    grants: bool,
    to: &'a dyn Progress,
}

impl Layer<'_> {
    fn entry(&mut self, head: &EntryHeader, content: &mut impl Read) -> Result<(), LayerError> {
        let path = RelativePath::parse(&head.path)?;
        let name = path.split().map(|(_, name)| name.to_vec()).unwrap_or_default();
        if name.starts_with(WHITEOUT) {
            return self.whiteout(head, &path, &name);
        }
        match &head.what {
            EntryKind::Directory => self.directory(head, &path),
            EntryKind::File => self.file(head, &path, None, content),
            EntryKind::Holes(sparse) => self.file(head, &path, Some(sparse), content),
            EntryKind::Symlink(target) => self.symlink(head, &path, target),
            EntryKind::Hardlink(target) => self.hardlink(head, &path, target),
            EntryKind::Device(kind) => self.leave_out(head, &path, kind),
        }
    }

    /// What a lower layer has at a device's path is hidden by it, as by anything else.
    fn leave_out(&mut self, head: &EntryHeader, path: &RelativePath, kind: &str) -> Result<(), LayerError> {
        if self.left_out.len() < MAX_WARNINGS {
            self.to.warn(&format!("{:?} is a {kind}: left out, a guest has its own", shown(&head.path)));
        }
        self.left_out.insert(path.bytes());
        let hidden = self.root.whiteout(path, &self.made);
        hidden.map_err(|source| LayerError::io("hide what was at", &head.path, source))
    }

    fn whiteout(&self, head: &EntryHeader, path: &RelativePath, name: &[u8]) -> Result<(), LayerError> {
        let failed = |source: io::Error| LayerError::io("apply the whiteout", &head.path, source);
        let Some((directory, _)) = path.split() else { return Ok(()) };
        if name == OPAQUE {
            return self.root.opaque(&directory, &self.made).map_err(failed);
        }
        if name.starts_with(PRIVATE) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        let target = [&directory.bytes()[..], b"/", hidden].concat();
        // ".wh." alone and ".wh..." name no file.
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(LayerError::Traversal(shown(&head.path)));
        }
        self.root.whiteout(&RelativePath::parse(&target)?, &self.made).map_err(failed)
    }

    fn directory(&mut self, head: &EntryHeader, path: &RelativePath) -> Result<(), LayerError> {
        let made = self.root.directory(path, head.attributes, &mut self.made);
        made.map_err(|source| LayerError::io("make the directory", &head.path, source))
    }

    fn file(
        &mut self,
        head: &EntryHeader,
        path: &RelativePath,
        sparse: Option<&SparseMap>,
        content: &mut impl Read,
    ) -> Result<(), LayerError> {
        let failed = |source: io::Error| match source.kind() {
            _ if crate::digest::passed_bound(&source) => LayerError::TooLarge,
            // Only a reader says so.
            io::ErrorKind::UnexpectedEof => super::error::read(&source),
            _ => LayerError::io("write", &head.path, source),
        };
        let mut file = self.root.file(path, &mut self.made).map_err(failed)?;
        match sparse {
            None => drop(io::copy(content, &mut file).map_err(failed)?),
            Some(sparse) => {
                for (offset, length) in &sparse.pieces {
                    file.seek(SeekFrom::Start(*offset)).map_err(failed)?;
                    io::copy(&mut content.take(*length), &mut file).map_err(failed)?;
                }
                file.set_len(sparse.size).map_err(failed)?;
            }
        }
        set(&file, head.attributes).map_err(failed)?;
        // A change of the owner would take it away.
        if let Some(granted) = &head.capabilities {
            granted.grant(&file).map_err(failed)?;
            self.grants = true;
        }
        Ok(())
    }

    fn symlink(&mut self, head: &EntryHeader, path: &RelativePath, target: &[u8]) -> Result<(), LayerError> {
        if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
            return Err(LayerError::Link { path: shown(&head.path), target: shown(target) });
        }
        let made = self.root.symlink(path, target, head.attributes, &mut self.made);
        made.map_err(|source| LayerError::io("make the symlink", &head.path, source))
    }

    fn hardlink(&mut self, head: &EntryHeader, path: &RelativePath, target: &[u8]) -> Result<(), LayerError> {
        let failed = |source: io::Error| LayerError::io("make the link", &head.path, source);
        let named = RelativePath::parse(target)?;
        if self.left_out.contains(&named.bytes()) {
            return self.leave_out(head, path, "link to a device");
        }
        match self.root.link(path, &named, &mut self.made).map_err(failed)? {
            true => Ok(()),
            false => Err(LayerError::Link { path: shown(&head.path), target: shown(target) }),
        }
    }
}
