//! What was read of the vaults' events.

mod batch;
mod rows;

use domain::Address;
use domain::evm::BlockRef;
use domain::vault::{BatchRefusal, EventBatch, LoggedEvent, Task, TaskId};
use sqlx::{Row, query};

use super::database::{Command, Postgres, Tx};
use super::json::parse_json;
use crate::codec::integer;
use crate::error::StoreError;
use crate::index::{IndexId, IndexStore, IndexedVault, MAX_EVENTS, MAX_TASKS};
use batch::{Apply, RollBack};

const READ: &str = "read the index";

impl IndexStore for Postgres {
    async fn chain_index(&self, chain_id: u64, factory: Address) -> Result<IndexId, StoreError> {
        const NAME: &str = "open the index";
        let sql = "INSERT INTO books (chain_id, factory) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        self.execute(NAME, query(sql).bind(integer(chain_id)).bind(factory.0.0)).await?;
        let sql = "SELECT id FROM books WHERE chain_id = $1 AND factory = $2";
        let found = query(sql).bind(integer(chain_id)).bind(factory.0.0);
        let id = self.one(NAME, found, |row| row.try_get(0)).await?;
        id.map(IndexId).ok_or(StoreError::Value("an index that was opened and is gone"))
    }

    async fn post_batch(&self, index: IndexId, batch: EventBatch) -> Result<Result<(), BatchRefusal>, StoreError> {
        self.write(Apply { index, batch }).await
    }

    async fn roll_back(&self, index: IndexId, to: Option<BlockRef>) -> Result<Result<(), BatchRefusal>, StoreError> {
        self.write(RollBack { index, to }).await
    }

    async fn index_cursor(&self, index: IndexId) -> Result<Option<BlockRef>, StoreError> {
        self.one(READ, query(rows::CURSOR).bind(index.0), rows::block).await
    }

    async fn index_blocks(&self, index: IndexId) -> Result<Vec<BlockRef>, StoreError> {
        self.many(READ, query(rows::REMEMBERED).bind(index.0), rows::block).await
    }

    async fn vaults(&self, index: IndexId) -> Result<Vec<Address>, StoreError> {
        let sql = "SELECT address FROM vaults WHERE book = $1 ORDER BY address";
        self.many(READ, query(sql).bind(index.0), |row| rows::address(row, 0)).await
    }

    async fn vault(&self, index: IndexId, address: Address) -> Result<Option<IndexedVault>, StoreError> {
        self.write(ReadVault { index, address }).await
    }

    async fn tasks(&self, index: IndexId, vault: Address) -> Result<Vec<(TaskId, Task)>, StoreError> {
        let sql = "SELECT task, body FROM tasks WHERE book = $1 AND vault = $2 ORDER BY n DESC LIMIT $3";
        let tasks = query(sql).bind(index.0).bind(vault.0.0).bind(i64::from(MAX_TASKS));
        self.many(READ, tasks, |row| Ok((TaskId(rows::hash(row, 0)?), parse_json(row, 1)?))).await
    }

    async fn task(&self, index: IndexId, vault: Address, id: TaskId) -> Result<Option<Task>, StoreError> {
        let task = query(rows::TASK).bind(index.0).bind(vault.0.0).bind(id.0.0);
        self.one(READ, task, |row| parse_json(row, 0)).await
    }

    async fn vault_events(
        &self,
        index: IndexId,
        vault: Address,
        after: Option<(u64, u64)>,
    ) -> Result<Vec<LoggedEvent>, StoreError> {
        let (block, log_index) = after.map_or((-1, -1), |(block, index)| (integer(block), integer(index)));
        let events = query(
            "SELECT body FROM book_events WHERE book = $1 AND vault = $2 AND (block, log_index) > ($3, $4) \
             ORDER BY block, log_index LIMIT $5",
        )
        .bind(index.0)
        .bind(vault.0.0)
        .bind(block)
        .bind(log_index)
        .bind(i64::from(MAX_EVENTS));
        self.many(READ, events, |row| parse_json(row, 0)).await
    }
}

/// A vault, its credits and the cursor as they were at one instant.
struct ReadVault {
    index: IndexId,
    address: Address,
}

impl Command for ReadVault {
    type Answer = Option<IndexedVault>;
    const NAME: &'static str = READ;

    async fn apply(&self, tx: &mut Tx) -> Result<Self::Answer, StoreError> {
        self.read(tx).await.map_err(|error| StoreError::postgres(READ, error))
    }
}

impl ReadVault {
    async fn read(&self, tx: &mut Tx) -> sqlx::Result<Option<IndexedVault>> {
        tx.snapshot().await?;
        let vault = rows::vault(tx.conn(), self.index, self.address).await?;
        let cursor = rows::cursor(tx.conn(), self.index).await?;
        let (Some(vault), Some(cursor)) = (vault, cursor) else { return Ok(None) };
        Ok(Some(IndexedVault { vault, credits: rows::credits(tx.conn(), self.index, self.address).await?, cursor }))
    }
}
