//! Pay per request: x402 in its three dialects, as seller, buyer and facilitator.
//!
//! One payment buys one answer, whatever races, retries or dies: it is verified
//! without IO, reserved on disk, settled, and only then served; see [`Seller`] for
//! what a payer can count on. This crate does no SQL and no RPC: it asks
//! [`Payments`], [`Transfers`] and [`TokenReader`], whose fakes are in `fake`
//! and whose contract is in `conformance`.
//!
//! | file | is |
//! |---|---|
//! | `token`, `offer`, `dialect` | what is paid with, what is asked, how it is written |
//! | `wire/` | the dialects, parsed strictly into `unverified`, and written |
//! | `verify`, `recover` | is it good: EIP-712 over EIP-3009, pure |
//! | `chain` | what is asked of a chain; what is asked of a database is [`Payments`] |
//! | `settlements` | reserve, settle, reconcile: money is taken here alone |
//! | `permits`, `funds` | how many pay at once, each with his share; what the token said of a payer a moment ago |
//! | `seller`, `facilitator`, `buyer` | the three sides |
//! | `hosted` | the hosted Cronos facilitator, whose word is checked |
//! | `reason`, `config` | why not; `[x402]` |
//!
//! # What is taken from the maintained crates, and what is not
//!
//! `x402-types` 2.0.2 has the messages of both versions, and they are used
//! wherever they are the specification's; `wire::settled` says where they are not.
//! Of its companions:
//!
//! - `x402-axum` asks a facilitator to verify and settle for each request and
//!   keeps no record: copies of a payment race, a payment is bound to no request,
//!   and a settlement that timed out is a failure. These are the attacks of arXiv
//!   2605.11781 and 2605.30998.
//! - `x402-chain-eip155` signs in the EIP-712 domain that the *seller* states, on
//!   any token and for any time; does not know Cronos in version 1; reads the clock
//!   itself; takes payments above the price; and its client turns `traceparent`
//!   and OpenTelemetry on in alloy's transport for the whole program.
//! - `x402-reqwest` pays by it, at once and without a record of what was signed.

#[cfg(feature = "fake")]
pub mod conformance;
#[cfg(any(test, feature = "fake"))]
pub mod fake;

mod buyer;
mod chain;
mod config;
mod dialect;
mod facilitator;
mod funds;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod hosted;
mod offer;
mod permits;
mod reason;
mod recover;
mod seller;
mod settlements;
mod token;
mod unverified;
mod verify;
mod wire;

pub use domain::ClientAddr;
pub use domain::payment::{
    Authorization, AuthorizationState, PaidRequestHash, Payment, PaymentKey, PaymentLease, PaymentReservation,
    PaymentState, Payments, PaymentsError, SignedAuthorization,
};

pub use buyer::{BuyError, Buyer, SignError, SignHash, SignedPayment, receipt};
pub use chain::{SubmissionState, TokenReadError, TokenReader, TransferError, Transfers};
pub use config::{Config, ConfigError, FacilitatorChoice, ServeConfig, TokenConfig};
pub use dialect::Dialect;
pub use facilitator::{AllowedPayees, Facilitator, FacilitatorPolicy, FacilitatorResponse};
pub use hosted::{HostedClientError, HostedFacilitator};
pub use offer::{Offer, Quote, Resource};
pub use reason::InvalidReason;
pub use seller::{
    AnswerPermit, AnswerWithheld, CheckedPayment, PAYMENT_REQUIRED, PAYMENT_RESPONSE, PaymentRejection, PricedRequest,
    PurchaseRecord, RequestBinding, Seller, SellerTiming, X_PAYMENT_RESPONSE, payment_required,
};
pub use settlements::{ReconcileReport, SettlementLimits, SettlementUnknown, Settlements};
pub use token::{Token, Tokens};
pub use unverified::{PAYMENT_SIGNATURE, UnverifiedPayment, X_PAYMENT};
pub use verify::{ClockTolerance, check_authenticity, check_validity, digest, verify};
