//! Pay per request: x402 in its three dialects, as seller, buyer and facilitator.

#[cfg(any(test, feature = "fake"))]
pub mod fake;

mod buyer;
mod config;
mod facilitator;
mod hosted;
mod offer;
mod payment;
mod presented;
mod reason;
mod receipt;
mod record;
mod seller;
mod settle;
mod till;
mod token;
mod verify;
mod wire;

pub use buyer::{BuyError, Buyer, Paying, SignError, SignHash, receipt};
pub use config::{Config, ConfigError, Serve, Settler, TokenConfig};
pub use facilitator::{Answer, Facilitator, Payees, Policy};
pub use hosted::{Hosted, HostedError};
pub use offer::{Offer, Quote, Resource};
pub use payment::{Authorization, Dialect, PaymentKey, RequestHash, Signed};
pub use presented::{PAYMENT_SIGNATURE, Presented, X_PAYMENT};
pub use reason::Reason;
pub use receipt::pays;
pub use record::{Claim, PaymentState, Payments, RecordError, Reservation, Reserved};
pub use seller::{
    NoAnswer, Order, PAYMENT_REQUIRED, PAYMENT_RESPONSE, Purchase, Sale, Seller, Terms, Ticket, X_PAYMENT_RESPONSE,
    terms_of,
};
pub use settle::{Authorizations, SettleError, Settled, Settlement, Spent, Unread};
pub use till::{Limits, Reconciled, Till, TillError};
pub use token::{Token, Tokens};
pub use verify::{Window, authentic, digest, timely, verify};
