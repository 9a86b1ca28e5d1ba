//! An offer of a 402, as its seller stated it.

use domain::{Address, Usdc};
use serde_json::Value;
use x402_types::proto::v2::ResourceInfo;

use crate::unverified::AcceptedTerms;

/// The header in which an offer is accepted.
#[derive(Clone, Debug)]
pub(crate) enum PaymentHeader {
    /// By `PAYMENT-SIGNATURE`, which repeats the terms.
    V2 {
        /// The terms, as they came.
        terms: Value,
        /// What is sold, as it came.
        resource: Option<ResourceInfo>,
    },
    /// By `X-PAYMENT`.
    V1 {
        /// The network, as it came.
        network: String,
    },
}

/// An offer as a seller stated it, on a chain that is known.
#[derive(Clone, Debug)]
pub(crate) struct StatedOffer {
    pub(crate) chain_id: u64,
    pub(crate) asset: Address,
    pub(crate) pay_to: Address,
    pub(crate) amount: Usdc,
    pub(crate) max_timeout_s: u64,
    pub(crate) extra: Option<Value>,
    pub(crate) format: PaymentHeader,
}

impl StatedOffer {
    pub(super) fn new((chain_id, terms): (u64, AcceptedTerms), format: PaymentHeader) -> Self {
        let AcceptedTerms { asset, pay_to, amount, max_timeout_s, extra } = terms;
        Self { chain_id, asset, pay_to, amount, max_timeout_s, extra, format }
    }
}
