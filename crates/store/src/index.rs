//! The index: what was read of a chain's vaults, posted.
//!
//! Events are posted by the domain's own rules, in memory first (`draft`): a batch that
//! cannot be is refused before a row is written. Each event keeps what it changed as it
//! was before, so that a re-organised chain is taken back event by event.

mod draft;

use std::collections::BTreeMap;

use async_trait::async_trait;
use domain::evm::BlockRef;
use domain::vault::{BatchRefusal, EventBatch, Ledger, LedgerError, LoggedEvent, Task, TaskId, Vault};
use domain::{Address, Usdc};

use crate::error::StoreError;
use crate::port::port;
use crate::store::Store;

pub(crate) use draft::{BatchDraft, Found, Needs, Undo};

/// Tasks in one list at most.
pub(crate) const MAX_TASKS: u32 = 500;
/// Events in one list at most.
pub(crate) const MAX_EVENTS: u32 = 1000;

/// The index of one factory's vaults on one chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IndexId(pub(crate) i64);

/// One vault with what others may withdraw from it, as of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedVault {
    /// The vault.
    pub vault: Vault,
    /// Who may withdraw what; nobody with nothing.
    pub credits: BTreeMap<Address, Usdc>,
    /// The block up to which this is known.
    pub cursor: BlockRef,
}

port! {
    /// What was read of the vaults' events.
    IndexStore {
        /// The index of a factory's vaults on a chain; an empty one the first time.
        fn chain_index(&self, chain_id: u64, factory: Address) -> IndexId;

        /// Posts a batch, as a whole or not at all. A batch that cannot follow is the
        /// answer's own error.
        fn post_batch(&self, index: IndexId, batch: EventBatch) -> Result<(), BatchRefusal>;

        /// Takes all events above a remembered block back; all there are, for `None`. A
        /// block that is not remembered is the answer's own error.
        fn roll_back(&self, index: IndexId, to: Option<BlockRef>) -> Result<(), BatchRefusal>;

        /// The last block that was posted.
        fn index_cursor(&self, index: IndexId) -> Option<BlockRef>;

        /// The blocks that are remembered, newest first.
        fn index_blocks(&self, index: IndexId) -> Vec<BlockRef>;

        /// All vaults.
        fn vaults(&self, index: IndexId) -> Vec<Address>;

        /// One vault, as it is indexed.
        fn vault(&self, index: IndexId, address: Address) -> Option<IndexedVault>;

        /// A vault's tasks, newest first, at most 500.
        fn tasks(&self, index: IndexId, vault: Address) -> Vec<(TaskId, Task)>;

        /// One task of a vault.
        fn task(&self, index: IndexId, vault: Address, id: TaskId) -> Option<Task>;

        /// A vault's events in their order, at most 1000 of them after `(block,
        /// log_index)`.
        fn vault_events(&self, index: IndexId, vault: Address, after: Option<(u64, u64)>) -> Vec<LoggedEvent>;
    }
}

/// The ledger of one factory's vaults on one chain in this store.
#[derive(Clone, Debug)]
pub struct StoreLedger {
    store: Store,
    index: IndexId,
}

impl Store {
    /// The ledger that keeps this index.
    #[must_use]
    pub fn ledger(&self, index: IndexId) -> StoreLedger {
        StoreLedger { store: self.clone(), index }
    }
}

#[async_trait]
impl Ledger for StoreLedger {
    async fn cursor(&self) -> Result<Option<BlockRef>, LedgerError> {
        self.store.index_cursor(self.index).await.map_err(unavailable)
    }

    async fn remembered(&self) -> Result<Vec<BlockRef>, LedgerError> {
        self.store.index_blocks(self.index).await.map_err(unavailable)
    }

    async fn vaults(&self) -> Result<Vec<Address>, LedgerError> {
        self.store.vaults(self.index).await.map_err(unavailable)
    }

    async fn apply(&self, batch: &EventBatch) -> Result<(), LedgerError> {
        Ok(self.store.post_batch(self.index, batch.clone()).await.map_err(unavailable)??)
    }

    async fn roll_back(&self, to: Option<&BlockRef>) -> Result<(), LedgerError> {
        Ok(self.store.roll_back(self.index, to.copied()).await.map_err(unavailable)??)
    }
}

fn unavailable(error: StoreError) -> LedgerError {
    LedgerError::Unavailable(error.to_string())
}
