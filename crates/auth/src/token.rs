//! The agents' bearer tokens: made of a key and the run's id, so that nothing
//! secret is stored and a retried spawn shows the same token again. The same for the uploads
//! of images.

use std::fmt;

use domain::{ImageId, RunId};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const PREFIX: &str = "plt_";
const PURPOSE: &[u8] = b"palatine agent token v1";
const UPLOAD_PREFIX: &str = "plu_";
const UPLOAD: &[u8] = b"palatine upload token v1";
const CONTENT: &[u8] = b"palatine content token v1";
const FINGERPRINT: &[u8] = b"palatine request fingerprint v1";

/// Makes and checks agents' tokens.
#[derive(Clone)]
pub struct TokenIssuer {
    token: Hmac<Sha256>,
    upload: Hmac<Sha256>,
    pub(crate) content: Hmac<Sha256>,
    fingerprint: Hmac<Sha256>,
}

impl fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens(..)")
    }
}

impl TokenIssuer {
    /// The longest text a token can be: what a caller need look at.
    pub const MAX_TEXT: usize = PREFIX.len() + 44;

    /// With this key. Another key makes every token invalid.
    #[must_use]
    pub fn new(key: &SecretBox<[u8; 32]>) -> Self {
        // HMAC's own rule for a key shorter than a block: zeros behind it.
        let mut block = Zeroizing::new([0; 64]);
        block[..32].copy_from_slice(key.expose_secret());
        let keyed = <Hmac<Sha256> as KeyInit>::new((&*block).into());
        Self {
            token: keyed.clone().chain_update(PURPOSE),
            upload: keyed.clone().chain_update(UPLOAD),
            content: keyed.clone().chain_update(CONTENT),
            fingerprint: keyed.chain_update(FINGERPRINT),
        }
    }

    /// The token of a run of an agent: `plt_` and the base58 of
    /// HMAC-SHA256(key, purpose ‖ id).
    #[must_use]
    pub fn token(&self, id: RunId) -> SecretString {
        text(PREFIX, &self.token, id.bits())
    }

    /// The token of the upload of an image: `plu_` and the base58 of
    /// HMAC-SHA256(key, purpose ‖ id).
    #[must_use]
    pub fn upload_token(&self, id: ImageId) -> SecretString {
        text(UPLOAD_PREFIX, &self.upload, id.bits())
    }

    /// Whether `presented` is this upload's token, in constant time.
    #[must_use]
    pub fn verify_upload(&self, id: ImageId, presented: &str) -> bool {
        let expected = self.upload_token(id);
        bool::from(expected.expose_secret().as_bytes().ct_eq(presented.as_bytes()))
    }

    /// A digest by which a request is known again. Keyed, since a request may
    /// hold secrets that a plain digest would let be guessed.
    #[must_use]
    pub fn fingerprint(&self, request: &[u8]) -> [u8; 32] {
        self.fingerprint.clone().chain_update(request).finalize().into_bytes().into()
    }

    /// Whether `presented` is this run's token, in constant time.
    #[must_use]
    pub fn verify(&self, id: RunId, presented: &str) -> bool {
        let expected = self.token(id);
        bool::from(expected.expose_secret().as_bytes().ct_eq(presented.as_bytes()))
    }
}

fn text(prefix: &str, keyed: &Hmac<Sha256>, id: u64) -> SecretString {
    let sum = keyed.clone().chain_update(id.to_be_bytes()).finalize().into_bytes();
    let sum: &[u8; 32] = sum.as_ref();
    let mut text = Zeroizing::new([0; 44]);
    let length = five8::encode_32(sum, &mut text);
    format!("{prefix}{}", String::from_utf8_lossy(&text[..usize::from(length)])).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(byte: u8) -> TokenIssuer {
        TokenIssuer::new(&SecretBox::new(Box::new([byte; 32])))
    }

    #[test]
    fn a_token_is_the_same_after_a_restart_and_never_prints() {
        let id = RunId::from_bits(0xa1b2_c3d4_e5f6_7890);
        let token = tokens(1).token(id);
        assert_eq!(token.expose_secret(), tokens(1).token(id).expose_secret());
        assert_eq!(token.expose_secret(), "plt_ABwKtehmYfBVKh1zPPdWwfYqQZC9rXuUpqc1NPQzy3jj");
        assert!(!format!("{:?}{token:?}", tokens(1)).contains("plt_A"));
    }

    #[test]
    fn an_upload_has_a_token_of_its_own_that_opens_no_agent() {
        let (run, image) = (RunId::from_bits(7), ImageId::from_bits(7));
        let token = tokens(1).upload_token(image);
        assert!(token.expose_secret().starts_with("plu_"));
        assert!(tokens(1).verify_upload(image, token.expose_secret()));
        assert!(!tokens(1).verify(run, token.expose_secret()));
        let agents = tokens(1).token(run).expose_secret().replace("plt_", "plu_");
        assert!(!tokens(1).verify_upload(image, &agents));
        for other in [tokens(1).upload_token(ImageId::from_bits(8)), tokens(2).upload_token(image)] {
            assert!(!tokens(1).verify_upload(image, other.expose_secret()));
        }
    }

    proptest! {
        #[test]
        fn a_token_opens_its_own_agent_alone(one: u64, two: u64, noise in ".{0,60}") {
            let (one, two) = (RunId::from_bits(one), RunId::from_bits(two));
            let token = tokens(1).token(one);
            prop_assert!(token.expose_secret().len() <= TokenIssuer::MAX_TEXT);
            prop_assert!(tokens(1).verify(one, token.expose_secret()));
            prop_assert_eq!(tokens(1).verify(two, token.expose_secret()), one == two);
            prop_assert!(!tokens(2).verify(one, token.expose_secret()));
            prop_assert!(!tokens(1).verify(one, &noise));
        }
    }
}
