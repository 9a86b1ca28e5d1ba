//! Version 2: everything in headers, chains in CAIP-2. The types are those of
//! `x402-types`.

use serde_json::value::RawValue;
use serde_json::{Value, json};
use x402_types::chain::ChainId;
use x402_types::proto::v2::{PaymentPayload, PaymentRequired, PaymentRequirements, ResourceInfo, X402Version2};

use super::header::{from_base64, to_base64};
use super::number::{address, amount};
use super::payload::{ExactPayload, SCHEME, exact, parse, payload_of, version};
use crate::unverified::{AcceptedTerms, UnverifiedPayment};
use crate::{Dialect, InvalidReason, Offer, Quote, SignedAuthorization, Token, Tokens};

/// Terms and payload are objects of their own, each read as strictly as this one.
type Outer = PaymentPayload<Box<RawValue>, Box<RawValue>>;

/// Reads the value of `PAYMENT-SIGNATURE`.
pub(crate) fn v2_payment(value: &[u8], tokens: &Tokens) -> Result<UnverifiedPayment, InvalidReason> {
    v2_payload(&from_base64(value)?, tokens)
}

/// Reads a payment that is not wrapped in base64, as facilitators are sent it.
pub(super) fn v2_payload(json: &[u8], tokens: &Tokens) -> Result<UnverifiedPayment, InvalidReason> {
    version(json, X402Version2::VALUE)?;
    let outer: Outer = parse(json)?;
    let terms: PaymentRequirements = parse(outer.accepted.get().as_bytes())?;
    let payload: ExactPayload = parse(outer.payload.get().as_bytes())?;
    let (chain_id, accepted) = accepted(&terms, tokens)?;
    Ok(UnverifiedPayment {
        dialect: Dialect::V2,
        chain_id,
        asset: Some(accepted.asset),
        transfer: payload.transfer()?,
        accepted: Some(accepted),
        url: outer.resource.map(|resource| resource.url),
    })
}

/// Reads terms.
pub(super) fn accepted(terms: &PaymentRequirements, tokens: &Tokens) -> Result<(u64, AcceptedTerms), InvalidReason> {
    exact(&terms.scheme)?;
    let chain_id = tokens.chain_of_caip2(&terms.network.to_string()).ok_or(InvalidReason::Network)?;
    let accepted = AcceptedTerms {
        asset: address(&terms.asset)?,
        pay_to: address(&terms.pay_to)?,
        amount: amount(&terms.amount)?,
        max_timeout_s: terms.max_timeout_seconds,
        extra: terms.extra.clone(),
    };
    Ok((chain_id, accepted))
}

/// The `extra` of our offers: the token's EIP-712 domain.
pub(crate) fn v2_extra(token: &Token) -> Value {
    json!({ "name": token.name(), "version": token.version() })
}

fn requirements(offer: &Offer) -> PaymentRequirements {
    PaymentRequirements {
        scheme: SCHEME.to_owned(),
        network: ChainId::new("eip155", offer.token.chain_id().to_string()),
        amount: offer.amount.0.to_string(),
        pay_to: offer.pay_to.to_string(),
        max_timeout_seconds: offer.max_timeout_s,
        asset: offer.token.address().to_string(),
        extra: Some(v2_extra(&offer.token)),
    }
}

/// The value of `PAYMENT-REQUIRED`.
pub(crate) fn v2_required(quote: &Quote, error: &str) -> String {
    to_base64(&PaymentRequired {
        x402_version: X402Version2,
        error: Some(error.to_owned()),
        resource: Some(ResourceInfo {
            url: quote.resource.url.clone(),
            description: Some(quote.resource.description.clone()),
            mime_type: Some(quote.resource.mime_type.clone()),
        }),
        accepts: quote.offers.iter().map(requirements).collect(),
        extensions: Default::default(),
    })
}

/// The value of `PAYMENT-SIGNATURE`: terms and resource go back as they came.
pub(crate) fn v2_header(terms: &Value, resource: Option<&ResourceInfo>, payment: &SignedAuthorization) -> String {
    to_base64(&PaymentPayload {
        accepted: terms.clone(),
        payload: payload_of(payment),
        resource: resource.cloned(),
        x402_version: X402Version2,
        extensions: Default::default(),
    })
}
