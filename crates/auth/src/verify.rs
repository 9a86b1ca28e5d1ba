//! From three header texts to the wallet that signed.

use std::fmt;

use domain::{UnixMillis, Wallet};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::message::{Form, Request, bare_text, bound_text};

/// How long a signature is good.
pub const PAST_MS: u64 = 5 * 60 * 1000;
/// How far a signer's clock may be ahead of ours.
pub const FUTURE_MS: u64 = 30 * 1000;
/// Digits of a timestamp: Unix milliseconds from 2001 to 2286.
pub const TIMESTAMP_DIGITS: usize = 13;
/// The longest base58 text of 64 bytes.
pub const MAX_SIGNATURE_TEXT: usize = 88;

/// The headers as they came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Presented<'a> {
    /// `X-Wallet`.
    pub wallet: Option<&'a str>,
    /// `X-Signature`.
    pub signature: Option<&'a str>,
    /// `X-Timestamp`.
    pub timestamp: Option<&'a str>,
}

/// What the operator accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Refuse Romulus's own form, which binds no request.
    pub require_bound: bool,
}

/// A header of the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the headers")]
pub enum Header {
    Wallet,
    Signature,
    Timestamp,
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wallet => "X-Wallet",
            Self::Signature => "X-Signature",
            Self::Timestamp => "X-Timestamp",
        })
    }
}

/// Why a signature is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// A header is absent.
    #[error("the header {0} is missing")]
    Missing(Header),
    /// A header has the wrong shape.
    #[error("the header {0} is not {expected}", expected = shape(*.0))]
    Malformed(Header),
    /// Signed too long ago.
    #[error("the signature is older than 5 minutes; sign again")]
    Expired,
    /// Signed in the future.
    #[error("X-Timestamp is more than 30 seconds ahead of this gateway's clock")]
    Early,
    /// Not this wallet's signature of any text this request may carry.
    #[error("the signature is not this wallet's for this request")]
    Invalid,
    /// A good signature that binds no request, where one is wanted.
    #[error("this gateway wants romulus:<unix-ms>:<METHOD>:<path>:<hex sha256 of the body> to be signed")]
    Unbound,
}

const fn shape(header: Header) -> &'static str {
    match header {
        Header::Wallet => "the base58 of 32 bytes",
        Header::Signature => "the base58 of 64 bytes",
        Header::Timestamp => "13 digits of Unix milliseconds",
    }
}

/// A verified signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Who signed.
    pub wallet: Wallet,
    /// How the text was wrapped.
    pub form: Form,
    /// Whether the text binds this very request.
    pub bound: bool,
    /// What to remember until `expires_at`: SHA-256 of wallet and text.
    pub stamp_key: [u8; 32],
    /// When the signature is refused as too old anyway.
    pub expires_at: UnixMillis,
}

/// Verifies the headers of a request.
///
/// The cheap checks come first; lengths are capped before anything is decoded.
/// A request whose signature is good costs one curve operation in our client's
/// form, two in Romulus's own; a bad one costs six.
///
/// # Errors
/// [`AuthError`] says which header is at fault and how.
pub fn verify(
    presented: Presented<'_>,
    request: &Request<'_>,
    policy: Policy,
    now: UnixMillis,
) -> Result<Signed, AuthError> {
    let wallet = presented.wallet.ok_or(AuthError::Missing(Header::Wallet))?;
    let signature = presented.signature.ok_or(AuthError::Missing(Header::Signature))?;
    let timestamp = presented.timestamp.ok_or(AuthError::Missing(Header::Timestamp))?;
    let at = parse_timestamp(timestamp)?;
    check_window(at, now)?;
    let wallet: Wallet = wallet.parse().map_err(|_| AuthError::Malformed(Header::Wallet))?;
    let signature = parse_signature(signature)?;
    let key = VerifyingKey::from_bytes(&wallet.0).map_err(|_| AuthError::Malformed(Header::Wallet))?;
    let Some((text, form, bound)) = which_text(&key, &signature, request, at) else {
        return Err(AuthError::Invalid);
    };
    if policy.require_bound && !bound {
        return Err(AuthError::Unbound);
    }
    Ok(Signed { wallet, form, bound, stamp_key: stamp_key(&wallet, &text), expires_at: at.plus(PAST_MS) })
}

/// Finds the text that was signed. The raw forms come first: nearly every
/// request is one of those two.
fn which_text(
    key: &VerifyingKey,
    signature: &Signature,
    request: &Request<'_>,
    at: UnixMillis,
) -> Option<(String, Form, bool)> {
    let texts = [(bound_text(at, request), true), (bare_text(at), false)];
    let mut bytes = Vec::with_capacity(256);
    for form in Form::ALL {
        for (text, bound) in &texts {
            if form.write(key.as_bytes(), text, &mut bytes) && key.verify_strict(&bytes, signature).is_ok() {
                return Some((text.clone(), form, *bound));
            }
        }
    }
    None
}

fn parse_timestamp(text: &str) -> Result<UnixMillis, AuthError> {
    let shaped = text.len() == TIMESTAMP_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
    let malformed = AuthError::Malformed(Header::Timestamp);
    if shaped { text.parse().map(UnixMillis).map_err(|_| malformed) } else { Err(malformed) }
}

const fn check_window(at: UnixMillis, now: UnixMillis) -> Result<(), AuthError> {
    if now.since(at) > PAST_MS {
        return Err(AuthError::Expired);
    }
    if at.since(now) > FUTURE_MS { Err(AuthError::Early) } else { Ok(()) }
}

fn parse_signature(text: &str) -> Result<Signature, AuthError> {
    let malformed = AuthError::Malformed(Header::Signature);
    if text.len() > MAX_SIGNATURE_TEXT {
        return Err(malformed);
    }
    let mut bytes = [0; 64];
    match bs58::decode(text).onto(&mut bytes) {
        Ok(64) => Ok(Signature::from_bytes(&bytes)),
        _ => Err(malformed),
    }
}

fn stamp_key(wallet: &Wallet, text: &str) -> [u8; 32] {
    Sha256::new().chain_update(wallet.0).chain_update(text).finalize().into()
}
