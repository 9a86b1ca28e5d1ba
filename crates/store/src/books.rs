//! The vaults' books: what the indexer has read of a chain, posted.
//!
//! Events are posted by the domain's own rules, in memory first: a batch that
//! cannot be is refused before a row is written. Each event keeps what it changed
//! as it was before, so that a re-organised chain is taken back event by event.
//!
//! | file | holds |
//! |---|---|
//! | `draft` | a batch, posted in memory and then written |
//! | `undo` | the way back |
//! | `rows` | the rows |

mod draft;
mod rows;
mod undo;

use std::collections::BTreeMap;

use domain::evm::BlockRef;
use domain::vault::{Impossible, Logged, Task, TaskId, Vault};
use domain::{Address, Usdc};
use rusqlite::Connection;

use crate::codec::integer;
use crate::error::StoreError;
use crate::handle::Store;
use crate::writer::{Command, Tx};
use draft::Apply;
use rows::{credits, cursor, events, remembered, task, tasks, vault, vaults};
use undo::RollBack;

/// The books of one factory on one chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BookId(pub(super) i64);

/// A range of blocks, and all events in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookBatch {
    /// The cursor before it.
    pub after: Option<BlockRef>,
    /// The cursor after it.
    pub cursor: BlockRef,
    /// Blocks to remember.
    pub blocks: Vec<BlockRef>,
    /// Remembered blocks below this number are forgotten.
    pub forget_below: u64,
    /// By block and log index.
    pub events: Vec<Logged>,
}

/// Why a batch is refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BookRefusal {
    /// The cursor is elsewhere.
    Moved,
    /// An event cannot follow those before it.
    Impossible {
        /// The event's block.
        block: u64,
        /// The event's place in it.
        log_index: u64,
        /// The event's vault.
        vault: Address,
        /// What is wrong with it.
        why: Impossible,
    },
}

/// One vault with what others may withdraw from it, as of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultBooks {
    /// The vault.
    pub vault: Vault,
    /// Who may withdraw what; nobody with nothing.
    pub credits: BTreeMap<Address, Usdc>,
    /// The block up to which this is known.
    pub cursor: BlockRef,
}

struct Open {
    chain_id: u64,
    factory: Address,
}

impl Command for Open {
    type Answer = BookId;
    const NAME: &'static str = "open the books";

    fn apply(&self, tx: &Tx<'_>) -> Result<BookId, StoreError> {
        let key = (integer(self.chain_id), self.factory.0.0);
        let open = || {
            tx.conn.execute("INSERT INTO books (chain_id, factory) VALUES (?1, ?2) ON CONFLICT DO NOTHING", key)?;
            tx.conn.query_row("SELECT id FROM books WHERE chain_id = ?1 AND factory = ?2", key, |row| row.get(0))
        };
        open().map(BookId).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl Store {
    /// The books of a factory on a chain; empty ones the first time.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn book(&self, chain_id: u64, factory: Address) -> Result<BookId, StoreError> {
        self.write(Open { chain_id, factory }).await
    }

    /// Posts a batch, as a whole or not at all.
    ///
    /// # Errors
    /// Faults of the store; a batch that cannot follow is the answer's own error.
    pub async fn post_batch(&self, book: BookId, batch: BookBatch) -> Result<Result<(), BookRefusal>, StoreError> {
        self.write(Apply { book, batch }).await
    }

    /// Takes all events above a remembered block back; all there are, for `None`.
    ///
    /// # Errors
    /// Faults of the store; a block that is not remembered is the answer's own
    /// error.
    pub async fn roll_back(&self, book: BookId, to: Option<BlockRef>) -> Result<Result<(), BookRefusal>, StoreError> {
        self.write(RollBack { book, to }).await
    }

    /// The last block that was posted.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn book_cursor(&self, book: BookId) -> Result<Option<BlockRef>, StoreError> {
        self.leaf(move |conn| cursor(conn, book)).await
    }

    /// The blocks that are remembered, newest first.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn book_blocks(&self, book: BookId) -> Result<Vec<BlockRef>, StoreError> {
        self.leaf(move |conn| remembered(conn, book)).await
    }

    /// All vaults.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn vaults(&self, book: BookId) -> Result<Vec<Address>, StoreError> {
        self.leaf(move |conn| vaults(conn, book)).await
    }

    /// One vault's books.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn vault(&self, book: BookId, address: Address) -> Result<Option<VaultBooks>, StoreError> {
        self.leaf(move |conn| {
            let (Some(vault), Some(cursor)) = (vault(conn, book, address)?, cursor(conn, book)?) else {
                return Ok(None);
            };
            Ok(Some(VaultBooks { vault, credits: credits(conn, book, address)?, cursor }))
        })
        .await
    }

    /// A vault's tasks, newest first, at most 500.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn tasks(&self, book: BookId, vault: Address) -> Result<Vec<(TaskId, Task)>, StoreError> {
        self.leaf(move |conn| tasks(conn, book, vault)).await
    }

    /// One task of a vault.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn task(&self, book: BookId, vault: Address, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.leaf(move |conn| task(conn, book, vault, id)).await
    }

    /// A vault's events in their order, at most 1000 of them after `(block,
    /// log_index)`.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn vault_events(
        &self,
        book: BookId,
        vault: Address,
        after: Option<(u64, u64)>,
    ) -> Result<Vec<Logged>, StoreError> {
        self.leaf(move |conn| events(conn, book, vault, after)).await
    }

    async fn leaf<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        const NAME: &str = "read the books";
        self.read(NAME, move |conn| question(conn).map_err(|error| StoreError::sql(NAME, error))).await
    }
}
