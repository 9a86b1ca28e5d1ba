//! Payments: what `X-Payment` holds, and whether it is what was asked for. Pure.

use alloy_primitives::{Address, B256, Signature, U256};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use domain::Usdc;
use domain::payment::{Authorization, SignedAuthorization};
use wire::v1::relay::{FeePayment, X402_VERSION};

use crate::chain::ChainParameters;
use crate::text::{self, ParseError};

/// Bytes of an `X-Payment` header at most: base64 of some 700 bytes of JSON.
pub const MAX_HEADER: usize = 4096;
/// Seconds that a payment must still be good for: it has to be mined.
pub const MIN_VALIDITY_S: u64 = 30;

/// Why a payment is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PaymentError {
    /// Not base64 of the JSON of a payment.
    #[error("X-Payment is not the base64 of a payment's JSON")]
    Shape,
    /// A field of it has the wrong shape.
    #[error("X-Payment: {field} {error}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it should be.
        error: ParseError,
    },
    /// Of another protocol.
    #[error("X-Payment is of version {0}; this relayer takes version 1")]
    Version(u64),
    /// Of another scheme.
    #[error("X-Payment is not of the scheme exact")]
    Scheme,
    /// For another chain.
    #[error("X-Payment is not for {0}")]
    Network(String),
    /// To somebody else.
    #[error("the payment is to another wallet than {0}")]
    Payee(Address),
    /// Less than the price.
    #[error("the payment is of {paid} USDC; the price is {price} USDC")]
    TooLittle {
        /// What was offered.
        paid: Usdc,
        /// What was asked.
        price: Usdc,
    },
    /// Not good yet, or not for long enough.
    #[error("the payment must be valid now and for {MIN_VALIDITY_S} more seconds")]
    Window,
    /// Not the payer's signature in this token's domain.
    #[error("the payment's signature is not its payer's in the domain of {name} version {version} at {token}")]
    Signature {
        /// The token's name.
        name: String,
        /// Its version.
        version: String,
        /// Its address.
        token: Address,
    },
    /// Used or cancelled on the chain.
    #[error("the payment's nonce is used or cancelled")]
    Spent,
    /// Presented before, for something else.
    #[error("this payment was presented for another request")]
    Reused,
    /// The token would refuse it.
    #[error("the token would refuse the payment: {0}")]
    Refused(String),
    /// It could not be collected after all.
    #[error("the payment could not be collected: {0}")]
    Failed(String),
}

/// Reads an `X-Payment` header.
///
/// # Errors
/// Says which part has the wrong shape.
pub fn read(header: &str, facts: &ChainParameters) -> Result<SignedAuthorization, PaymentError> {
    let payment = decode(header)?;
    if payment.version != X402_VERSION {
        return Err(PaymentError::Version(payment.version));
    }
    if payment.scheme != SCHEME {
        return Err(PaymentError::Scheme);
    }
    if payment.network != network(facts.chain_id) {
        return Err(PaymentError::Network(network(facts.chain_id)));
    }
    let signature = field("signature", text::signature(&payment.payload.signature))?;
    let authorization = authorization(&payment.payload.authorization, facts)?;
    let signature = canonical(&signature).ok_or_else(|| not_signed(facts))?;
    Ok(SignedAuthorization { authorization, signature })
}

/// Checks everything that can be checked without the chain.
///
/// # Errors
/// Says what is wrong with it.
pub fn check(
    signed: &SignedAuthorization,
    facts: &ChainParameters,
    payee: Address,
    price: Usdc,
    now_s: u64,
) -> Result<(), PaymentError> {
    let Authorization { from, to, value, valid_after, valid_before, .. } = signed.authorization;
    if to != payee {
        return Err(PaymentError::Payee(payee));
    }
    if value < price {
        return Err(PaymentError::TooLittle { paid: value, price });
    }
    if valid_after >= U256::from(now_s) || valid_before <= U256::from(now_s.saturating_add(MIN_VALIDITY_S)) {
        return Err(PaymentError::Window);
    }
    let digest = signed.authorization.digest(facts.token_separator());
    let signer = signed.signature.recover_address_from_prehash(&digest).ok();
    if signer == Some(from) { Ok(()) } else { Err(not_signed(facts)) }
}

fn not_signed(facts: &ChainParameters) -> PaymentError {
    let (name, version) = (facts.token_name.clone(), facts.token_version.clone());
    PaymentError::Signature { name, version, token: facts.token }
}

/// An authorization as JSON has it.
#[must_use]
pub fn to_wire(authorization: &Authorization) -> wire::v1::relay::Authorization {
    wire::v1::relay::Authorization {
        from: authorization.from.to_string(),
        to: authorization.to.to_string(),
        value: authorization.value.0.to_string(),
        valid_after: authorization.valid_after.to_string(),
        valid_before: authorization.valid_before.to_string(),
        nonce: authorization.nonce.to_string(),
    }
}

/// x402's scheme of a fixed price.
pub(crate) const SCHEME: &str = "exact";

/// CAIP-2.
pub(crate) fn network(chain_id: u64) -> String {
    format!("eip155:{chain_id}")
}

/// Who made this signature; see [`canonical`].
#[must_use]
pub fn recover(signature: &[u8], digest: B256) -> Option<Address> {
    canonical(signature)?.recover_address_from_prehash(&digest).ok()
}

/// A signature in the one form that OpenZeppelin and USDC take: 65 bytes, `v` 27 or 28
/// (see [`text::signature`]), `s` in the lower half.
fn canonical(signature: &[u8]) -> Option<Signature> {
    let bytes: &[u8; 65] = signature.try_into().ok()?;
    let plain_v = matches!(bytes[64], 27 | 28);
    let signature = Signature::from_raw_array(bytes).ok().filter(|_| plain_v)?;
    signature.normalize_s().is_none().then_some(signature)
}

fn decode(header: &str) -> Result<FeePayment, PaymentError> {
    if header.len() > MAX_HEADER {
        return Err(PaymentError::Shape);
    }
    let json = STANDARD.decode(header).or_else(|_| STANDARD_NO_PAD.decode(header));
    serde_json::from_slice(&json.map_err(|_| PaymentError::Shape)?).map_err(|_| PaymentError::Shape)
}

fn authorization(
    wire: &wire::v1::relay::Authorization,
    facts: &ChainParameters,
) -> Result<Authorization, PaymentError> {
    Ok(Authorization {
        chain_id: facts.chain_id,
        asset: facts.token,
        from: field("from", text::address(&wire.from))?,
        to: field("to", text::address(&wire.to))?,
        value: field("value", text::small(&wire.value)).map(Usdc)?,
        valid_after: field("validAfter", text::number(&wire.valid_after))?,
        valid_before: field("validBefore", text::number(&wire.valid_before))?,
        nonce: field("nonce", text::word(&wire.nonce))?,
    })
}

fn field<T>(field: &'static str, read: Result<T, ParseError>) -> Result<T, PaymentError> {
    read.map_err(|error| PaymentError::Field { field, error })
}
