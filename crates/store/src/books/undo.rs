//! What a re-organised chain takes back.

use domain::Usdc;
use domain::evm::BlockRef;
use domain::vault::{Logged, Task, Vault};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::rows::{put_credit, put_task, put_vault, remembered, set_cursor};
use super::{BookId, BookRefusal};
use crate::codec::{integer, parse_json};
use crate::error::StoreError;
use crate::writer::{Command, Tx};

/// What an event changed, as it was before.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Undo {
    pub(super) vault: Option<Vault>,
    pub(super) task: Option<Task>,
    pub(super) credit: Option<Usdc>,
}

pub(super) struct RollBack {
    pub(super) book: BookId,
    pub(super) to: Option<BlockRef>,
}

impl Command for RollBack {
    type Answer = Result<(), BookRefusal>;
    const NAME: &'static str = "take events back";

    fn apply(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let sql = |error| StoreError::sql(Self::NAME, error);
        if let Some(to) = &self.to
            && !remembered(tx.conn, self.book).map_err(sql)?.contains(to)
        {
            return Ok(Err(BookRefusal::Moved));
        }
        self.take_back(tx.conn).map(Ok).map_err(sql)
    }
}

impl RollBack {
    fn take_back(&self, conn: &Connection) -> rusqlite::Result<()> {
        // Below every block there is: everything goes.
        let above = self.to.map_or(-1, |to| integer(to.number));
        let mut events = conn.prepare_cached(
            "SELECT body, undo FROM book_events WHERE book = ?1 AND block > ?2 ORDER BY block DESC, log_index DESC",
        )?;
        let mut rows = events.query((self.book.0, above))?;
        while let Some(row) = rows.next()? {
            put_back(conn, self.book, &parse_json(row, 0)?, parse_json(row, 1)?)?;
        }
        for sql in [
            "DELETE FROM book_events WHERE book = ?1 AND block > ?2",
            "DELETE FROM book_blocks WHERE book = ?1 AND number > ?2",
        ] {
            conn.prepare_cached(sql)?.execute((self.book.0, above))?;
        }
        set_cursor(conn, self.book, self.to.as_ref())
    }
}

fn put_back(conn: &Connection, book: BookId, logged: &Logged, undo: Undo) -> rusqlite::Result<()> {
    put_vault(conn, book, logged.vault, undo.vault.as_ref())?;
    if let Some(id) = logged.event.task() {
        put_task(conn, book, logged.vault, id, undo.task.as_ref())?;
    }
    if let Some(account) = logged.event.account() {
        put_credit(conn, book, logged.vault, account, undo.credit.unwrap_or_default())?;
    }
    Ok(())
}
