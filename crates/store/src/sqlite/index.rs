//! What was read of the vaults' events.

mod batch;
mod rows;

use domain::Address;
use domain::evm::BlockRef;
use domain::vault::{Logged, Task, TaskId};
use rusqlite::Connection;

use super::handle::Sqlite;
use super::writer::{Command, Tx};
use crate::codec::integer;
use crate::error::StoreError;
use crate::index::{BatchRefusal, EventBatch, IndexId, IndexStore, IndexedVault};
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

    async fn post_batch(&self, book: IndexId, batch: EventBatch) -> Result<Result<(), BatchRefusal>, StoreError> {
        self.write(Apply { book, batch }).await
    }

    async fn roll_back(&self, book: IndexId, to: Option<BlockRef>) -> Result<Result<(), BatchRefusal>, StoreError> {
        self.write(RollBack { book, to }).await
    }

    async fn index_cursor(&self, book: IndexId) -> Result<Option<BlockRef>, StoreError> {
        self.leaf(move |conn| cursor(conn, book)).await
    }

    async fn index_blocks(&self, book: IndexId) -> Result<Vec<BlockRef>, StoreError> {
        self.leaf(move |conn| remembered(conn, book)).await
    }

    async fn vaults(&self, book: IndexId) -> Result<Vec<Address>, StoreError> {
        self.leaf(move |conn| vaults(conn, book)).await
    }

    async fn vault(&self, book: IndexId, address: Address) -> Result<Option<IndexedVault>, StoreError> {
        self.leaf(move |conn| {
            let (Some(vault), Some(cursor)) = (vault(conn, book, address)?, cursor(conn, book)?) else {
                return Ok(None);
            };
            Ok(Some(IndexedVault { vault, credits: credits(conn, book, address)?, cursor }))
        })
        .await
    }

    async fn tasks(&self, book: IndexId, vault: Address) -> Result<Vec<(TaskId, Task)>, StoreError> {
        self.leaf(move |conn| tasks(conn, book, vault)).await
    }

    async fn task(&self, book: IndexId, vault: Address, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.leaf(move |conn| task(conn, book, vault, id)).await
    }

    async fn vault_events(
        &self,
        book: IndexId,
        vault: Address,
        after: Option<(u64, u64)>,
    ) -> Result<Vec<Logged>, StoreError> {
        self.leaf(move |conn| events(conn, book, vault, after)).await
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
