//! The signing side: a Solana keypair, and the headers it makes.

use std::fmt;

use domain::{UnixMillis, Wallet};
use ed25519_dalek::{Signer, SigningKey};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::message::{BoundRequest, MessageEncoding, bare_text, bound_text};
use crate::name::GatewayName;
use crate::verify::MAX_SIGNATURE_TEXT;

/// The longest keypair file that is read: 64 numbers, generously spaced.
const MAX_JSON: usize = 1024;

/// Why a keypair file is refused. Never shows what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeypairError {
    /// Not the shape of a Solana keypair file.
    #[error("a Solana keypair file is a JSON array of 64 numbers from 0 to 255")]
    Shape,
    /// The second half is not the first half's public key.
    #[error("the keypair's public half does not belong to its secret half")]
    Mismatch,
}

/// The headers of a signed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHeaders {
    /// `X-Wallet`.
    pub wallet: String,
    /// `X-Signature`.
    pub signature: String,
    /// `X-Timestamp`.
    pub timestamp: String,
    /// `X-Audience`: of the bound form alone.
    pub audience: Option<GatewayName>,
}

/// A wallet that can sign. Wiped from memory when dropped.
#[derive(Clone)]
pub struct Keypair(SigningKey);

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keypair({})", self.wallet())
    }
}

impl Keypair {
    /// The keypair made of these 32 random bytes.
    #[must_use]
    pub fn generate(random: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(random))
    }

    /// Reads a Solana keypair file: a JSON array of 64 bytes.
    ///
    /// # Errors
    /// [`KeypairError`], without a word of the content.
    pub fn from_json(text: &str) -> Result<Self, KeypairError> {
        if text.len() > MAX_JSON {
            return Err(KeypairError::Shape);
        }
        let bytes: Vec<u8> = serde_json::from_str(text).map_err(|_| KeypairError::Shape)?;
        let bytes = Zeroizing::new(bytes);
        let whole: &[u8; 64] = bytes.as_slice().try_into().map_err(|_| KeypairError::Shape)?;
        SigningKey::from_keypair_bytes(whole).map(Self).map_err(|_| KeypairError::Mismatch)
    }

    /// The content of a Solana keypair file.
    #[must_use]
    pub fn to_json(&self) -> SecretString {
        let bytes = Zeroizing::new(self.0.to_keypair_bytes());
        let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
        SecretString::from(format!("[{}]", numbers.join(",")))
    }

    /// The public half.
    #[must_use]
    pub fn wallet(&self) -> Wallet {
        Wallet(self.0.verifying_key().to_bytes())
    }

    /// Signs one request to this gateway in the bound form. Two equal requests in
    /// one millisecond are one request to the gateway: sign each with an instant of
    /// its own.
    #[must_use]
    pub fn sign_request(&self, gateway: &GatewayName, request: &BoundRequest<'_>, now: UnixMillis) -> SignedHeaders {
        let signed = self.sign_text(&bound_text(now, gateway, request), MessageEncoding::Raw, now);
        SignedHeaders { audience: Some(gateway.clone()), ..signed }
    }

    /// Signs Romulus's own text in this form. It binds no request and no gateway; prefer
    /// [`Self::sign_request`].
    #[must_use]
    pub fn sign_instant(&self, form: MessageEncoding, now: UnixMillis) -> SignedHeaders {
        self.sign_text(&bare_text(now), form, now)
    }

    fn sign_text(&self, text: &str, form: MessageEncoding, now: UnixMillis) -> SignedHeaders {
        SignedHeaders {
            wallet: self.wallet().to_string(),
            signature: base58(&self.sign_bytes(text, form)),
            timestamp: format!("{now:0>13}"),
            audience: None,
        }
    }

    pub(crate) fn sign_bytes(&self, text: &str, form: MessageEncoding) -> [u8; 64] {
        let mut bytes = Vec::new();
        let carried = form.write(&self.wallet().0, text, &mut bytes);
        debug_assert!(carried, "a text that a request can carry fits every form");
        self.0.sign(&bytes).to_bytes()
    }
}

pub(crate) fn base58(signature: &[u8; 64]) -> String {
    let mut text = [0; MAX_SIGNATURE_TEXT];
    let length = five8::encode_64(signature, &mut text);
    String::from_utf8_lossy(&text[..usize::from(length)]).into_owned()
}
