//! Transactions of our own accounts, written before anybody hears of them.

use domain::evm::{Account, Attempt, Entry, EntryState, IntentKey, Outcome};

use crate::port::port;

/// What came of a change of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboxWrite {
    /// It is written.
    Done,
    /// The key or the nonce is taken, or no pending entry is there.
    Conflict,
}

port! {
    /// Transactions of our own accounts.
    OutboxStore {
        /// The entry of a key, whatever its state.
        fn outbox_find(&self, account: Account, key: IntentKey) -> Option<Entry>;

        /// All pending entries of an account, by nonce.
        fn outbox_pending(&self, account: Account) -> Vec<Entry>;

        /// The highest nonce of an account that was ever written, whatever became of it.
        fn outbox_highest(&self, account: Account) -> Option<u64>;

        /// Writes a new entry.
        fn outbox_write(&self, entry: Entry) -> OutboxWrite;

        /// Adds an attempt to a pending entry.
        fn outbox_add(&self, account: Account, nonce: u64, attempt: Attempt) -> OutboxWrite;

        /// Ends a pending entry.
        fn outbox_settle(&self, account: Account, nonce: u64, outcome: Outcome) -> OutboxWrite;
    }
}

/// What is done to a pending entry.
pub(crate) enum Change {
    /// One more attempt.
    Add(Attempt),
    /// Its end.
    Settle(Outcome),
}

impl Change {
    pub(crate) fn make(&self, entry: &mut Entry) {
        match self {
            Self::Add(attempt) => entry.attempts.push(attempt.clone()),
            Self::Settle(outcome) => entry.state = EntryState::Settled(*outcome),
        }
    }
}

pub(crate) const fn is_pending(entry: &Entry) -> bool {
    matches!(entry.state, EntryState::Pending)
}
