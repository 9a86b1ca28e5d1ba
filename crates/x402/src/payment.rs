//! One payment, whichever dialect it came in.

use std::fmt;

use alloy_primitives::{Signature, keccak256};
use domain::{Address, B256, Usdc};

/// What a payer signs, as EIP-3009 `transferWithAuthorization` takes it. Times
/// are Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Authorization {
    /// The chain of the token.
    pub chain_id: u64,
    /// The token.
    pub asset: Address,
    /// Who pays.
    pub from: Address,
    /// Who is paid.
    pub to: Address,
    /// How much.
    pub value: Usdc,
    /// Valid only after this second: the token wants `now > valid_after`.
    pub valid_after: u64,
    /// Valid only before this second: the token wants `now < valid_before`.
    pub valid_before: u64,
    /// The payer's number for this payment; a token takes each once per payer.
    pub nonce: B256,
}

impl Authorization {
    /// What no two payments share.
    #[must_use]
    pub const fn key(&self) -> PaymentKey {
        PaymentKey { chain_id: self.chain_id, asset: self.asset, from: self.from, nonce: self.nonce }
    }
}

/// An authorization and its signature. The signature is good for exactly one
/// transfer to exactly one payee, so it is no secret; `Debug` leaves it out for
/// brevity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signed {
    /// What was signed.
    pub authorization: Authorization,
    /// 65 bytes, `s` in the lower half of the order, `v` 27 or 28.
    pub signature: Signature,
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signed").field(&self.authorization).finish()
    }
}

/// What makes a payment itself and no other: unique in the record, and in the
/// token (`authorizationState(from, nonce)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PaymentKey {
    /// The chain of the token.
    pub chain_id: u64,
    /// The token.
    pub asset: Address,
    /// Who pays.
    pub from: Address,
    /// The payer's number.
    pub nonce: B256,
}

impl fmt::Display for PaymentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "eip155:{}/{}/{}/{}", self.chain_id, self.asset, self.from, self.nonce)
    }
}

/// What a payment is bound to: the hash of the request it came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestHash(pub B256);

impl RequestHash {
    /// Of a request's method, its URL (path and query included) and its whole
    /// body. Headers are not part of it: a retry may differ in them.
    #[must_use]
    pub fn of(method: &str, url: &str, body: &[u8]) -> Self {
        let mut all = Vec::with_capacity(method.len() + url.len() + 2 + 32);
        all.extend_from_slice(method.as_bytes());
        all.push(0);
        all.extend_from_slice(url.as_bytes());
        all.push(0);
        all.extend_from_slice(keccak256(body).as_slice());
        Self(keccak256(&all))
    }
}

/// How the other side writes x402.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Version 2: everything in headers, chains in CAIP-2.
    V2,
    /// Version 1: terms in the body, chains by name.
    V1,
    /// The hosted Cronos facilitator's: version 1 with a flat payload that names
    /// its asset.
    Cronos,
}
