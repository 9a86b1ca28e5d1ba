//! The terms of 0rca's agent SDK: no version, no time-out, other names for token
//! and payee, and an amount of whole USDC in decimal.

use std::str::FromStr;

use domain::Usdc;
use serde::Deserialize;

use super::number::address;
use super::payload::{exact, parse};
use super::stated::{PaymentHeader, StatedOffer};
use crate::Tokens;

/// Reads `{accepts: [{scheme, network, token, resource, maxAmountRequired,
/// beneficiary}]}`; none if it is not that. What is offered on unknown chains or
/// with an amount that is not exact is left out.
pub(crate) fn rca_terms(json: &[u8], tokens: &Tokens, max_timeout_s: u64) -> Option<Vec<StatedOffer>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Challenge {
        accepts: Vec<RcaTerms>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct RcaTerms {
        scheme: String,
        network: String,
        token: String,
        #[serde(rename = "resource")]
        _resource: String,
        max_amount_required: String,
        beneficiary: String,
    }
    let challenge: Challenge = parse(json).ok()?;
    let read = |terms: &RcaTerms| {
        exact(&terms.scheme).ok()?;
        Some(StatedOffer {
            chain_id: tokens.chain_of_caip2(&terms.network)?,
            asset: address(&terms.token).ok()?,
            pay_to: address(&terms.beneficiary).ok()?,
            amount: Usdc::from_str(&terms.max_amount_required).ok()?,
            // It states none: ours is the shortest that we give anybody.
            max_timeout_s,
            extra: None,
            format: PaymentHeader::V1 { network: terms.network.clone() },
        })
    };
    Some(challenge.accepts.iter().filter_map(read).collect())
}
