//! An archive of an image, unpacked into a directory of ours under plain names.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tar::EntryType;

use crate::digest::HashingReader;
use crate::digest::passed_bound;
use crate::layer::unpack;
use crate::progress::CountingReader;
use crate::{ImageError, Progress};

/// Entries of an archive at most: a blob each, and a few documents.
const MAX_ENTRIES: usize = 4096;
/// Bytes of an entry's name at most.
const MAX_NAME: usize = 256;

/// The files of an archive: their names in it, and where they lie now.
#[derive(Debug, Default)]
pub(super) struct Files {
    files: BTreeMap<String, PathBuf>,
    /// Old archives write a layer that two images share once, and link to it.
    links: BTreeMap<String, String>,
}

impl Files {
    /// Unpacks the archive into `dir`. Nothing of it names a file of ours: they
    /// are numbered.
    pub(super) fn unpack(archive: &Path, dir: &Path, at_most: u64, to: &dyn Progress) -> Result<Self, ImageError> {
        let failed = |source| ImageError::file("read", archive, source);
        let file = File::open(archive).map_err(failed)?;
        to.step("read the archive", file.metadata().ok().map(|data| data.len()));
        let plain = unpack(CountingReader::new(file, to)).map_err(failed)?;
        Self::read(HashingReader::new(plain, at_most), dir).map_err(|source| match source {
            ReadError::Archive(error) if passed_bound(&error) => ImageError::TooLarge(at_most >> 20),
            ReadError::Archive(_) => ImageError::NotAnImage(archive.to_owned()),
            ReadError::Store(error) => ImageError::file("write", dir, error),
        })
    }

    fn read(archive: impl Read, dir: &Path) -> Result<Self, ReadError> {
        let mut found = Self::default();
        let mut archive = tar::Archive::new(archive);
        for (number, entry) in archive.entries().map_err(ReadError::Archive)?.raw(true).enumerate() {
            let mut entry = entry.map_err(ReadError::Archive)?;
            let name = name(&entry.path_bytes());
            match (entry.header().entry_type(), name) {
                (EntryType::Regular | EntryType::Continuous, Some(name)) if number < MAX_ENTRIES => {
                    let path = dir.join(number.to_string());
                    let mut file = File::create_new(&path).map_err(ReadError::Store)?;
                    copy(&mut entry, &mut file)?;
                    found.files.insert(name, path);
                }
                (EntryType::Symlink | EntryType::Link, Some(name)) if number < MAX_ENTRIES => {
                    let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                    let hard = entry.header().entry_type() == EntryType::Link;
                    let target = if hard { self::name(&target) } else { resolved(&name, &target) };
                    found.links.extend(target.map(|target| (name, target)));
                }
                // Directories say nothing, and extended headers only repeat.
                (EntryType::Directory | EntryType::XHeader | EntryType::XGlobalHeader, _) => {}
                _ => return Err(ReadError::Archive(io::ErrorKind::InvalidData.into())),
            }
        }
        Ok(found)
    }

    pub(super) fn path(&self, name: &str) -> Option<&Path> {
        let name = self.links.get(name).map_or(name, String::as_str);
        self.files.get(name).map(PathBuf::as_path)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.path(name).is_some()
    }

    /// A small file as a whole.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let path = self.path(name).ok_or_else(|| ImageError::Missing(name.to_owned()))?;
        let failed = |source| ImageError::file("read", path, source);
        if fs::metadata(path).map_err(failed)?.len() > crate::blobs::MAX_DOCUMENT {
            return Err(ImageError::document("documents", format!("{name} is larger than 4 MiB")));
        }
        fs::read(path).map_err(failed)
    }
}

enum ReadError {
    Archive(io::Error),
    Store(io::Error),
}

fn copy(from: &mut impl Read, to: &mut File) -> Result<(), ReadError> {
    let mut chunk = vec![0; 256 << 10];
    loop {
        match from.read(&mut chunk).map_err(ReadError::Archive)? {
            0 => return Ok(()),
            read => io::Write::write_all(to, &chunk[..read]).map_err(ReadError::Store)?,
        }
    }
}

/// A plain relative name, or nothing.
fn name(path: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(path).ok()?.trim_start_matches("./");
    let plain = !text.is_empty()
        && text.len() <= MAX_NAME
        && text.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    plain.then(|| text.to_owned())
}

/// Where a symlink in an archive points, as a name in the archive.
fn resolved(link: &str, target: &[u8]) -> Option<String> {
    let target = std::str::from_utf8(target).ok()?;
    let mut parts: Vec<&str> = link.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()?),
            "" | "." => {}
            part => parts.push(part),
        }
    }
    name(parts.join("/").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_resolved_inside_the_archive_or_not_at_all() {
        assert_eq!(resolved("a/layer.tar", b"../b/layer.tar").as_deref(), Some("b/layer.tar"));
        assert_eq!(resolved("layer.tar", b"b.tar").as_deref(), Some("b.tar"));
        assert_eq!(resolved("a/layer.tar", b"../../etc/passwd"), None);
        assert_eq!(name(b"../x"), None);
        assert_eq!(name(b"./blobs/sha256/aa").as_deref(), Some("blobs/sha256/aa"));
    }
}
