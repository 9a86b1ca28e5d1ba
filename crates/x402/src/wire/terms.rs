//! What a seller's 402 says, for a buyer.

use serde_json::value::RawValue;
use x402_types::proto::v1;
use x402_types::proto::v2::{self, PaymentRequired, PaymentRequirements};

use super::header::from_base64;
use super::payload::{parse, version};
use super::rca::rca_terms;
use super::stated::{PaymentHeader, StatedOffer};
use super::v1::v1_accepted;
use super::v2::accepted;
use crate::Tokens;

/// Offers that are looked at, of one 402.
const MAX_ACCEPTS: usize = 32;
/// Bytes of a 402's body that are read as terms.
const MAX_BODY: usize = 64 * 1024;

/// Reads a 402's `PAYMENT-REQUIRED` header, or else its body; none if it states
/// no terms in any dialect. Offers of another scheme, chain or shape are left
/// out.
pub(crate) fn read_terms(
    header: Option<&[u8]>,
    body: &[u8],
    tokens: &Tokens,
    default_timeout_s: u64,
) -> Option<Vec<StatedOffer>> {
    if let Some(header) = header {
        let json = from_base64(header).ok()?;
        return v2_terms(&json, tokens).or_else(|| rca_terms(&json, tokens, default_timeout_s));
    }
    if body.len() > MAX_BODY {
        return None;
    }
    v1_terms(body, tokens)
}

fn v2_terms(json: &[u8], tokens: &Tokens) -> Option<Vec<StatedOffer>> {
    version(json, v2::X402Version2::VALUE).ok()?;
    let required: PaymentRequired<Box<RawValue>> = parse(json).ok()?;
    let read = |raw: &RawValue| {
        let terms: PaymentRequirements = parse(raw.get().as_bytes()).ok()?;
        let format =
            PaymentHeader::V2 { terms: parse(raw.get().as_bytes()).ok()?, resource: required.resource.clone() };
        Some(StatedOffer::new(accepted(&terms, tokens).ok()?, format))
    };
    Some(required.accepts.iter().take(MAX_ACCEPTS).filter_map(|raw| read(raw)).collect())
}

fn v1_terms(json: &[u8], tokens: &Tokens) -> Option<Vec<StatedOffer>> {
    version(json, v1::X402Version1::VALUE).ok()?;
    let required: v1::PaymentRequired<Box<RawValue>> = parse(json).ok()?;
    let read = |raw: &RawValue| {
        let terms: v1::PaymentRequirements = parse(raw.get().as_bytes()).ok()?;
        let format = PaymentHeader::V1 { network: terms.network.clone() };
        Some(StatedOffer::new(v1_accepted(&terms, tokens).ok()?, format))
    };
    Some(required.accepts.iter().take(MAX_ACCEPTS).filter_map(|raw| read(raw)).collect())
}
