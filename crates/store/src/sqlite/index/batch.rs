//! A batch that is posted, and what a re-organised chain takes back.

use domain::evm::BlockRef;
use domain::vault::{BatchRefusal, EventBatch, LoggedEvent};
use rusqlite::Connection;

use super::rows::{credit, cursor, insert_task, put_credit, put_task, put_vault, remembered, set_cursor, task, vault};
use crate::codec::integer;
use crate::error::StoreError;
use crate::index::{BatchDraft, Found, IndexId, Needs, Undo};
use crate::sqlite::json::{parse_json, to_json};
use crate::sqlite::writer::{Command, Tx};

pub(super) struct Apply {
    pub(super) index: IndexId,
    pub(super) batch: EventBatch,
}

impl Command for Apply {
    type Answer = Result<(), BatchRefusal>;
    const NAME: &'static str = "post events";

    fn apply(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let sql = |error| StoreError::sql(Self::NAME, error);
        if cursor(tx.conn, self.index).map_err(sql)? != self.batch.after {
            return Ok(Err(BatchRefusal::Moved));
        }
        let found = self.find(tx.conn, &Needs::of(&self.batch)).map_err(sql)?;
        match BatchDraft::of(&self.batch, found) {
            Err(refusal) => Ok(Err(refusal)),
            Ok(draft) => self.write(tx.conn, &draft).and_then(|()| self.turn(tx.conn)).map(Ok).map_err(sql),
        }
    }
}

impl Apply {
    fn find(&self, conn: &Connection, needs: &Needs) -> rusqlite::Result<Found> {
        let mut found = Found::default();
        for at in &needs.vaults {
            found.vaults.extend(vault(conn, self.index, *at)?.map(|vault| (*at, vault)));
        }
        for key in &needs.tasks {
            found.tasks.extend(task(conn, self.index, key.0, key.1)?.map(|task| (*key, task)));
        }
        for key in &needs.credits {
            found.credits.insert(*key, credit(conn, self.index, key.0, key.1)?);
        }
        Ok(found)
    }

    fn write(&self, conn: &Connection, draft: &BatchDraft<'_>) -> rusqlite::Result<()> {
        let index = self.index;
        for (address, vault) in &draft.rows.vaults {
            put_vault(conn, index, *address, Some(vault))?;
        }
        for (vault, id, order) in &draft.new_tasks {
            insert_task(conn, index, *vault, *id, *order)?;
        }
        for ((vault, id), task) in &draft.rows.tasks {
            put_task(conn, index, *vault, *id, Some(task))?;
        }
        for ((vault, account), amount) in &draft.rows.credits {
            put_credit(conn, index, *vault, *account, *amount)?;
        }
        self.write_events(conn, &draft.events)
    }

    fn write_events(&self, conn: &Connection, events: &[(&LoggedEvent, Undo)]) -> rusqlite::Result<()> {
        let mut insert = conn.prepare_cached(
            "INSERT INTO book_events (book, block, log_index, vault, task, body, undo) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        for (logged, undo) in events {
            let place = (integer(logged.block.number), integer(logged.log_index));
            let task = logged.event.task().map(|task| task.0.0);
            let (body, undo) = (to_json(logged)?, to_json(undo)?);
            insert.execute((self.index.0, place.0, place.1, logged.vault.0.0, task, body, undo))?;
        }
        Ok(())
    }

    /// Remembers the blocks and moves the cursor.
    fn turn(&self, conn: &Connection) -> rusqlite::Result<()> {
        let index = self.index.0;
        conn.prepare_cached("DELETE FROM book_blocks WHERE book = ?1 AND number < ?2")?
            .execute((index, integer(self.batch.forget_below)))?;
        let sql = "INSERT OR REPLACE INTO book_blocks (book, number, hash, time) VALUES (?1, ?2, ?3, ?4)";
        let mut remember = conn.prepare_cached(sql)?;
        for block in &self.batch.blocks {
            remember.execute((index, integer(block.number), block.hash.0, integer(block.time)))?;
        }
        set_cursor(conn, self.index, Some(&self.batch.cursor))
    }
}

pub(super) struct RollBack {
    pub(super) index: IndexId,
    pub(super) to: Option<BlockRef>,
}

impl Command for RollBack {
    type Answer = Result<(), BatchRefusal>;
    const NAME: &'static str = "take events back";

    fn apply(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let sql = |error| StoreError::sql(Self::NAME, error);
        if let Some(to) = &self.to
            && !remembered(tx.conn, self.index).map_err(sql)?.contains(to)
        {
            return Ok(Err(BatchRefusal::Moved));
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
        let mut rows = events.query((self.index.0, above))?;
        while let Some(row) = rows.next()? {
            put_back(conn, self.index, &parse_json(row, 0)?, parse_json(row, 1)?)?;
        }
        for sql in [
            "DELETE FROM book_events WHERE book = ?1 AND block > ?2",
            "DELETE FROM book_blocks WHERE book = ?1 AND number > ?2",
        ] {
            conn.prepare_cached(sql)?.execute((self.index.0, above))?;
        }
        set_cursor(conn, self.index, self.to.as_ref())
    }
}

fn put_back(conn: &Connection, index: IndexId, logged: &LoggedEvent, undo: Undo) -> rusqlite::Result<()> {
    put_vault(conn, index, logged.vault, undo.vault.as_ref())?;
    if let Some(id) = logged.event.task() {
        put_task(conn, index, logged.vault, id, undo.task.as_ref())?;
    }
    if let Some(account) = logged.event.account() {
        put_credit(conn, index, logged.vault, account, undo.credit.unwrap_or_default())?;
    }
    Ok(())
}
