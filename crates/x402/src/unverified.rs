//! A payment as it was presented, read but not believed.

use alloy_primitives::Signature;
use domain::{Address, B256, U256, Usdc};
use http::{HeaderMap, HeaderName};
use serde_json::Value;

use crate::wire::{MAX_HEADER, v1_payment, v2_payment};
use crate::{Authorization, Dialect, Reason, Tokens};

/// Version 2's header for a payment.
pub const PAYMENT_SIGNATURE: HeaderName = HeaderName::from_static("payment-signature");
/// Version 1's header for a payment.
pub const X_PAYMENT: HeaderName = HeaderName::from_static("x-payment");

/// What was signed, and by what; the token is not among it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
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
pub(crate) struct Accepted {
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
    pub(crate) transfer: Transfer,
    pub(crate) accepted: Option<Accepted>,
    /// The URL that it says it is for.
    pub(crate) url: Option<String>,
}

impl UnverifiedPayment {
    /// The authorization, if it is for this token.
    pub(crate) fn authorization(&self, asset: Address) -> Authorization {
        let Transfer { from, to, value, valid_after, valid_before, nonce, .. } = self.transfer;
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

    /// The payment among a request's headers; none if there is none. Two of
    /// them, even of the same text, are refused: a proxy might see the one and
    /// we the other.
    ///
    /// # Errors
    /// The dialect it was meant in, and what is wrong with it.
    pub fn from_headers(headers: &HeaderMap, tokens: &Tokens) -> Result<Option<Self>, (Dialect, Reason)> {
        let values = |name: &HeaderName| headers.get_all(name).iter().collect::<Vec<_>>();
        let (v2, v1) = (values(&PAYMENT_SIGNATURE), values(&X_PAYMENT));
        match (v2.as_slice(), v1.as_slice()) {
            ([], []) => Ok(None),
            ([value], []) => v2_payment(value.as_bytes(), tokens).map(Some).map_err(|reason| (Dialect::V2, reason)),
            ([], [value]) => v1_payment(value.as_bytes(), tokens).map(Some).map_err(|reason| (Dialect::V1, reason)),
            ([], _) => Err((Dialect::V1, Reason::Payload)),
            _ => Err((Dialect::V2, Reason::Payload)),
        }
    }

    /// Bytes of a payment's header at most.
    pub const MAX_HEADER: usize = MAX_HEADER;
}
