//! The signed part of a payment, the same in versions 1 and 2: the scheme
//! `exact` on EVM chains.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::number::{address, amount, decimal, signature, word};
use crate::unverified::SignedTransfer;
use crate::{InvalidReason, SignedAuthorization};

/// The one scheme.
pub(super) const SCHEME: &str = "exact";

/// `payload`, as the specification of `exact` on EVM has it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExactPayload {
    signature: String,
    authorization: Box<RawValue>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ExactAuthorization {
    from: String,
    to: String,
    value: String,
    valid_after: String,
    valid_before: String,
    nonce: String,
}

impl ExactPayload {
    pub(super) fn transfer(&self) -> Result<SignedTransfer, InvalidReason> {
        let signed: ExactAuthorization = parse(self.authorization.get().as_bytes())?;
        Ok(SignedTransfer {
            from: address(&signed.from)?,
            to: address(&signed.to)?,
            value: amount(&signed.value)?,
            valid_after: decimal(&signed.valid_after)?,
            valid_before: decimal(&signed.valid_before)?,
            nonce: word(&signed.nonce)?,
            signature: signature(&self.signature)?,
        })
    }
}

/// `payload` of a payment of ours.
pub(super) fn payload_of(payment: &SignedAuthorization) -> Value {
    let signed = &payment.authorization;
    let authorization = ExactAuthorization {
        from: signed.from.to_string(),
        to: signed.to.to_string(),
        value: signed.value.0.to_string(),
        valid_after: signed.valid_after.to_string(),
        valid_before: signed.valid_before.to_string(),
        nonce: signed.nonce.to_string(),
    };
    let signature = format!("0x{}", alloy_primitives::hex::encode(payment.signature.as_bytes()));
    json!({ "signature": signature, "authorization": authorization })
}

/// Whether the scheme is the one that is supported.
pub(super) fn exact(scheme: &str) -> Result<(), InvalidReason> {
    if scheme == SCHEME { Ok(()) } else { Err(InvalidReason::Scheme) }
}

/// A JSON object into a type, its troubles being the message's. Only an object:
/// serde would take an array for the fields in their order.
pub(super) fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, InvalidReason> {
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(InvalidReason::Payload);
    }
    serde_json::from_slice(json).map_err(|_| InvalidReason::Payload)
}

/// Says that the version is this one, before anything else is read.
pub(super) fn version(json: &[u8], wanted: u8) -> Result<(), InvalidReason> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versioned {
        x402_version: u8,
    }
    let found: Versioned = parse(json)?;
    if found.x402_version == wanted { Ok(()) } else { Err(InvalidReason::Version) }
}
