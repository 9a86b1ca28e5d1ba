//! The senders' outbox, over the store.

use std::sync::Arc;

use async_trait::async_trait;
use chain::evm::{Outbox, OutboxError};
use domain::evm::{IntentKey, OutboxEntry, SenderAccount, TransactionAttempt, TransactionOutcome};
use store::{OutboxOutcome, Store, StoreError};

/// The senders' outbox.
#[must_use]
pub fn outbox(store: &Store) -> Arc<dyn Outbox> {
    Arc::new(StoreOutbox(store.clone()))
}

/// All accounts' transactions.
#[derive(Clone, Debug)]
pub(crate) struct StoreOutbox(pub(crate) Store);

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

#[cfg(test)]
mod tests {
    use fixtures::TempStore;

    use super::*;

    #[tokio::test]
    async fn the_outbox_over_the_store_does_what_every_outbox_must() {
        let store = TempStore::open().await;
        chain::evm::suite::outbox(&StoreOutbox(store.clone())).await;
    }
}
