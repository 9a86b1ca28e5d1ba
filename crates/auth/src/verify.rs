//! From the headers' texts to the wallet that signed.

use std::fmt;
use std::sync::LazyLock;

use curve25519_dalek::constants::EIGHT_TORSION;
use domain::{UnixMillis, Wallet};
use ed25519_dalek::{Signature, Verifier, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::message::{BoundRequest, MessageEncoding, bare_text, bound_text, nameless_text};
use crate::name::GatewayName;

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
pub struct SignatureHeaders<'a> {
    /// `X-Wallet`.
    pub wallet: Option<&'a str>,
    /// `X-Signature`.
    pub signature: Option<&'a str>,
    /// `X-Timestamp`.
    pub timestamp: Option<&'a str>,
    /// `X-Audience`: makes it the bound form.
    pub audience: Option<&'a str>,
}

/// What is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyPolicy<'a> {
    /// The names of the gateway, as its operator listed them.
    pub audiences: &'a [GatewayName],
    /// Refuse Romulus's own form, which binds neither request nor gateway.
    pub require_bound: bool,
}

/// A header of the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the headers")]
pub enum AuthHeader {
    Wallet,
    Signature,
    Timestamp,
    Audience,
}

impl fmt::Display for AuthHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wallet => "X-Wallet",
            Self::Signature => "X-Signature",
            Self::Timestamp => "X-Timestamp",
            Self::Audience => "X-Audience",
        })
    }
}

/// Why a signature is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// A header is absent.
    #[error("the header {0} is missing")]
    Missing(AuthHeader),
    /// A header has the wrong shape.
    #[error("the header {0} is not {expected}", expected = shape(*.0))]
    Malformed(AuthHeader),
    /// Signed too long ago.
    #[error("the signature is older than 5 minutes; sign again")]
    Expired,
    /// Signed in the future.
    #[error("X-Timestamp is more than 30 seconds ahead of this gateway's clock")]
    Early,
    /// Not this wallet's signature of any text this request may carry.
    #[error("the signature is not this wallet's for this request")]
    Invalid,
    /// Meant for another gateway.
    #[error("the signature is for {named}, which is no name of this gateway ([gateway] audiences lists them)")]
    OtherGateway {
        /// The gateway it names.
        named: GatewayName,
    },
    /// Nothing that could bind the request to a gateway, where that is wanted.
    #[error("{}", wanted("this needs a signature that names the gateway"))]
    Unbound,
    /// A good signature that binds the request, and names no gateway.
    #[error("{}", wanted("the signed text names no gateway"))]
    Nameless,
}

/// What is wrong with a text, and which is wanted.
fn wanted(wrong: &str) -> String {
    format!(
        "{wrong}; sign romulus:<unix-ms>:<METHOD>:<host[:port]><path>:<hex sha256 of the body> with the host and port \
         of the gateway's URL as you were given it, and send those as X-Audience too"
    )
}

const fn shape(header: AuthHeader) -> &'static str {
    match header {
        AuthHeader::Wallet => "the base58 of 32 bytes",
        AuthHeader::Signature => "the base58 of 64 bytes",
        AuthHeader::Timestamp => "13 digits of Unix milliseconds",
        AuthHeader::Audience => "the host of a gateway's URL, with its port unless that is the scheme's own",
    }
}

/// A verified signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedSignature {
    /// Who signed.
    pub wallet: Wallet,
    /// How the text was wrapped.
    pub form: MessageEncoding,
    /// Whether the text binds this very request.
    pub bound: bool,
    /// What to remember until `expires_at`: SHA-256 of wallet and text.
    pub replay_key: [u8; 32],
    /// When the signature is refused as too old anyway.
    pub expires_at: UnixMillis,
}

/// Verifies the headers of a request.
///
/// The cheap checks come first; lengths are capped before anything is decoded.
/// A request whose signature is good costs one curve operation for raw bytes; a bad
/// one costs one for each [`MessageEncoding`], without an audience two.
///
/// # Errors
/// [`AuthError`] says which header is at fault and how.
pub fn verify(
    headers: SignatureHeaders<'_>,
    request: &BoundRequest<'_>,
    policy: VerifyPolicy<'_>,
    now: UnixMillis,
) -> Result<VerifiedSignature, AuthError> {
    UnverifiedSignature::read(headers, policy, now)?.verify(request, now)
}

/// What a request's headers claim. Whoever has one knows that its body is worth
/// reading: what is refused whatever the body is, is refused already, as far as that
/// takes no work on the curve.
#[expect(missing_debug_implementations, reason = "until it is spent, it is as good as a password")]
#[derive(Clone, Copy)]
pub struct UnverifiedSignature<'a> {
    wallet: Wallet,
    signature: Signature,
    at: UnixMillis,
    audience: Option<&'a GatewayName>,
}

impl<'a> UnverifiedSignature<'a> {
    /// Reads the headers.
    ///
    /// # Errors
    /// Those of [`verify`] that need neither the body nor the curve.
    pub fn read(headers: SignatureHeaders<'_>, policy: VerifyPolicy<'a>, now: UnixMillis) -> Result<Self, AuthError> {
        let wallet = headers.wallet.ok_or(AuthError::Missing(AuthHeader::Wallet))?;
        let signature = headers.signature.ok_or(AuthError::Missing(AuthHeader::Signature))?;
        let timestamp = headers.timestamp.ok_or(AuthError::Missing(AuthHeader::Timestamp))?;
        let at = parse_timestamp(timestamp)?;
        check_window(at, now)?;
        let audience = headers.audience.map(|named| find_audience(named, policy.audiences)).transpose()?;
        if policy.require_bound && audience.is_none() {
            return Err(AuthError::Unbound);
        }
        let wallet: Wallet = wallet.parse().map_err(|_| AuthError::Malformed(AuthHeader::Wallet))?;
        let signature = parse_signature(signature)?;
        Ok(Self { wallet, signature, at, audience })
    }

    /// Whether the wallet has signed this request. The body may have been long in
    /// coming: the signature must be good at `now` too, or it could be spent when
    /// nobody remembers it any more.
    ///
    /// # Errors
    /// As [`verify`].
    pub fn verify(&self, request: &BoundRequest<'_>, now: UnixMillis) -> Result<VerifiedSignature, AuthError> {
        let Self { wallet, ref signature, at, audience } = *self;
        check_window(at, now)?;
        let key = VerifyingKey::from_bytes(&wallet.0).map_err(|_| AuthError::Malformed(AuthHeader::Wallet))?;
        let wrapped = |text: &str| form_of(&key, signature, text);
        let (text, bound) = match audience {
            Some(gateway) => (bound_text(at, gateway, request), true),
            None => (bare_text(at), false),
        };
        let Some(form) = wrapped(&text) else {
            let nameless = !bound && wrapped(&nameless_text(at, request)).is_some();
            return Err(if nameless { AuthError::Nameless } else { AuthError::Invalid });
        };
        Ok(VerifiedSignature {
            wallet,
            form,
            bound,
            replay_key: replay_key(&wallet, &text),
            expires_at: at.plus(PAST_MS),
        })
    }
}

/// Finds the form in which this text was signed, if it was.
pub(crate) fn form_of(key: &VerifyingKey, signature: &Signature, text: &str) -> Option<MessageEncoding> {
    let mut bytes = Vec::with_capacity(256);
    let signed =
        |form: &MessageEncoding| form.write(key.as_bytes(), text, &mut bytes) && strict(key, &bytes, signature);
    MessageEncoding::ALL.into_iter().find(signed)
}

fn find_audience<'a>(text: &str, ours: &'a [GatewayName]) -> Result<&'a GatewayName, AuthError> {
    ours.iter().find(|name| name.as_str() == text).ok_or_else(|| match text.parse() {
        Ok(named) => AuthError::OtherGateway { named },
        Err(_) => AuthError::Malformed(AuthHeader::Audience),
    })
}

/// What `VerifyingKey::verify_strict` says, for one square root less: the plain check
/// compares `R` with the canonical encoding of the point it computes, so an `R` that
/// passes is canonical, and of small order only if it is one of these eight.
fn strict(key: &VerifyingKey, message: &[u8], signature: &Signature) -> bool {
    static SMALL: LazyLock<[[u8; 32]; 8]> = LazyLock::new(|| EIGHT_TORSION.map(|point| point.compress().to_bytes()));
    !key.is_weak() && !SMALL.contains(signature.r_bytes()) && key.verify(message, signature).is_ok()
}

fn parse_timestamp(text: &str) -> Result<UnixMillis, AuthError> {
    let shaped = text.len() == TIMESTAMP_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
    let malformed = AuthError::Malformed(AuthHeader::Timestamp);
    if shaped { text.parse().map(UnixMillis).map_err(|_| malformed) } else { Err(malformed) }
}

const fn check_window(at: UnixMillis, now: UnixMillis) -> Result<(), AuthError> {
    if now.since(at) > PAST_MS {
        return Err(AuthError::Expired);
    }
    if at.since(now) > FUTURE_MS { Err(AuthError::Early) } else { Ok(()) }
}

fn parse_signature(text: &str) -> Result<Signature, AuthError> {
    let malformed = AuthError::Malformed(AuthHeader::Signature);
    if text.len() > MAX_SIGNATURE_TEXT {
        return Err(malformed);
    }
    let mut bytes = [0; 64];
    five8::decode_64(text, &mut bytes).map_err(|_| malformed)?;
    Ok(Signature::from_bytes(&bytes))
}

pub(crate) fn replay_key(wallet: &Wallet, text: &str) -> [u8; 32] {
    Sha256::new().chain_update(wallet.0).chain_update(text).finalize().into()
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
    use curve25519_dalek::scalar::Scalar;
    use ed25519_dalek::{Signer, SigningKey};
    use proptest::prelude::*;
    use sha2::Sha512;

    use super::*;

    const MESSAGE: &[u8] = b"romulus:1795000000000";

    fn agree(key: [u8; 32], signature: [u8; 64]) -> bool {
        let signature = Signature::from_bytes(&signature);
        let Ok(key) = VerifyingKey::from_bytes(&key) else { return false };
        let theirs = key.verify_strict(MESSAGE, &signature).is_ok();
        assert_eq!(strict(&key, MESSAGE, &signature), theirs, "{key:?} {signature:?}");
        theirs
    }

    /// A signature by the scalar whose `R` is this point: it satisfies the plain
    /// equation if `r` is the point's logarithm.
    fn signed(scalar: Scalar, key: EdwardsPoint, r: Scalar, point: CompressedEdwardsY) -> ([u8; 32], [u8; 64]) {
        let key = key.compress().to_bytes();
        let hash = Sha512::new().chain_update(point.as_bytes()).chain_update(key).chain_update(MESSAGE).finalize();
        let k = Scalar::from_bytes_mod_order_wide(&hash.into());
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(point.as_bytes());
        signature[32..].copy_from_slice((r + k * scalar).as_bytes());
        (key, signature)
    }

    #[test]
    fn points_of_small_order_are_refused_as_the_library_refuses_them() {
        let scalar = Scalar::from(7_u64);
        let key = EdwardsPoint::mul_base(&scalar);
        let (honest, r) = (EdwardsPoint::mul_base(&Scalar::from(9_u64)).compress(), Scalar::from(9_u64));
        let (bytes, signature) = signed(scalar, key, r, honest);
        assert!(agree(bytes, signature));
        for torsion in EIGHT_TORSION {
            let small = torsion.compress();
            for (key, r, point) in [(key, Scalar::ZERO, small), (torsion, Scalar::ZERO, small), (torsion, r, honest)] {
                let (bytes, signature) = signed(scalar, key, r, point);
                assert!(!agree(bytes, signature));
            }
            // A key of mixed order is nobody's but its maker's: as the library says.
            let (bytes, signature) = signed(scalar, key + torsion, r, honest);
            agree(bytes, signature);
        }
    }

    #[test]
    fn encodings_of_small_points_that_are_not_canonical_are_refused() {
        // y = 1 and y = 0, each plus p; and y = 1 with the sign of a zero set.
        let mut one = [0xff; 32];
        (one[0], one[31]) = (0xee, 0x7f);
        let mut zero = one;
        zero[0] = 0xed;
        let mut minus = [0; 32];
        (minus[0], minus[31]) = (1, 0x80);
        let key = EdwardsPoint::mul_base(&Scalar::from(7_u64));
        for text in [one, zero, minus] {
            let (bytes, signature) = signed(Scalar::from(7_u64), key, Scalar::ZERO, CompressedEdwardsY(text));
            assert!(!agree(bytes, signature));
            assert!(!agree(text, signature));
        }
    }

    proptest! {
        #[test]
        fn a_signature_with_any_byte_changed_has_the_librarys_verdict(seed: [u8; 32], at in 0..96_usize, flip: u8) {
            let signing = SigningKey::from_bytes(&seed);
            let mut key = signing.verifying_key().to_bytes();
            let mut signature = signing.sign(MESSAGE).to_bytes();
            if at < 64 { signature[at] ^= flip } else { key[at - 64] ^= flip }
            prop_assert_eq!(agree(key, signature), flip == 0);
        }
    }
}
