//! What was read of the vaults' events.

mod batch;
mod rows;

use domain::Address;
use domain::evm::BlockRef;
use domain::vault::{BatchRefusal, EventBatch, LoggedEvent, Task, TaskId};
use rusqlite::Connection;

use super::handle::Sqlite;
use super::writer::{Command, Tx};
use crate::codec::integer;
use crate::error::StoreError;
use crate::index::{IndexId, IndexStore, IndexedVault};
use batch::{Apply, RollBack};
use rows::{credits, cursor, events, remembered, task, tasks, vault, vaults};

struct Open {
    chain_id: u64,
    factory: Address,
}

impl Command for Open {
    type Answer = IndexId;
    const NAME: &'static str = "open the index";

    fn apply(&self, tx: &Tx<'_>) -> Result<IndexId, StoreError> {
        let key = (integer(self.chain_id), self.factory.0.0);
        let open = || {
            tx.conn.execute("INSERT INTO books (chain_id, factory) VALUES (?1, ?2) ON CONFLICT DO NOTHING", key)?;
            tx.conn.query_row("SELECT id FROM books WHERE chain_id = ?1 AND factory = ?2", key, |row| row.get(0))
        };
        open().map(IndexId).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl IndexStore for Sqlite {
    async fn chain_index(&self, chain_id: u64, factory: Address) -> Result<IndexId, StoreError> {
        self.write(Open { chain_id, factory }).await
    }

    async fn post_batch(&self, index: IndexId, batch: EventBatch) -> Result<Result<(), BatchRefusal>, StoreError> {
        self.write(Apply { index, batch }).await
    }

    async fn roll_back(&self, index: IndexId, to: Option<BlockRef>) -> Result<Result<(), BatchRefusal>, StoreError> {
        self.write(RollBack { index, to }).await
    }

    async fn index_cursor(&self, index: IndexId) -> Result<Option<BlockRef>, StoreError> {
        self.leaf(move |conn| cursor(conn, index)).await
    }

    async fn index_blocks(&self, index: IndexId) -> Result<Vec<BlockRef>, StoreError> {
        self.leaf(move |conn| remembered(conn, index)).await
    }

    async fn vaults(&self, index: IndexId) -> Result<Vec<Address>, StoreError> {
        self.leaf(move |conn| vaults(conn, index)).await
    }

    async fn vault(&self, index: IndexId, address: Address) -> Result<Option<IndexedVault>, StoreError> {
        self.leaf(move |conn| {
            let (Some(vault), Some(cursor)) = (vault(conn, index, address)?, cursor(conn, index)?) else {
                return Ok(None);
            };
            Ok(Some(IndexedVault { vault, credits: credits(conn, index, address)?, cursor }))
        })
        .await
    }

    async fn tasks(&self, index: IndexId, vault: Address) -> Result<Vec<(TaskId, Task)>, StoreError> {
        self.leaf(move |conn| tasks(conn, index, vault)).await
    }

    async fn task(&self, index: IndexId, vault: Address, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.leaf(move |conn| task(conn, index, vault, id)).await
    }

    async fn vault_events(
        &self,
        index: IndexId,
        vault: Address,
        after: Option<(u64, u64)>,
    ) -> Result<Vec<LoggedEvent>, StoreError> {
        self.leaf(move |conn| events(conn, index, vault, after)).await
    }
}

impl Sqlite {
    async fn leaf<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        const NAME: &str = "read the index";
        self.read(NAME, move |conn| question(conn).map_err(|error| StoreError::sql(NAME, error))).await
    }
}
