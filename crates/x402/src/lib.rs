//! Pay per request: x402 in its three dialects, as seller, buyer and facilitator.

mod payment;
mod receipt;
mod record;
mod settle;
mod token;

pub use payment::{Authorization, Dialect, PaymentKey, RequestHash, Signed};
pub use receipt::pays;
pub use record::{Claim, PaymentState, Payments, RecordError, Reservation, Reserved};
pub use settle::{Authorizations, SettleError, Settled, Settlement, Spent, Unread};
pub use token::{Token, Tokens};
