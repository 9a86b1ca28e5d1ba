//! A batch of events: posted in memory, then written as a whole.

use std::collections::BTreeMap;

use domain::vault::{Found, Impossible, Logged, Task, TaskId, Vault, post};
use domain::{Address, Usdc};
use rusqlite::Connection;

use super::rows::{credit, cursor, insert_task, put_credit, put_task, put_vault, set_cursor, task, vault};
use super::undo::Undo;
use super::{BookBatch, BookId, BookRefusal};
use crate::codec::{integer, to_json};
use crate::error::StoreError;
use crate::writer::{Command, Tx};

pub(super) struct Apply {
    pub(super) book: BookId,
    pub(super) batch: BookBatch,
}

impl Command for Apply {
    type Answer = Result<(), BookRefusal>;
    const NAME: &'static str = "post events";

    fn apply(&self, tx: &Tx<'_>) -> Result<Self::Answer, StoreError> {
        let sql = |error| StoreError::sql(Self::NAME, error);
        if cursor(tx.conn, self.book).map_err(sql)? != self.batch.after {
            return Ok(Err(BookRefusal::Moved));
        }
        let mut draft = Draft::new(tx.conn, self.book);
        for logged in &self.batch.events {
            if let Err(why) = draft.post(logged).map_err(sql)? {
                let Logged { block, log_index, vault, .. } = logged;
                let refusal =
                    BookRefusal::Impossible { block: block.number, log_index: *log_index, vault: *vault, why };
                return Ok(Err(refusal));
            }
        }
        draft.write().and_then(|()| self.turn(tx.conn)).map(Ok).map_err(sql)
    }
}

impl Apply {
    /// Remembers the blocks and moves the cursor.
    fn turn(&self, conn: &Connection) -> rusqlite::Result<()> {
        let book = self.book.0;
        conn.prepare_cached("DELETE FROM book_blocks WHERE book = ?1 AND number < ?2")?
            .execute((book, integer(self.batch.forget_below)))?;
        let sql = "INSERT OR REPLACE INTO book_blocks (book, number, hash, time) VALUES (?1, ?2, ?3, ?4)";
        let mut remember = conn.prepare_cached(sql)?;
        for block in &self.batch.blocks {
            remember.execute((book, integer(block.number), block.hash.0, integer(block.time)))?;
        }
        set_cursor(conn, self.book, Some(&self.batch.cursor))
    }
}

/// A batch as it will be written, and what it has looked up.
struct Draft<'a> {
    conn: &'a Connection,
    book: BookId,
    vaults: BTreeMap<Address, Option<Vault>>,
    tasks: BTreeMap<(Address, TaskId), Option<Task>>,
    credits: BTreeMap<(Address, Address), Usdc>,
    /// Tasks that begin in this batch, with the events that begin them.
    new_tasks: Vec<(&'a Logged, TaskId)>,
    events: Vec<(&'a Logged, Undo)>,
}

impl<'a> Draft<'a> {
    fn new(conn: &'a Connection, book: BookId) -> Self {
        let (vaults, tasks, credits) = Default::default();
        Self { conn, book, vaults, tasks, credits, new_tasks: Vec::new(), events: Vec::new() }
    }

    fn post(&mut self, logged: &'a Logged) -> rusqlite::Result<Result<(), Impossible>> {
        let event = &logged.event;
        let task_key = event.task().map(|task| (logged.vault, task));
        let credit_key = event.account().map(|account| (logged.vault, account));
        let vault = self.vault(logged.vault)?.cloned();
        let task = task_key.map(|key| self.task(key).map(|task| task.cloned())).transpose()?.flatten();
        let credit = credit_key.map(|key| self.credit(key)).transpose()?;
        let found = Found { vault: vault.as_ref(), task: task.as_ref(), credit: credit.unwrap_or_default() };
        let posting = match post(found, event) {
            Ok(posting) => posting,
            Err(why) => return Ok(Err(why)),
        };
        if let (None, Some(key)) = (&task, task_key) {
            self.new_tasks.push((logged, key.1));
        }
        self.vaults.insert(logged.vault, Some(posting.vault));
        self.tasks.extend(task_key.zip(posting.task.map(Some)));
        self.credits.extend(credit_key.zip(posting.credit));
        self.events.push((logged, Undo { vault, task, credit }));
        Ok(Ok(()))
    }

    fn vault(&mut self, address: Address) -> rusqlite::Result<Option<&Vault>> {
        if !self.vaults.contains_key(&address) {
            self.vaults.insert(address, vault(self.conn, self.book, address)?);
        }
        Ok(self.vaults.get(&address).and_then(Option::as_ref))
    }

    fn task(&mut self, key: (Address, TaskId)) -> rusqlite::Result<Option<&Task>> {
        if !self.tasks.contains_key(&key) {
            self.tasks.insert(key, task(self.conn, self.book, key.0, key.1)?);
        }
        Ok(self.tasks.get(&key).and_then(Option::as_ref))
    }

    fn credit(&mut self, key: (Address, Address)) -> rusqlite::Result<Usdc> {
        if !self.credits.contains_key(&key) {
            self.credits.insert(key, credit(self.conn, self.book, key.0, key.1)?);
        }
        Ok(self.credits.get(&key).copied().unwrap_or_default())
    }

    fn write(&self) -> rusqlite::Result<()> {
        let (conn, book) = (self.conn, self.book);
        for (address, vault) in &self.vaults {
            put_vault(conn, book, *address, vault.as_ref())?;
        }
        for (logged, id) in &self.new_tasks {
            insert_task(conn, book, logged, *id)?;
        }
        for ((vault, id), task) in &self.tasks {
            put_task(conn, book, *vault, *id, task.as_ref())?;
        }
        for ((vault, account), amount) in &self.credits {
            put_credit(conn, book, *vault, *account, *amount)?;
        }
        self.write_events()
    }

    fn write_events(&self) -> rusqlite::Result<()> {
        let mut insert = self.conn.prepare_cached(
            "INSERT INTO book_events (book, block, log_index, vault, task, body, undo) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        for (logged, undo) in &self.events {
            let place = (integer(logged.block.number), integer(logged.log_index));
            let task = logged.event.task().map(|task| task.0.0);
            let (body, undo) = (to_json(logged)?, to_json(undo)?);
            insert.execute((self.book.0, place.0, place.1, logged.vault.0.0, task, body, undo))?;
        }
        Ok(())
    }
}
