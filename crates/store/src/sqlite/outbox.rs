//! Transactions of our own accounts.

use domain::evm::{IntentKey, OutboxEntry, SenderAccount, TransactionAttempt, TransactionOutcome};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::handle::Sqlite;
use super::json::{parse_json, to_json};
use super::writer::{Command, Tx};
use crate::codec::{integer, natural};
use crate::error::StoreError;
use crate::outbox::{Change, OutboxOutcome, OutboxStore, is_pending};

const NAME: &str = "write to the outbox";

struct Insert(OutboxEntry);

impl Command for Insert {
    type Answer = OutboxOutcome;
    const NAME: &'static str = NAME;

    fn apply(&self, tx: &Tx<'_>) -> Result<OutboxOutcome, StoreError> {
        let Self(entry) = self;
        let write = || {
            let key = by_key(tx.conn, &entry.account, &entry.key)?;
            if key.is_some() || taken(tx.conn, &entry.account, entry.nonce)? {
                return Ok(OutboxOutcome::Conflict);
            }
            insert(tx.conn, entry).map(|()| OutboxOutcome::Done)
        };
        write().map_err(|error| StoreError::sql(NAME, error))
    }
}

struct Update {
    account: SenderAccount,
    nonce: u64,
    change: Change,
}

impl Command for Update {
    type Answer = OutboxOutcome;
    const NAME: &'static str = NAME;

    fn apply(&self, tx: &Tx<'_>) -> Result<OutboxOutcome, StoreError> {
        let write = || {
            let Some(mut entry) = pending_at(tx.conn, &self.account, self.nonce)? else {
                return Ok(OutboxOutcome::Conflict);
            };
            self.change.make(&mut entry);
            update(tx.conn, &entry).map(|()| OutboxOutcome::Done)
        };
        write().map_err(|error| StoreError::sql(NAME, error))
    }
}

impl OutboxStore for Sqlite {
    async fn outbox_find(&self, account: SenderAccount, key: IntentKey) -> Result<Option<OutboxEntry>, StoreError> {
        self.look(move |conn| by_key(conn, &account, &key)).await
    }

    async fn outbox_pending(&self, account: SenderAccount) -> Result<Vec<OutboxEntry>, StoreError> {
        self.look(move |conn| pending(conn, &account)).await
    }

    async fn outbox_highest(&self, account: SenderAccount) -> Result<Option<u64>, StoreError> {
        self.look(move |conn| highest(conn, &account)).await
    }

    async fn outbox_write(&self, entry: OutboxEntry) -> Result<OutboxOutcome, StoreError> {
        self.write(Insert(entry)).await
    }

    async fn outbox_add(
        &self,
        account: SenderAccount,
        nonce: u64,
        attempt: TransactionAttempt,
    ) -> Result<OutboxOutcome, StoreError> {
        self.write(Update { account, nonce, change: Change::Add(attempt) }).await
    }

    async fn outbox_settle(
        &self,
        account: SenderAccount,
        nonce: u64,
        outcome: TransactionOutcome,
    ) -> Result<OutboxOutcome, StoreError> {
        self.write(Update { account, nonce, change: Change::Settle(outcome) }).await
    }
}

impl Sqlite {
    async fn look<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        const NAME: &str = "read the outbox";
        self.read(NAME, move |conn| question(conn).map_err(|error| StoreError::sql(NAME, error))).await
    }
}

fn insert(conn: &Connection, entry: &OutboxEntry) -> rusqlite::Result<()> {
    let (chain, account) = columns(&entry.account);
    conn.prepare_cached(
        "INSERT INTO outbox (chain_id, account, nonce, key, pending, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        chain,
        account,
        integer(entry.nonce),
        entry.key.as_str(),
        is_pending(entry),
        to_json(entry)?
    ])?;
    Ok(())
}

fn update(conn: &Connection, entry: &OutboxEntry) -> rusqlite::Result<()> {
    let (chain, account) = columns(&entry.account);
    let sql = "UPDATE outbox SET pending = ?4, body = ?5 WHERE chain_id = ?1 AND account = ?2 AND nonce = ?3";
    conn.prepare_cached(sql)?.execute((chain, account, integer(entry.nonce), is_pending(entry), to_json(entry)?))?;
    Ok(())
}

fn columns(account: &SenderAccount) -> (i64, [u8; 20]) {
    (integer(account.chain_id), account.address.0.0)
}

fn taken(conn: &Connection, account: &SenderAccount, nonce: u64) -> rusqlite::Result<bool> {
    let (chain, account) = columns(account);
    conn.prepare_cached("SELECT 1 FROM outbox WHERE chain_id = ?1 AND account = ?2 AND nonce = ?3")?.exists((
        chain,
        account,
        integer(nonce),
    ))
}

fn by_key(conn: &Connection, account: &SenderAccount, key: &IntentKey) -> rusqlite::Result<Option<OutboxEntry>> {
    let (chain, account) = columns(account);
    conn.prepare_cached("SELECT body FROM outbox WHERE chain_id = ?1 AND account = ?2 AND key = ?3")?
        .query_row((chain, account, key.as_str()), decode)
        .optional()
}

fn pending_at(conn: &Connection, account: &SenderAccount, nonce: u64) -> rusqlite::Result<Option<OutboxEntry>> {
    let (chain, account) = columns(account);
    conn.prepare_cached("SELECT body FROM outbox WHERE chain_id = ?1 AND account = ?2 AND nonce = ?3 AND pending = 1")?
        .query_row((chain, account, integer(nonce)), decode)
        .optional()
}

fn pending(conn: &Connection, account: &SenderAccount) -> rusqlite::Result<Vec<OutboxEntry>> {
    let (chain, account) = columns(account);
    conn.prepare_cached("SELECT body FROM outbox WHERE chain_id = ?1 AND account = ?2 AND pending = 1 ORDER BY nonce")?
        .query_map((chain, account), decode)?
        .collect()
}

fn highest(conn: &Connection, account: &SenderAccount) -> rusqlite::Result<Option<u64>> {
    let (chain, account) = columns(account);
    let sql = "SELECT max(nonce) FROM outbox WHERE chain_id = ?1 AND account = ?2";
    let highest: Option<i64> = conn.prepare_cached(sql)?.query_row((chain, account), |row| row.get(0))?;
    Ok(highest.map(natural))
}

fn decode(row: &Row<'_>) -> rusqlite::Result<OutboxEntry> {
    parse_json(row, 0)
}
