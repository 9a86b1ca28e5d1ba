//! What payers sign (EIP-3009), what is recorded of it, and what a token says of it.
//!
//! | file | holds |
//! |---|---|
//! | `authorization` | [`Authorization`], its EIP-712 digest, its key, its state on the chain |
//! | `stored` | the JSON form of a signed authorization |
//! | `record` | [`Payment`], the states it goes through, and [`Payments`], who keeps them |

mod authorization;
mod record;
mod stored;

pub use authorization::{Authorization, AuthorizationState, PaymentKey, SignedAuthorization};
pub use record::{PaidRequestHash, Payment, PaymentLease, PaymentReservation, PaymentState, Payments, PaymentsError};
