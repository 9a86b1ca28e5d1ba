//! A payment as it was presented, read but not believed.

use alloy_primitives::Signature;
use domain::{Address, B256, U256, Usdc};
use http::HeaderName;
use serde_json::Value;

use crate::{Authorization, Dialect};

/// Version 2's header for a payment.
pub const PAYMENT_SIGNATURE: HeaderName = HeaderName::from_static("payment-signature");
/// Version 1's header for a payment.
pub const X_PAYMENT: HeaderName = HeaderName::from_static("x-payment");

/// What was signed, and by what; the token is not among it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SignedTransfer {
    pub(crate) from: Address,
    pub(crate) to: Address,
    pub(crate) value: Usdc,
    pub(crate) valid_after: u64,
    pub(crate) valid_before: u64,
    pub(crate) nonce: B256,
    pub(crate) signature: Signature,
}

/// The terms that a payer says he accepted (version 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AcceptedTerms {
    pub(crate) asset: Address,
    pub(crate) pay_to: Address,
    pub(crate) amount: Usdc,
    pub(crate) max_timeout_s: u64,
    pub(crate) extra: Option<Value>,
}

/// A payment, read from one of the dialects. Nothing in it is believed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnverifiedPayment {
    pub(crate) dialect: Dialect,
    /// The chain, known by one of our tokens.
    pub(crate) chain_id: u64,
    /// The token, where the dialect names it.
    pub(crate) asset: Option<Address>,
    pub(crate) transfer: SignedTransfer,
    pub(crate) accepted: Option<AcceptedTerms>,
    /// The URL that it says it is for.
    pub(crate) url: Option<String>,
}

impl UnverifiedPayment {
    /// The authorization, if it is for this token.
    pub(crate) fn authorization(&self, asset: Address) -> Authorization {
        let SignedTransfer { from, to, value, valid_after, valid_before, nonce, .. } = self.transfer;
        let (valid_after, valid_before) = (U256::from(valid_after), U256::from(valid_before));
        Authorization { chain_id: self.chain_id, asset, from, to, value, valid_after, valid_before, nonce }
    }

    /// How it was written, and so how it is answered.
    #[must_use]
    pub const fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Who pays, by the payment's own word.
    #[must_use]
    pub const fn payer(&self) -> Address {
        self.transfer.from
    }
}
