//! Transactions of our own accounts, written before anybody hears of them.

use async_trait::async_trait;
use domain::evm::{
    IntentKey, Outbox, OutboxEntry, OutboxEntryState, OutboxError, SenderAccount, TransactionAttempt,
    TransactionOutcome,
};

use crate::error::StoreError;
use crate::port::port;
use crate::store::Store;

/// What came of a change of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboxOutcome {
    /// It is written.
    Done,
    /// The key or the nonce is taken, or no pending entry is there.
    Conflict,
}

port! {
    /// Transactions of our own accounts.
    OutboxStore {
        /// The entry of a key, whatever its state.
        fn outbox_find(&self, account: SenderAccount, key: IntentKey) -> Option<OutboxEntry>;

        /// All pending entries of an account, by nonce.
        fn outbox_pending(&self, account: SenderAccount) -> Vec<OutboxEntry>;

        /// The highest nonce of an account that was ever written, whatever became of it.
        fn outbox_highest(&self, account: SenderAccount) -> Option<u64>;

        /// Writes a new entry.
        fn outbox_write(&self, entry: OutboxEntry) -> OutboxOutcome;

        /// Adds an attempt to a pending entry.
        fn outbox_add(&self, account: SenderAccount, nonce: u64, attempt: TransactionAttempt) -> OutboxOutcome;

        /// Ends a pending entry.
        fn outbox_settle(&self, account: SenderAccount, nonce: u64, outcome: TransactionOutcome) -> OutboxOutcome;
    }
}

/// What is done to a pending entry.
pub(crate) enum Change {
    /// One more attempt.
    Add(TransactionAttempt),
    /// Its end.
    Settle(TransactionOutcome),
}

impl Change {
    pub(crate) fn make(&self, entry: &mut OutboxEntry) {
        match self {
            Self::Add(attempt) => entry.attempts.push(attempt.clone()),
            Self::Settle(outcome) => entry.state = OutboxEntryState::Settled(*outcome),
        }
    }
}

pub(crate) const fn is_pending(entry: &OutboxEntry) -> bool {
    matches!(entry.state, OutboxEntryState::Pending)
}

/// All accounts' transactions in this store.
#[derive(Clone, Debug)]
pub struct StoreOutbox(Store);

impl Store {
    /// The outbox of all accounts.
    #[must_use]
    pub fn outbox(&self) -> StoreOutbox {
        StoreOutbox(self.clone())
    }
}

#[async_trait]
impl Outbox for StoreOutbox {
    async fn find(&self, account: &SenderAccount, key: &IntentKey) -> Result<Option<OutboxEntry>, OutboxError> {
        self.0.outbox_find(*account, key.clone()).await.map_err(unavailable)
    }

    async fn pending(&self, account: &SenderAccount) -> Result<Vec<OutboxEntry>, OutboxError> {
        self.0.outbox_pending(*account).await.map_err(unavailable)
    }

    async fn highest_nonce(&self, account: &SenderAccount) -> Result<Option<u64>, OutboxError> {
        self.0.outbox_highest(*account).await.map_err(unavailable)
    }

    async fn write(&self, entry: &OutboxEntry) -> Result<(), OutboxError> {
        posted(self.0.outbox_write(entry.clone()).await)
    }

    async fn add(&self, account: &SenderAccount, nonce: u64, attempt: &TransactionAttempt) -> Result<(), OutboxError> {
        posted(self.0.outbox_add(*account, nonce, attempt.clone()).await)
    }

    async fn settle(
        &self,
        account: &SenderAccount,
        nonce: u64,
        outcome: &TransactionOutcome,
    ) -> Result<(), OutboxError> {
        posted(self.0.outbox_settle(*account, nonce, *outcome).await)
    }
}

fn unavailable(error: StoreError) -> OutboxError {
    OutboxError::Unavailable(error.to_string())
}

fn posted(answer: Result<OutboxOutcome, StoreError>) -> Result<(), OutboxError> {
    match answer.map_err(unavailable)? {
        OutboxOutcome::Done => Ok(()),
        OutboxOutcome::Conflict => Err(OutboxError::Conflict),
    }
}
