//! The indexer's ledger, over the store.

use std::sync::Arc;

use async_trait::async_trait;
use chain::evm::{EventBatch, Ledger, LedgerError};
use domain::Address;
use domain::evm::BlockRef;
use store::{BatchRefusal, IndexId, Store, StoreError};

/// The indexer's ledger of one factory on one chain.
///
/// # Errors
/// Faults of the store.
pub async fn ledger(store: &Store, chain_id: u64, factory: Address) -> Result<Arc<dyn Ledger>, StoreError> {
    let index = store.chain_index(chain_id, factory).await?;
    Ok(Arc::new(StoreLedger { store: store.clone(), index }))
}

/// The ledger of one factory on one chain.
#[derive(Clone, Debug)]
pub(crate) struct StoreLedger {
    pub(crate) store: Store,
    pub(crate) index: IndexId,
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
        let batch = store::EventBatch {
            after: batch.after,
            cursor: batch.cursor,
            blocks: batch.blocks.clone(),
            forget_below: batch.forget_below,
            events: batch.events.clone(),
        };
        self.store.post_batch(self.index, batch).await.map_err(unavailable)?.map_err(refused)
    }

    async fn roll_back(&self, to: Option<&BlockRef>) -> Result<(), LedgerError> {
        self.store.roll_back(self.index, to.copied()).await.map_err(unavailable)?.map_err(refused)
    }
}

fn unavailable(error: StoreError) -> LedgerError {
    LedgerError::Unavailable(error.to_string())
}

fn refused(refusal: BatchRefusal) -> LedgerError {
    match refusal {
        BatchRefusal::Moved => LedgerError::Moved,
        BatchRefusal::Impossible { block, log_index, vault, why } => {
            LedgerError::Impossible { block, log_index, vault, why }
        }
    }
}

#[cfg(test)]
mod tests {
    use fixtures::{CHAIN_ID, TempStore};

    use super::*;

    #[tokio::test]
    async fn the_ledger_over_the_store_does_what_every_ledger_must() {
        let store = TempStore::open().await;
        let index = store.chain_index(CHAIN_ID, Address::ZERO).await.unwrap();
        chain::evm::suite::ledger(&StoreLedger { store: store.clone(), index }).await;
    }
}
