//! URLs that open one file of an agent, for whoever has them: signed as E2B signs them,
//! with the agent's token.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The form of the signature.
const VERSION: &str = "v1_";

/// What a URL lets its bearer do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOperation {
    /// Read the file.
    Read,
    /// Write it.
    Write,
}

/// What a URL opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileUrl<'a> {
    /// The file, as the URL writes it before it is encoded.
    pub path: &'a str,
    /// What may be done.
    pub operation: FileOperation,
    /// As whom; empty for the agent's own user.
    pub username: &'a str,
    /// Until when, in seconds of Unix time; for as long as the token is good where absent.
    pub expires: Option<i64>,
}

/// Why a URL opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileUrlError {
    /// It was not signed with this token, or other terms were.
    #[error("invalid signature")]
    Invalid,
    /// Its time is over.
    #[error("signature is already expired")]
    Expired,
}

impl FileUrl<'_> {
    /// `v1_` and the base64, without padding, of
    /// SHA-256(`path:operation:username:token[:expires]`).
    #[must_use]
    pub fn sign(&self, token: &SecretString) -> String {
        let operation = match self.operation {
            FileOperation::Read => "read",
            FileOperation::Write => "write",
        };
        let expires = self.expires.map(|expires| format!(":{expires}")).unwrap_or_default();
        let sum = Sha256::new()
            .chain_update(format!("{}:{operation}:{}:", self.path, self.username))
            .chain_update(token.expose_secret())
            .chain_update(expires)
            .finalize();
        format!("{VERSION}{}", STANDARD_NO_PAD.encode(sum))
    }

    /// Whether this signature opens it at this second.
    ///
    /// # Errors
    /// It does not.
    pub fn verify(&self, signature: &str, token: &SecretString, now: i64) -> Result<(), FileUrlError> {
        if !bool::from(self.sign(token).as_bytes().ct_eq(signature.as_bytes())) {
            return Err(FileUrlError::Invalid);
        }
        match self.expires {
            Some(expires) if expires < now => Err(FileUrlError::Expired),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const URL: FileUrl<'_> =
        FileUrl { path: "/home/user/a.txt", operation: FileOperation::Read, username: "user", expires: None };

    fn token() -> SecretString {
        "plt_token".to_owned().into()
    }

    #[test]
    fn a_signature_is_the_one_that_the_sdks_make() {
        // Python's base64.b64encode(hashlib.sha256(b"/home/user/a.txt:read:user:plt_token").digest()).rstrip(b"=").
        assert_eq!(URL.sign(&token()), "v1_0B5WTsTwqncQhU3pCkm01sQK5JtZ7nfc9nAzv135DWM");
        let until = FileUrl { expires: Some(1_700_000_000), ..URL };
        assert_eq!(until.sign(&token()), "v1_sIXhIpkrGPi6KzfRteVBUuECp6mrd/mx2HVYsX8g3dk");
    }

    #[test]
    fn a_url_opens_what_it_names_until_its_time_is_over() {
        let until = FileUrl { expires: Some(100), ..URL };
        let signature = until.sign(&token());
        assert_eq!(until.verify(&signature, &token(), 100), Ok(()));
        assert_eq!(until.verify(&signature, &token(), 101), Err(FileUrlError::Expired));
        for other in [
            FileUrl { expires: Some(200), ..until },
            FileUrl { expires: None, ..until },
            FileUrl { operation: FileOperation::Write, ..until },
            FileUrl { username: "", ..until },
            FileUrl { path: "/home/user/b.txt", ..until },
        ] {
            assert_eq!(other.verify(&signature, &token(), 0), Err(FileUrlError::Invalid), "{other:?}");
        }
        assert_eq!(until.verify(&signature, &"plt_other".to_owned().into(), 0), Err(FileUrlError::Invalid));
    }

    proptest! {
        #[test]
        fn no_other_text_opens_it(signature in any::<String>()) {
            prop_assert_eq!(URL.verify(&signature, &token(), 0), Err(FileUrlError::Invalid));
        }
    }
}
