//! What is asked of a chain: to make a transfer, and what became of it.

use async_trait::async_trait;
use domain::{Address, B256, Usdc};

use crate::{Authorization, AuthorizationState, ClientAddr, SignedAuthorization};

/// Why a transfer was not made, or is not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The token refused it, when simulated or on the chain: this attempt moved
    /// nothing.
    #[error("the token refused the transfer: {0}")]
    Refused(String),
    /// It may or may not be on the chain, now or later.
    #[error("it is not known whether the transfer was made: {0}")]
    Unknown(String),
    /// This attempt has sent nothing: there is no endpoint, no gas, no quota. An earlier
    /// one may have: [`Transfers::submission`] says what is known of that.
    #[error("the transfer cannot be sent now: {why}")]
    Unavailable {
        /// What there is none of.
        why: String,
        /// Seconds after which there is, where that is known.
        retry_after_s: Option<u64>,
    },
}

impl TransferError {
    /// [`TransferError::Unavailable`], nobody knows for how long.
    #[must_use]
    pub fn unavailable(why: impl Into<String>) -> Self {
        Self::Unavailable { why: why.into(), retry_after_s: None }
    }
}

/// What is known of the transactions that were sent for a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmissionState {
    /// There is none.
    None,
    /// This is the newest; it may be on its way.
    Transaction(B256),
    /// There may be one.
    Unknown,
}

/// Who makes transfers.
#[async_trait]
pub trait Transfers: Send + Sync {
    /// Calls `transferWithAuthorization` for this client and waits until it is confirmed.
    ///
    /// It may be called again with the same payment after an error: a token
    /// takes a nonce once, so nothing is paid twice. It never answers `Ok` for
    /// anything but this transfer: success is read from a receipt, by
    /// [`Authorization::is_paid_by`] or a check as strict.
    async fn transfer(&self, payment: &SignedAuthorization, client: ClientAddr) -> Result<B256, TransferError>;

    /// What was sent for this payment, by whatever attempt.
    async fn submission(&self, payment: &SignedAuthorization) -> SubmissionState;
}

/// Why the chain could not be read. Says nothing about the payment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token could not be read: {0}")]
pub struct TokenReadError(pub String);

/// What a token says of payments.
#[async_trait]
pub trait TokenReader: Send + Sync {
    /// Whether an authorization was used, and what for. `authorizationState` is
    /// not enough: it is also true after `cancelAuthorization`, and after any
    /// other transfer with the same nonce. `Paid` needs the receipt: see
    /// [`Authorization::is_paid_by`].
    async fn state(&self, authorization: &Authorization) -> Result<AuthorizationState, TokenReadError>;

    /// `balanceOf(owner)`.
    async fn balance(&self, chain_id: u64, asset: Address, owner: Address) -> Result<Usdc, TokenReadError>;
}
