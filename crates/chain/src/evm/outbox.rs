//! What is written down before a transaction is broadcast.

use async_trait::async_trait;
use domain::evm::{IntentKey, OutboxEntry, SenderAccount, TransactionAttempt, TransactionOutcome};

/// Why an outbox does not take what it is given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutboxError {
    /// The key or the nonce is taken already, or the entry is not what it is taken
    /// for: another process sends from the same account.
    #[error("the outbox has another entry there: another process sends from this account")]
    Conflict,
    /// The storage failed. For the log, not for clients.
    #[error("the outbox's storage failed: {0}")]
    Unavailable(String),
}

/// The transactions of our own accounts. Every call is one transaction of the
/// storage; what it has answered is durable. Unique: (account, key), (account,
/// nonce).
///
/// Order of calls, for one entry: `write`, any number of `add`, `settle`. Nothing is broadcast that was not written first.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// The entry of a key, whatever its state.
    async fn find(&self, account: &SenderAccount, key: &IntentKey) -> Result<Option<OutboxEntry>, OutboxError>;

    /// All entries that are pending, by nonce. Bounded by
    /// [`MAX_PENDING`](super::MAX_PENDING): no more are ever written.
    async fn pending(&self, account: &SenderAccount) -> Result<Vec<OutboxEntry>, OutboxError>;

    /// The highest nonce of any entry, whatever its state.
    async fn highest_nonce(&self, account: &SenderAccount) -> Result<Option<u64>, OutboxError>;

    /// Writes a new entry, pending.
    ///
    /// # Errors
    /// [`OutboxError::Conflict`] when its key or its nonce is taken.
    async fn write(&self, entry: &OutboxEntry) -> Result<(), OutboxError>;

    /// Adds an attempt to a pending entry.
    ///
    /// # Errors
    /// [`OutboxError::Conflict`] when no pending entry has this nonce.
    async fn add(&self, account: &SenderAccount, nonce: u64, attempt: &TransactionAttempt) -> Result<(), OutboxError>;

    /// Ends a pending entry. Its attempts' raw bytes may be dropped.
    ///
    /// # Errors
    /// [`OutboxError::Conflict`] when no pending entry has this nonce.
    async fn settle(
        &self,
        account: &SenderAccount,
        nonce: u64,
        outcome: &TransactionOutcome,
    ) -> Result<(), OutboxError>;
}
