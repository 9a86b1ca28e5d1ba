//! Applies one layer's archive to a root.

use std::io::{self, Read};

use tar::Archive;

use super::LayerError;
use super::entry::{Extended, Head, What};
use super::error::shown;
use super::path::Below;
use super::root::{Made, Root, set};

/// The name before which a whiteout stands.
const WHITEOUT: &[u8] = b".wh.";
/// The whiteout of everything in a directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What other names of this kind mean is nobody's business but aufs's.
const PRIVATE: &[u8] = b".wh..wh.";
/// Bytes of a symlink's target at most.
const MAX_TARGET: usize = 4095;

/// What all layers of an image may have together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Of `entries`, for the error's text.
    pub(crate) max_entries: u64,
}

impl Budget {
    fn entry(&mut self) -> Result<(), LayerError> {
        self.entries = self.entries.checked_sub(1).ok_or(LayerError::TooMany(self.max_entries))?;
        Ok(())
    }

    fn spend(&mut self, bytes: u64) -> Result<(), LayerError> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or(LayerError::TooLarge)?;
        Ok(())
    }
}

/// Applies the archive to the root, over what lower layers left there.
pub(crate) fn apply(root: &Root, archive: impl Read, budget: &mut Budget) -> Result<(), LayerError> {
    let mut layer = Layer { root, made: Made::new() };
    let mut extended = Extended::default();
    let mut archive = Archive::new(archive);
    for entry in archive.entries().map_err(malformed)?.raw(true) {
        let mut entry = entry.map_err(malformed)?;
        budget.entry()?;
        if let Some(head) = extended.take(&mut entry)? {
            if head.what == What::File {
                budget.spend(entry.size())?;
            }
            layer.entry(&head, &mut entry)?;
        }
    }
    Ok(())
}

fn malformed(error: io::Error) -> LayerError {
    if crate::error::passed_bound(&error) { LayerError::TooLarge } else { LayerError::Malformed(error.to_string()) }
}

struct Layer<'a> {
    root: &'a Root,
    made: Made,
}

impl Layer<'_> {
    fn entry(&mut self, head: &Head, content: &mut impl Read) -> Result<(), LayerError> {
        let path = Below::parse(&head.path)?;
        let name = path.split().map(|(_, name)| name.to_vec()).unwrap_or_default();
        if name.starts_with(WHITEOUT) {
            return self.whiteout(head, &path, &name);
        }
        match &head.what {
            What::Directory => self.directory(head, &path),
            What::File => self.file(head, &path, content),
            What::Symlink(target) => self.symlink(head, &path, target),
            What::Hardlink(target) => self.hardlink(head, &path, target),
        }
    }

    fn whiteout(&self, head: &Head, path: &Below, name: &[u8]) -> Result<(), LayerError> {
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
        self.root.whiteout(&Below::parse(&target)?, &self.made).map_err(failed)
    }

    fn directory(&mut self, head: &Head, path: &Below) -> Result<(), LayerError> {
        let made = self.root.directory(path, head.attributes, &mut self.made);
        made.map_err(|source| LayerError::io("make the directory", &head.path, source))
    }

    fn file(&mut self, head: &Head, path: &Below, content: &mut impl Read) -> Result<(), LayerError> {
        let failed = |source: io::Error| match crate::error::passed_bound(&source) {
            true => LayerError::TooLarge,
            false => LayerError::io("write", &head.path, source),
        };
        let mut file = self.root.file(path, &mut self.made).map_err(failed)?;
        io::copy(content, &mut file).map_err(failed)?;
        set(&file, head.attributes).map_err(failed)
    }

    fn symlink(&mut self, head: &Head, path: &Below, target: &[u8]) -> Result<(), LayerError> {
        if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
            return Err(LayerError::Link { path: shown(&head.path), target: shown(target) });
        }
        let made = self.root.symlink(path, target, head.attributes, &mut self.made);
        made.map_err(|source| LayerError::io("make the symlink", &head.path, source))
    }

    fn hardlink(&mut self, head: &Head, path: &Below, target: &[u8]) -> Result<(), LayerError> {
        let failed = |source: io::Error| LayerError::io("make the link", &head.path, source);
        match self.root.link(path, &Below::parse(target)?, &mut self.made).map_err(failed)? {
            true => Ok(()),
            false => Err(LayerError::Link { path: shown(&head.path), target: shown(target) }),
        }
    }
}
