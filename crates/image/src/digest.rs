//! SHA-256 sums: of whole texts, and of what flows through a reader.

use std::fmt;
use std::io::{self, Read};

use domain::ImageDigest;
use oci_spec::image::Descriptor;
use sha2::{Digest as _, Sha256};

use crate::ImageError;

/// The SHA-256 sum that names a blob.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Sum([u8; 32]);

impl Sum {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The sum in a text `sha256:<hex>`; other algorithms are refused.
    pub(crate) fn parse(text: &str) -> Result<Self, ImageError> {
        let digest: ImageDigest = text.parse().map_err(|_| ImageError::Digest(text.chars().take(100).collect()))?;
        Ok(Self(digest.0))
    }

    /// The sum a descriptor names.
    pub(crate) fn named(descriptor: &Descriptor) -> Result<Self, ImageError> {
        Self::parse(descriptor.digest().as_ref())
    }

    pub(crate) fn hex(self) -> String {
        hex::encode(self.0)
    }
}

impl From<Sum> for ImageDigest {
    fn from(sum: Sum) -> Self {
        Self(sum.0)
    }
}

impl From<ImageDigest> for Sum {
    fn from(digest: ImageDigest) -> Self {
        Self(digest.0)
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A sum in the making.
#[derive(Default)]
pub(crate) struct Summing {
    hash: Sha256,
    bytes: u64,
}

impl Summing {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn finish(self) -> Sum {
        Sum(self.hash.finalize().into())
    }
}

/// A reader that sums what it reads, and refuses to read more than `at_most`.
pub(crate) struct Summed<R> {
    from: R,
    sum: Summing,
    at_most: u64,
}

/// What [`Summed`] says when its bound is passed.
#[derive(Debug, thiserror::Error)]
#[error("larger than {0} bytes")]
pub(crate) struct TooMuch(pub(crate) u64);

impl<R: Read> Summed<R> {
    pub(crate) fn new(from: R, at_most: u64) -> Self {
        Self { from, sum: Summing::default(), at_most }
    }

    /// Reads to the end, and returns the sum and the length of everything.
    pub(crate) fn finish(mut self) -> io::Result<(Sum, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        let bytes = self.sum.bytes();
        Ok((self.sum.finish(), bytes))
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.sum.update(&into[..read]);
        if self.sum.bytes() > self.at_most {
            return Err(io::Error::other(TooMuch(self.at_most)));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_is_summed_to_its_end_even_when_read_in_part() {
        let mut summed = Summed::new(&b"abcdef"[..], 100);
        let mut some = [0; 2];
        summed.read_exact(&mut some).unwrap();
        assert_eq!(summed.finish().unwrap(), (Sum::of(b"abcdef"), 6));
    }

    #[test]
    fn a_reader_that_gives_more_than_allowed_is_an_error() {
        assert!(Summed::new(&b"abcdef"[..], 5).finish().is_err());
        assert!(Summed::new(&b"abcde"[..], 5).finish().is_ok());
    }

    #[test]
    fn only_sha256_in_lower_case_is_a_sum() {
        let good = Sum::of(b"x").to_string();
        assert_eq!(Sum::parse(&good).unwrap(), Sum::of(b"x"));
        for bad in ["sha512:00", &good.to_uppercase(), "", "sha256:../../etc"] {
            assert!(Sum::parse(bad).is_err(), "{bad}");
        }
    }
}
