//! Version 1: terms in the body, chains by name. The types are those of
//! `x402-types`.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use x402_types::proto::v1::{PaymentPayload, PaymentRequired, PaymentRequirements, X402Version1};

use super::cronos::CronosPayload;
use super::header::{from_base64, to_base64};
use super::number::{address, amount};
use super::payload::{ExactPayload, SCHEME, exact, parse, payload_of, version};
use super::v2::v2_extra;
use crate::unverified::{AcceptedTerms, UnverifiedPayment};
use crate::{Dialect, InvalidReason, Offer, Quote, SignedAuthorization, Tokens};

/// Reads the value of `X-PAYMENT`: version 1's, or the Cronos facilitator's.
pub(crate) fn v1_payment(value: &[u8], tokens: &Tokens) -> Result<UnverifiedPayment, InvalidReason> {
    v1_payload(&from_base64(value)?, tokens)
}

/// Reads a payment that is not wrapped in base64. The two shapes share no field
/// of `payload` but `signature`, and each refuses the other's fields.
pub(super) fn v1_payload(json: &[u8], tokens: &Tokens) -> Result<UnverifiedPayment, InvalidReason> {
    version(json, X402Version1::VALUE)?;
    let outer: PaymentPayload = parse(json)?;
    exact(&outer.scheme)?;
    let chain_id = tokens.chain_of_name(&outer.network).ok_or(InvalidReason::Network)?;
    let (dialect, asset, transfer) = if nested(&outer.payload)? {
        let payload: ExactPayload = parse(outer.payload.get().as_bytes())?;
        (Dialect::V1, None, payload.transfer()?)
    } else {
        let payload: CronosPayload = parse(outer.payload.get().as_bytes())?;
        (Dialect::Cronos, Some(payload.asset()?), payload.transfer()?)
    };
    Ok(UnverifiedPayment { dialect, chain_id, asset, transfer, accepted: None, url: None })
}

fn nested(payload: &RawValue) -> Result<bool, InvalidReason> {
    #[derive(Deserialize)]
    struct Nested<'a> {
        #[serde(borrow)]
        authorization: Option<&'a RawValue>,
    }
    parse::<Nested<'_>>(payload.get().as_bytes()).map(|payload| payload.authorization.is_some())
}

/// Reads terms.
pub(super) fn v1_accepted(terms: &PaymentRequirements, tokens: &Tokens) -> Result<(u64, AcceptedTerms), InvalidReason> {
    exact(&terms.scheme)?;
    let chain_id = tokens.chain_of_name(&terms.network).ok_or(InvalidReason::Network)?;
    let accepted = AcceptedTerms {
        asset: address(&terms.asset)?,
        pay_to: address(&terms.pay_to)?,
        amount: amount(&terms.max_amount_required)?,
        max_timeout_s: terms.max_timeout_seconds,
        extra: terms.extra.clone(),
    };
    Ok((chain_id, accepted))
}

/// An offer as version 1's terms.
fn v1_requirements(quote: &Quote, offer: &Offer) -> PaymentRequirements {
    PaymentRequirements {
        scheme: SCHEME.to_owned(),
        network: offer.token.network().to_owned(),
        max_amount_required: offer.amount.0.to_string(),
        resource: quote.resource.url.clone(),
        description: quote.resource.description.clone(),
        mime_type: Some(quote.resource.mime_type.clone()),
        output_schema: None,
        pay_to: offer.pay_to.to_string(),
        max_timeout_seconds: offer.max_timeout_s,
        asset: offer.token.address().to_string(),
        extra: Some(v2_extra(&offer.token)),
    }
}

/// The body of a 402.
pub(crate) fn v1_required(quote: &Quote, error: &str) -> PaymentRequired {
    PaymentRequired {
        x402_version: X402Version1,
        accepts: quote.offers.iter().map(|offer| v1_requirements(quote, offer)).collect(),
        error: Some(error.to_owned()),
    }
}

/// The value of `X-PAYMENT`.
pub(crate) fn v1_header(network: &str, payment: &SignedAuthorization) -> String {
    to_base64(&PaymentPayload::<String, Value> {
        x402_version: X402Version1,
        scheme: SCHEME.to_owned(),
        network: network.to_owned(),
        payload: payload_of(payment),
    })
}
