//! Transactions of our own accounts, written before anybody hears of them.

use domain::evm::{IntentKey, OutboxEntry, OutboxEntryState, SenderAccount, TransactionAttempt, TransactionOutcome};

use crate::port::port;

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
