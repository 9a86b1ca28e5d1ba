//! The index of vaults' events: what is read of a chain, batch by batch, and who keeps it.

use async_trait::async_trait;

use super::{InvalidEvent, LoggedEvent};
use crate::Address;
use crate::evm::BlockRef;

/// Why a batch is not taken, or not taken back. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchRefusal {
    /// The cursor is elsewhere: somebody else has written to the ledger.
    #[error("the ledger is at another block than this batch follows: another indexer writes to it")]
    Moved,
    /// An event cannot follow those before it: one was left out, or made up.
    #[error("block {block}, log {log_index}, vault {vault}: {why}")]
    Impossible {
        /// Where.
        block: u64,
        /// Which log of the block.
        log_index: u64,
        /// Whose.
        vault: Address,
        /// What is wrong with it.
        why: InvalidEvent,
    },
}

/// Why a ledger does not do what it is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The batch cannot be.
    #[error(transparent)]
    Refused(#[from] BatchRefusal),
    /// The storage failed. For the log, not for clients.
    #[error("the ledger's storage failed: {0}")]
    Unavailable(String),
}

/// A range of blocks and all vault events in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventBatch {
    /// The cursor before it; `None` at the very first.
    pub after: Option<BlockRef>,
    /// The cursor after it: the range's last block.
    pub cursor: BlockRef,
    /// Blocks to remember, oldest first, the cursor last. Not every block of the
    /// range is among them.
    pub blocks: Vec<BlockRef>,
    /// Remembered blocks below this number are forgotten.
    pub forget_below: u64,
    /// By block and log index. Vaults come into being among them.
    pub events: Vec<LoggedEvent>,
}

/// The ledger of all vaults of one factory on one chain, and how far they are
/// read. Every call is one transaction: after a crash at any instant it has
/// either happened as a whole or not at all. What a call has answered is durable.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// The last block that was applied.
    async fn cursor(&self) -> Result<Option<BlockRef>, LedgerError>;

    /// The blocks that are remembered, newest first: the cursor, and those below.
    async fn remembered(&self) -> Result<Vec<BlockRef>, LedgerError>;

    /// All vaults created at or below the cursor.
    async fn vaults(&self) -> Result<Vec<Address>, LedgerError>;

    /// Posts the events in their order by [`post`](super::post), remembers the
    /// blocks, forgets old ones, and moves the cursor.
    ///
    /// # Errors
    /// [`BatchRefusal::Moved`] when the cursor is not `batch.after`; then, as after
    /// every error, nothing has changed.
    async fn apply(&self, batch: &EventBatch) -> Result<(), LedgerError>;

    /// Undoes all events above a remembered block, forgets the blocks above it and
    /// moves the cursor to it; `None` undoes everything.
    async fn roll_back(&self, to: Option<&BlockRef>) -> Result<(), LedgerError>;
}
