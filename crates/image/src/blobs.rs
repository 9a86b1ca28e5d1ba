//! Blobs by their digest: written beside, verified, then given their name.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::digest::{BlobDigest, Hasher};
use crate::{ImageError, Progress};

/// Bytes a manifest, an index or a config may have.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;
/// Bytes copied at once.
const CHUNK: usize = 256 << 10;

/// `<store>/blobs/sha256`, and where unfinished files lie.
#[derive(Clone, Debug)]
pub(crate) struct BlobStore {
    dir: PathBuf,
    scratch: PathBuf,
}

impl BlobStore {
    pub(crate) const fn new(dir: PathBuf, scratch: PathBuf) -> Self {
        Self { dir, scratch }
    }

    pub(crate) fn path(&self, sum: BlobDigest) -> PathBuf {
        self.dir.join(sum.hex())
    }

    pub(crate) fn has(&self, sum: BlobDigest) -> bool {
        self.path(sum).is_file()
    }

    pub(crate) fn open(&self, sum: BlobDigest) -> Result<File, ImageError> {
        File::open(self.path(sum)).map_err(|_| ImageError::Missing(sum.to_string()))
    }

    /// A small blob as a whole, verified again: it decides what is trusted.
    pub(crate) fn document(&self, sum: BlobDigest) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let path = self.path(sum);
        let read = self.open(sum)?.take(MAX_DOCUMENT).read_to_end(&mut bytes);
        read.map_err(|source| ImageError::file("read", &path, source))?;
        let found = BlobDigest::of(&bytes);
        if found == sum { Ok(bytes) } else { Err(ImageError::mismatch(sum, found)) }
    }

    /// Begins a blob of `size` bytes, at most `size` of which are taken.
    pub(crate) fn begin(&self, sum: BlobDigest, size: u64) -> Result<BlobWriter, ImageError> {
        let file = NamedTempFile::new_in(&self.scratch)
            .map_err(|source| ImageError::file("create a file in", &self.scratch, source))?;
        Ok(BlobWriter { file, sum, size, summing: Hasher::default(), path: self.path(sum) })
    }

    /// Takes a blob from a reader, unless it is there already.
    pub(crate) fn put(
        &self,
        sum: BlobDigest,
        size: u64,
        mut from: impl Read,
        to: &dyn Progress,
    ) -> Result<(), ImageError> {
        if self.has(sum) {
            to.advance(size);
            return Ok(());
        }
        let mut incoming = self.begin(sum, size)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = from
                .read(&mut chunk)
                .map_err(|source| ImageError::file("read the blob for", &incoming.path, source))?;
            if read == 0 {
                return incoming.finish();
            }
            incoming.write(&chunk[..read])?;
            to.advance(read as u64);
        }
    }

    /// Takes bytes that we made.
    pub(crate) fn keep(&self, bytes: &[u8]) -> Result<BlobDigest, ImageError> {
        let sum = BlobDigest::of(bytes);
        self.put(sum, bytes.len() as u64, bytes, &crate::NoProgress)?;
        Ok(sum)
    }
}

/// A blob that is being written. Dropped before [`BlobWriter::finish`], it leaves
/// nothing.
pub(crate) struct BlobWriter {
    file: NamedTempFile,
    sum: BlobDigest,
    size: u64,
    summing: Hasher,
    path: PathBuf,
}

impl BlobWriter {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.summing.update(bytes);
        if self.summing.bytes() > self.size {
            return Err(self.wrong_size());
        }
        self.file.write_all(bytes).map_err(|source| ImageError::file("write", &self.path, source))
    }

    /// Verifies the blob, brings it to the disk and gives it its name.
    pub(crate) fn finish(self) -> Result<(), ImageError> {
        if self.summing.bytes() != self.size {
            return Err(self.wrong_size());
        }
        let found = self.summing.finish();
        if found != self.sum {
            return Err(ImageError::mismatch(self.sum, found));
        }
        publish(self.file, &self.path)
    }

    fn wrong_size(&self) -> ImageError {
        ImageError::Size { digest: self.sum.to_string(), expected: self.size, found: self.summing.bytes() }
    }
}

/// Brings a finished file to the disk and gives it its name, unless somebody
/// else has done the same meanwhile.
pub(crate) fn publish(file: NamedTempFile, path: &Path) -> Result<(), ImageError> {
    let failed = |source| ImageError::file("write", path, source);
    settle(file.as_file()).map_err(failed)?;
    durable::failpoint("image file", "synced");
    match file.persist_noclobber(path) {
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(error.error)),
        Ok(_) => {
            durable::failpoint("image file", "named");
            durable::sync_parent(path).map_err(failed)
        }
    }
}

/// Lets everybody read a finished file, and brings it to the disk.
pub(crate) fn settle(file: &File) -> std::io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;

    fn blobs() -> (tempfile::TempDir, BlobStore) {
        let dir = tempfile::tempdir().unwrap();
        let (kept, scratch) = (dir.path().join("kept"), dir.path().join("scratch"));
        fs::create_dir_all(&kept).unwrap();
        fs::create_dir_all(&scratch).unwrap();
        (dir, BlobStore::new(kept, scratch))
    }

    fn files(path: &Path) -> usize {
        fs::read_dir(path).unwrap().count()
    }

    #[test]
    fn a_blob_whose_bytes_are_not_those_named_leaves_nothing() {
        let (dir, blobs) = blobs();
        let wrong = blobs.put(BlobDigest::of(b"right"), 5, &b"wrong"[..], &NoProgress);
        assert!(matches!(wrong, Err(ImageError::Mismatch { .. })));
        let long = blobs.put(BlobDigest::of(b"right"), 5, &b"right and more"[..], &NoProgress);
        assert!(matches!(long, Err(ImageError::Size { .. })));
        let short = blobs.put(BlobDigest::of(b"right"), 5, &b"rig"[..], &NoProgress);
        assert!(matches!(short, Err(ImageError::Size { .. })));
        assert_eq!((files(&dir.path().join("kept")), files(&dir.path().join("scratch"))), (0, 0));
    }

    #[test]
    fn a_blob_that_is_kept_can_be_kept_again() {
        let (_dir, blobs) = blobs();
        let sum = blobs.keep(b"right").unwrap();
        assert_eq!(blobs.keep(b"right").unwrap(), sum);
        assert_eq!(blobs.document(sum).unwrap(), b"right");
    }

    #[test]
    fn a_document_that_was_changed_on_the_disk_is_not_believed() {
        let (_dir, blobs) = blobs();
        let sum = blobs.keep(b"right").unwrap();
        fs::write(blobs.path(sum), b"wrong").unwrap();
        assert!(matches!(blobs.document(sum), Err(ImageError::Mismatch { .. })));
    }
}
