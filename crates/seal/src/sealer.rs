//! What is sealed is of no use without the key, and nowhere but in its place.

use std::io;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use crate::key::Key;

const NONCE_BYTES: usize = 24;

/// Why something is not sealed, or does not open.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// No random bytes.
    #[error("draw random bytes")]
    Random(#[source] io::Error),
    /// More than the cipher takes.
    #[error("it is too long to be sealed")]
    TooLong,
    /// Shorter than anything sealed.
    #[error("it is cut off")]
    CutOff,
    /// The tag differs.
    #[error("it was sealed with another key or for another place, or it was altered")]
    Foreign,
}

/// For who names the file in an error of its own.
impl From<SealError> for io::Error {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Random(source) => source,
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// A key in use: XChaCha20-Poly1305 with random numbers of 24 bytes, which may be drawn
/// without counting. Wiped from memory when dropped.
#[derive(Clone)]
pub struct Sealer(XChaCha20Poly1305);

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// With this key.
    #[must_use]
    pub fn new(key: &Key) -> Self {
        Self(XChaCha20Poly1305::new(key.expose_secret().into()))
    }

    /// Seals a text for its place: what does not name the same place does not open it.
    ///
    /// # Errors
    /// [`SealError::Random`], [`SealError::TooLong`].
    pub fn seal(&self, clear: &[u8], place: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|error| SealError::Random(io::Error::other(error)))?;
        let payload = Payload { msg: clear, aad: place };
        let sealed = self.0.encrypt(&XNonce::from(nonce), payload).map_err(|_| SealError::TooLong)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Opens what was sealed for this place.
    ///
    /// # Errors
    /// [`SealError::CutOff`], [`SealError::Foreign`].
    pub fn open(&self, sealed: &[u8], place: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(SealError::CutOff)?;
        let clear = self.0.decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: place });
        clear.map(Zeroizing::new).map_err(|_| SealError::Foreign)
    }
}

#[cfg(test)]
mod tests {
    use crate::key::generate;

    use super::*;

    #[test]
    fn a_sealed_text_comes_back_with_the_same_key_for_the_same_place_only() {
        let (sealer, other) = (Sealer::new(&generate().unwrap()), Sealer::new(&generate().unwrap()));
        let sealed = sealer.seal(b"hush-hush", b"here").unwrap();
        assert!(!sealed.windows(9).any(|bytes| bytes == b"hush-hush"));
        assert_eq!(sealer.open(&sealed, b"here").unwrap().as_slice(), b"hush-hush");
        assert!(matches!(other.open(&sealed, b"here"), Err(SealError::Foreign)));
        assert!(matches!(sealer.open(&sealed, b"there"), Err(SealError::Foreign)));
        assert!(matches!(sealer.open(&sealed[..10], b"here"), Err(SealError::CutOff)));
        assert!(matches!(sealer.open(&sealed[..40], b"here"), Err(SealError::Foreign)));
    }

    #[test]
    fn two_sealings_of_one_text_are_not_told_to_be_alike() {
        let sealer = Sealer::new(&generate().unwrap());
        assert_ne!(sealer.seal(b"a", b"").unwrap(), sealer.seal(b"a", b"").unwrap());
    }

    /// As nodes have sealed their guests' secrets since the first version: number, then
    /// text and tag. The vector is that of draft-irtf-cfrg-xchacha, A.3.1.
    #[test]
    fn what_another_implementation_sealed_opens() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        let mut key = [0_u8; 32];
        key.copy_from_slice(&hex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"));
        let sealed = hex(concat!(
            "404142434445464748494a4b4c4d4e4f5051525354555657",
            "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39",
            "ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9",
            "21f9664c97637da9768812f615c68b13b52e",
            "c0875924c1c7987947deafd8780acf49",
        ));
        let sealer = Sealer::new(&Key::new(Box::new(key)));
        let clear = sealer.open(&sealed, &hex("50515253c0c1c2c3c4c5c6c7")).unwrap();
        assert!(clear.starts_with(b"Ladies and Gentlemen of the class of '99"), "{clear:?}");
    }
}
