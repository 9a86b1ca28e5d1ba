//! The gasless relayer: CroGas's routes and JSON, and what we add to them.
//!
//! CroGas's fields keep their names and types; what we add stands beside them.
//! Numbers of the chain travel as decimal texts, addresses and bytes as `0x` and
//! hexadecimal digits: the relayer parses them, strictly.
//!
//! | route | takes | answers |
//! |---|---|---|
//! | `POST /meta/relay` | [`RelayRequest`] | [`RelayAnswer`] |
//! | `POST /meta/batch` | [`BatchRequest`] | [`BatchAnswer`] |
//! | `POST /meta/call` (ours) | [`RelayCallRequest`] | [`RelayAnswer`] |
//! | `POST /relay` | [`RawTransactionRequest`] | [`RelayAnswer`] |
//! | `GET /meta/nonce/{address}` | – | [`NonceAnswer`] |
//! | `GET /meta/domain` | – | [`DomainAnswer`] |
//! | `GET /estimate` | [`EstimateQuery`] | [`EstimateAnswer`] |
//! | `GET /health` | – | [`RelayerHealth`] |
//!
//! A 402 is a [`PaymentRequired`]; every other refusal is a [`RelayRefusal`]. A call
//! that was relayed and failed on the chain is a 200 whose `success` is `false`,
//! as CroGas has it; one whose fate is not known yet is a 202.

mod calls;
mod health;
mod price;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use calls::{
    BatchAnswer, BatchRequest, BatchResult, CallStatus, DomainAnswer, Eip712Domain, Eip712Field, Eip712Types,
    ForwardRequest, NonceAnswer, Priority, RawTransactionRequest, RawWaitOptions, RelayAnswer, RelayCallRequest,
    RelayRequest, SignedRequest,
};
pub use health::{
    HealthStatus, PricingInputs, RebalanceStatus, RelayerBalance, RelayerHealth, RelayerStats, SenderInfo, SenderPool,
};
pub use price::{
    Authorization, EstimateAnswer, EstimateQuery, ExactPayload, FeePayment, FeeQuote, PaymentOptions, PaymentRequired,
    PaymentRequirements, PriorityPrice, PriorityPrices, TokenDomain,
};

/// The header that carries a payment: base64 of the JSON of a [`FeePayment`].
pub const X_PAYMENT: &str = "x-payment";
/// The version of x402 that CroGas speaks.
pub const X402_VERSION: u64 = 1;
/// Requests of one batch at most.
pub const MAX_BATCH: usize = 10;

/// The body of every refusal that is not a 402 with terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RelayRefusal {
    /// A stable code for programs.
    #[schema(example = "INVALID_SIGNATURE")]
    pub error: String,
    /// One sentence for people.
    pub message: String,
    /// Of a batch: which request is at fault, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// Whole seconds after which to try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}
