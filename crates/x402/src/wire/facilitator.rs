//! What a facilitator is asked, in any of the dialects.

use serde::Deserialize;
use serde_json::value::RawValue;
use x402_types::proto::{v1, v2};

use super::cronos::CronosTerms;
use super::payload::parse;
use super::v1::{v1_accepted, v1_payload, v1_payment};
use super::v2::{accepted, v2_payload};
use crate::unverified::{AcceptedTerms, UnverifiedPayment};
use crate::{Dialect, InvalidReason, Tokens};

/// Bytes of a request at most.
const MAX_BODY: usize = 64 * 1024;

/// A payment, and the terms it is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FacilitatorRequest {
    pub(crate) presented: UnverifiedPayment,
    pub(crate) terms: AcceptedTerms,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    x402_version: u8,
    #[serde(borrow)]
    payment_payload: Option<&'a RawValue>,
    payment_header: Option<String>,
    #[serde(borrow)]
    payment_requirements: &'a RawValue,
}

/// Reads the body of `/verify` or `/settle`. The dialect is told by which field
/// holds the payment: `paymentHeader` is the Cronos facilitator's, and is sent by
/// nobody else.
///
/// The dialect of the answer comes with an error too.
pub(crate) fn parse_request(body: &[u8], tokens: &Tokens) -> Result<FacilitatorRequest, (Dialect, InvalidReason)> {
    if body.len() > MAX_BODY {
        return Err((Dialect::V2, InvalidReason::Payload));
    }
    let request: Request<'_> = parse(body).map_err(|reason| (Dialect::V2, reason))?;
    match (request.x402_version, request.payment_payload, &request.payment_header) {
        (2, Some(payload), None) => {
            v2_asked(payload, request.payment_requirements, tokens).map_err(|it| (Dialect::V2, it))
        }
        (1, Some(payload), None) => {
            v1_asked(payload, request.payment_requirements, tokens).map_err(|it| (Dialect::V1, it))
        }
        (1, None, Some(header)) => {
            cronos_asked(header, request.payment_requirements, tokens).map_err(|it| (Dialect::Cronos, it))
        }
        (1 | 2, ..) => Err((Dialect::V2, InvalidReason::Payload)),
        _ => Err((Dialect::V2, InvalidReason::Version)),
    }
}

fn v2_asked(payload: &RawValue, terms: &RawValue, tokens: &Tokens) -> Result<FacilitatorRequest, InvalidReason> {
    let terms: v2::PaymentRequirements = parse(terms.get().as_bytes())?;
    together(v2_payload(payload.get().as_bytes(), tokens)?, accepted(&terms, tokens)?)
}

fn v1_asked(payload: &RawValue, terms: &RawValue, tokens: &Tokens) -> Result<FacilitatorRequest, InvalidReason> {
    let terms: v1::PaymentRequirements = parse(terms.get().as_bytes())?;
    let presented = v1_payload(payload.get().as_bytes(), tokens)?;
    match presented.dialect {
        Dialect::V1 => together(presented, v1_accepted(&terms, tokens)?),
        Dialect::V2 | Dialect::Cronos => Err(InvalidReason::Payload),
    }
}

fn cronos_asked(header: &str, terms: &RawValue, tokens: &Tokens) -> Result<FacilitatorRequest, InvalidReason> {
    let terms: CronosTerms = parse(terms.get().as_bytes())?;
    let presented = v1_payment(header.as_bytes(), tokens)?;
    match presented.dialect {
        Dialect::Cronos => together(presented, terms.accepted(tokens)?),
        Dialect::V1 | Dialect::V2 => Err(InvalidReason::Payload),
    }
}

fn together(
    presented: UnverifiedPayment,
    (chain_id, terms): (u64, AcceptedTerms),
) -> Result<FacilitatorRequest, InvalidReason> {
    if presented.chain_id != chain_id {
        return Err(InvalidReason::Network);
    }
    Ok(FacilitatorRequest { presented, terms })
}
