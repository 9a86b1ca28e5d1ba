//! The senders' outbox, over the store.

use std::sync::Arc;

use async_trait::async_trait;
use chain::evm::{Outbox, OutboxError};
use domain::evm::{Account, Attempt, Entry, IntentKey, Outcome};
use store::{OutboxWrite, Store, StoreError};

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
    async fn find(&self, account: &Account, key: &IntentKey) -> Result<Option<Entry>, OutboxError> {
        self.0.outbox_find(*account, key.clone()).await.map_err(unavailable)
    }

    async fn pending(&self, account: &Account) -> Result<Vec<Entry>, OutboxError> {
        self.0.outbox_pending(*account).await.map_err(unavailable)
    }

    async fn highest_nonce(&self, account: &Account) -> Result<Option<u64>, OutboxError> {
        self.0.outbox_highest(*account).await.map_err(unavailable)
    }

    async fn write(&self, entry: &Entry) -> Result<(), OutboxError> {
        posted(self.0.outbox_write(entry.clone()).await)
    }

    async fn add(&self, account: &Account, nonce: u64, attempt: &Attempt) -> Result<(), OutboxError> {
        posted(self.0.outbox_add(*account, nonce, attempt.clone()).await)
    }

    async fn settle(&self, account: &Account, nonce: u64, outcome: &Outcome) -> Result<(), OutboxError> {
        posted(self.0.outbox_settle(*account, nonce, *outcome).await)
    }
}

fn unavailable(error: StoreError) -> OutboxError {
    OutboxError::Unavailable(error.to_string())
}

fn posted(answer: Result<OutboxWrite, StoreError>) -> Result<(), OutboxError> {
    match answer.map_err(unavailable)? {
        OutboxWrite::Done => Ok(()),
        OutboxWrite::Conflict => Err(OutboxError::Conflict),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_outbox_over_the_store_does_what_every_outbox_must() {
        let room = tempfile::tempdir().unwrap();
        let config = store::Config { directory: room.path().to_owned(), ..store::Config::default() };
        chain::evm::suite::outbox(&StoreOutbox(Store::open(&config).await.unwrap())).await;
    }
}
