//! What is asked for one request.

use std::sync::Arc;

use domain::{Address, Usdc};

use crate::Token;

/// One way to pay for a request: so much of this token to that payee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The token.
    pub token: Arc<Token>,
    /// Who is paid.
    pub pay_to: Address,
    /// Exactly how much.
    pub amount: Usdc,
    /// Seconds that a payment may be valid for, at most.
    pub max_timeout_s: u64,
}

/// What is sold, as terms describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The URL as the payer asks for it, path and query included.
    pub url: String,
    /// For people.
    pub description: String,
    /// Of the answer.
    pub mime_type: String,
}

/// The terms of one request: what is sold, and every way to pay for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// What is sold.
    pub resource: Resource,
    /// From 1 to [`Quote::MAX_OFFERS`], the preferred one first.
    pub offers: Vec<Offer>,
}

impl Quote {
    /// Offers at most.
    pub const MAX_OFFERS: usize = 8;
}
