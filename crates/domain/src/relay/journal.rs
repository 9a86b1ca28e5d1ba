//! What must outlive the relayer's process: what was taken on, what was paid, how
//! much each may still ask.

use async_trait::async_trait;

use super::{ForwarderNonce, RelayEntry, RelayState};
use crate::B256;

/// Why the journal gave no answer. For the log, not for clients.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the relayer's journal: {0}")]
pub struct RelayJournalError(pub String);

/// A daily count that must not be passed. Days are UTC's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DailyQuota {
    /// Who is counted, by the class of the call: `task:sender:0x…`, `task:client:…`,
    /// `task:client:…:share`, `task:budget`.
    pub subject: String,
    /// Days since 1970.
    pub day: u64,
    /// How much this entry adds.
    pub add: u64,
    /// How much there may be in all.
    pub limit: u64,
}

/// What the journal said to new entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayAdmission {
    /// All of them are in, as they were given.
    New,
    /// An entry of this id stands already. Nothing was changed.
    Known(Box<RelayEntry>),
    /// A live entry of another id holds this nonce. Nothing was changed.
    NonceTaken(ForwarderNonce),
    /// The authorization pays for another group, or for a request. Nothing was changed.
    PaymentUsed,
    /// This subject asked too often today. Nothing was changed.
    OverQuota(String),
}

/// How many entries there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayCounts {
    /// Open ones.
    pub pending: u64,
    /// Done and executed.
    pub executed: u64,
    /// Done otherwise.
    pub failed: u64,
}

/// The journal of one chain's relayer. Each method is one durable transaction: when it
/// returns, a crash does not undo it.
#[async_trait]
pub trait RelayJournal: Send + Sync {
    /// Takes new entries on, all or none, and counts them.
    ///
    /// Looks in this order, at each for all entries:
    /// 1. an entry of the same id that this one does not replace
    ///    ([`RelayEntry::is_replaced_by`]): `Known`;
    /// 2. another entry that holds ([`RelayState::holds_nonce`]) the same forwarder
    ///    nonce: `NonceTaken`;
    /// 3. the same authorization (token, payer, nonce) under another `group`:
    ///    `PaymentUsed`. An authorization is remembered for ever, with its group,
    ///    whatever becomes of its entries;
    /// 4. a quota whose count of that day would pass its limit: `OverQuota`.
    ///
    /// Then the entries are written, in place of those that they replace, and the
    /// quotas counted.
    async fn admit(&self, entries: &[RelayEntry], quotas: &[DailyQuota]) -> Result<RelayAdmission, RelayJournalError>;

    /// Counts, all or none, what is done without an entry; answers whose quota would
    /// be passed, if one's would. What was counted under `once` on these days already
    /// is not counted again, whatever the quotas say.
    async fn count(&self, once: &str, quotas: &[DailyQuota]) -> Result<Option<String>, RelayJournalError>;

    /// The entry of this id.
    async fn find(&self, id: B256) -> Result<Option<RelayEntry>, RelayJournalError>;

    /// Steps an entry on, if [`RelayState::may_become`] allows it; otherwise changes
    /// nothing. Answers with the entry as it stands then.
    async fn step(&self, id: B256, next: &RelayState) -> Result<RelayEntry, RelayJournalError>;

    /// Open entries, oldest first, at most this many.
    async fn open(&self, limit: usize) -> Result<Vec<RelayEntry>, RelayJournalError>;

    /// How many there are.
    async fn counts(&self) -> Result<RelayCounts, RelayJournalError>;
}
