//! A batch that is posted, and what a re-organised chain takes back.

use domain::evm::BlockRef;
use domain::vault::{BatchRefusal, EventBatch, LoggedEvent};
use sqlx::{PgConnection, query};

use super::rows::{
    credit, cursor, insert_task, lock, put_credit, put_task, put_vault, remembers, set_cursor, task, vault,
};
use crate::codec::integer;
use crate::error::StoreError;
use crate::index::{BatchDraft, Found, IndexId, Needs, Undo};
use crate::postgres::database::{Command, Tx};
use crate::postgres::json::{parse_json, to_json};

pub(super) struct Apply {
    pub(super) index: IndexId,
    pub(super) batch: EventBatch,
}

impl Command for Apply {
    type Answer = Result<(), BatchRefusal>;
    const NAME: &'static str = "post events";

    async fn apply(&self, tx: &mut Tx) -> Result<Self::Answer, StoreError> {
        self.post(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl Apply {
    async fn post(&self, conn: &mut PgConnection) -> sqlx::Result<Result<(), BatchRefusal>> {
        lock(conn, self.index).await?;
        if cursor(conn, self.index).await? != self.batch.after {
            return Ok(Err(BatchRefusal::Moved));
        }
        let found = self.find(conn, &Needs::of(&self.batch)).await?;
        match BatchDraft::of(&self.batch, found) {
            Err(refusal) => return Ok(Err(refusal)),
            Ok(draft) => self.write(conn, &draft).await?,
        }
        self.turn(conn).await.map(Ok)
    }

    async fn find(&self, conn: &mut PgConnection, needs: &Needs) -> sqlx::Result<Found> {
        let mut found = Found::default();
        for at in &needs.vaults {
            found.vaults.extend(vault(conn, self.index, *at).await?.map(|vault| (*at, vault)));
        }
        for key in &needs.tasks {
            found.tasks.extend(task(conn, self.index, *key).await?.map(|task| (*key, task)));
        }
        for key in &needs.credits {
            found.credits.insert(*key, credit(conn, self.index, *key).await?);
        }
        Ok(found)
    }

    async fn write(&self, conn: &mut PgConnection, draft: &BatchDraft<'_>) -> sqlx::Result<()> {
        let index = self.index;
        for (address, vault) in &draft.rows.vaults {
            put_vault(conn, index, *address, Some(vault)).await?;
        }
        for (vault, id, order) in &draft.new_tasks {
            insert_task(conn, index, (*vault, *id), *order).await?;
        }
        for (key, task) in &draft.rows.tasks {
            put_task(conn, index, *key, Some(task)).await?;
        }
        for (key, amount) in &draft.rows.credits {
            put_credit(conn, index, *key, *amount).await?;
        }
        for (logged, undo) in &draft.events {
            self.write_event(conn, logged, undo).await?;
        }
        Ok(())
    }

    async fn write_event(&self, conn: &mut PgConnection, logged: &LoggedEvent, undo: &Undo) -> sqlx::Result<()> {
        query(
            "INSERT INTO book_events (book, block, log_index, vault, task, body, undo) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(self.index.0)
        .bind(integer(logged.block.number))
        .bind(integer(logged.log_index))
        .bind(logged.vault.0.0)
        .bind(logged.event.task().map(|task| task.0.0))
        .bind(to_json(logged)?)
        .bind(to_json(undo)?)
        .execute(conn)
        .await
        .map(drop)
    }

    /// Remembers the blocks and moves the cursor.
    async fn turn(&self, conn: &mut PgConnection) -> sqlx::Result<()> {
        let forget = query("DELETE FROM book_blocks WHERE book = $1 AND number < $2");
        forget.bind(self.index.0).bind(integer(self.batch.forget_below)).execute(&mut *conn).await?;
        for block in &self.batch.blocks {
            let sql = "INSERT INTO book_blocks (book, number, hash, time) VALUES ($1, $2, $3, $4) \
                       ON CONFLICT (book, number) DO UPDATE SET hash = $3, time = $4";
            let remember = query(sql).bind(self.index.0).bind(integer(block.number)).bind(block.hash.0);
            remember.bind(integer(block.time)).execute(&mut *conn).await?;
        }
        set_cursor(conn, self.index, Some(&self.batch.cursor)).await
    }
}

pub(super) struct RollBack {
    pub(super) index: IndexId,
    pub(super) to: Option<BlockRef>,
}

impl Command for RollBack {
    type Answer = Result<(), BatchRefusal>;
    const NAME: &'static str = "take events back";

    async fn apply(&self, tx: &mut Tx) -> Result<Self::Answer, StoreError> {
        self.roll_back(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl RollBack {
    async fn roll_back(&self, conn: &mut PgConnection) -> sqlx::Result<Result<(), BatchRefusal>> {
        lock(conn, self.index).await?;
        if let Some(to) = &self.to
            && !remembers(conn, self.index, to).await?
        {
            return Ok(Err(BatchRefusal::Moved));
        }
        self.take_back(conn).await.map(Ok)
    }

    async fn take_back(&self, conn: &mut PgConnection) -> sqlx::Result<()> {
        // Below every block there is: everything goes.
        let above = self.to.map_or(-1, |to| integer(to.number));
        let events = query(
            "SELECT body, undo FROM book_events WHERE book = $1 AND block > $2 ORDER BY block DESC, log_index DESC",
        );
        for row in events.bind(self.index.0).bind(above).fetch_all(&mut *conn).await? {
            self.put_back(conn, &parse_json(&row, 0)?, parse_json(&row, 1)?).await?;
        }
        for sql in [
            "DELETE FROM book_events WHERE book = $1 AND block > $2",
            "DELETE FROM book_blocks WHERE book = $1 AND number > $2",
        ] {
            query(sql).bind(self.index.0).bind(above).execute(&mut *conn).await?;
        }
        set_cursor(conn, self.index, self.to.as_ref()).await
    }

    async fn put_back(&self, conn: &mut PgConnection, logged: &LoggedEvent, undo: Undo) -> sqlx::Result<()> {
        put_vault(conn, self.index, logged.vault, undo.vault.as_ref()).await?;
        if let Some(id) = logged.event.task() {
            put_task(conn, self.index, (logged.vault, id), undo.task.as_ref()).await?;
        }
        if let Some(account) = logged.event.account() {
            put_credit(conn, self.index, (logged.vault, account), undo.credit.unwrap_or_default()).await?;
        }
        Ok(())
    }
}
