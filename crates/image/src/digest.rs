//! SHA-256 sums: of whole texts, and of what flows through a reader.

use std::error::Error;
use std::fmt;
use std::io::{self, Read};

use domain::ImageDigest;
use oci_spec::image::Descriptor;
use sha2::{Digest as _, Sha256};

/// The text is not the SHA-256 digest that it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not sha256:<64 hex digits>")]
pub struct DigestError(String);

/// The SHA-256 sum that names a blob.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlobDigest([u8; 32]);

impl BlobDigest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The sum in a text `sha256:<hex>`; other algorithms are refused.
    pub(crate) fn parse(text: &str) -> Result<Self, DigestError> {
        let digest: ImageDigest = text.parse().map_err(|_| DigestError(text.chars().take(100).collect()))?;
        Ok(Self(digest.0))
    }

    /// The sum a descriptor names.
    pub(crate) fn named(descriptor: &Descriptor) -> Result<Self, DigestError> {
        Self::parse(descriptor.digest().as_ref())
    }

    pub(crate) fn hex(self) -> String {
        hex::encode(self.0)
    }
}

impl From<BlobDigest> for ImageDigest {
    fn from(sum: BlobDigest) -> Self {
        Self(sum.0)
    }
}

impl From<ImageDigest> for BlobDigest {
    fn from(digest: ImageDigest) -> Self {
        Self(digest.0)
    }
}

impl fmt::Display for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A sum in the making.
#[derive(Default)]
pub(crate) struct Hasher {
    hash: Sha256,
    bytes: u64,
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn finish(self) -> BlobDigest {
        BlobDigest(self.hash.finalize().into())
    }
}

/// A reader that sums what it reads, and refuses to read more than `at_most`.
pub(crate) struct HashingReader<R> {
    from: R,
    sum: Hasher,
    at_most: u64,
}

/// What [`HashingReader`] says when its bound is passed.
#[derive(Debug, thiserror::Error)]
#[error("larger than {0} bytes")]
pub(crate) struct SizeExceeded(pub(crate) u64);

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(from: R, at_most: u64) -> Self {
        Self { from, sum: Hasher::default(), at_most }
    }

    /// Reads to the end, and returns the sum and the length of everything.
    pub(crate) fn finish(mut self) -> io::Result<(BlobDigest, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        let bytes = self.sum.bytes();
        Ok((self.sum.finish(), bytes))
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.sum.update(&into[..read]);
        if self.sum.bytes() > self.at_most {
            return Err(io::Error::other(SizeExceeded(self.at_most)));
        }
        Ok(read)
    }
}

/// Whether a read stopped because its bound was passed.
pub(crate) fn passed_bound(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<SizeExceeded>())
        || Error::source(error).and_then(|source| source.downcast_ref::<io::Error>()).is_some_and(passed_bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_is_summed_to_its_end_even_when_read_in_part() {
        let mut summed = HashingReader::new(&b"abcdef"[..], 100);
        let mut some = [0; 2];
        summed.read_exact(&mut some).unwrap();
        assert_eq!(summed.finish().unwrap(), (BlobDigest::of(b"abcdef"), 6));
    }

    #[test]
    fn a_reader_that_gives_more_than_allowed_is_an_error() {
        assert!(HashingReader::new(&b"abcdef"[..], 5).finish().is_err());
        assert!(HashingReader::new(&b"abcde"[..], 5).finish().is_ok());
    }

    #[test]
    fn only_sha256_in_lower_case_is_a_sum() {
        let good = BlobDigest::of(b"x").to_string();
        assert_eq!(BlobDigest::parse(&good).unwrap(), BlobDigest::of(b"x"));
        for bad in ["sha512:00", &good.to_uppercase(), "", "sha256:../../etc"] {
            assert!(BlobDigest::parse(bad).is_err(), "{bad}");
        }
    }
}
