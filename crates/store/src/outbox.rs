//! Transactions of our own accounts, written before anybody hears of them.

use domain::evm::{Account, Attempt, Entry, EntryState, IntentKey, Outcome};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::codec::{integer, natural, parse_json, to_json};
use crate::error::StoreError;
use crate::handle::Store;
use crate::writer::{Command, Tx};

/// What came of a wish to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// It is written.
    Done,
    /// The key or the nonce is taken, or no pending entry is there.
    Conflict,
}

enum Change {
    Write(Entry),
    Add { account: Account, nonce: u64, attempt: Attempt },
    Settle { account: Account, nonce: u64, outcome: Outcome },
}

impl Command for Change {
    type Answer = Posted;
    const NAME: &'static str = "write to the outbox";

    fn apply(&self, tx: &Tx<'_>) -> Result<Posted, StoreError> {
        self.make(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl Change {
    fn make(&self, conn: &Connection) -> rusqlite::Result<Posted> {
        match self {
            Self::Write(entry) => {
                let key = by_key(conn, &entry.account, &entry.key)?;
                if key.is_some() || taken(conn, &entry.account, entry.nonce)? {
                    return Ok(Posted::Conflict);
                }
                insert(conn, entry)?;
            }
            Self::Add { account, nonce, attempt } => {
                let Some(mut entry) = pending_at(conn, account, *nonce)? else { return Ok(Posted::Conflict) };
                entry.attempts.push(attempt.clone());
                update(conn, &entry)?;
            }
            Self::Settle { account, nonce, outcome } => {
                let Some(mut entry) = pending_at(conn, account, *nonce)? else { return Ok(Posted::Conflict) };
                entry.state = EntryState::Settled(*outcome);
                update(conn, &entry)?;
            }
        }
        Ok(Posted::Done)
    }
}

const fn is_pending(entry: &Entry) -> bool {
    matches!(entry.state, EntryState::Pending)
}

fn insert(conn: &Connection, entry: &Entry) -> rusqlite::Result<()> {
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

fn update(conn: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let (chain, account) = columns(&entry.account);
    let sql = "UPDATE outbox SET pending = ?4, body = ?5 WHERE chain_id = ?1 AND account = ?2 AND nonce = ?3";
    conn.prepare_cached(sql)?.execute((chain, account, integer(entry.nonce), is_pending(entry), to_json(entry)?))?;
    Ok(())
}

fn columns(account: &Account) -> (i64, [u8; 20]) {
    (integer(account.chain_id), account.address.0.0)
}

fn taken(conn: &Connection, account: &Account, nonce: u64) -> rusqlite::Result<bool> {
    let (chain, account) = columns(account);
    conn.prepare_cached("SELECT 1 FROM outbox WHERE chain_id = ?1 AND account = ?2 AND nonce = ?3")?.exists((
        chain,
        account,
        integer(nonce),
    ))
}

fn by_key(conn: &Connection, account: &Account, key: &IntentKey) -> rusqlite::Result<Option<Entry>> {
    let (chain, account) = columns(account);
    conn.prepare_cached("SELECT body FROM outbox WHERE chain_id = ?1 AND account = ?2 AND key = ?3")?
        .query_row((chain, account, key.as_str()), decode)
        .optional()
}

fn pending_at(conn: &Connection, account: &Account, nonce: u64) -> rusqlite::Result<Option<Entry>> {
    let (chain, account) = columns(account);
    conn.prepare_cached("SELECT body FROM outbox WHERE chain_id = ?1 AND account = ?2 AND nonce = ?3 AND pending = 1")?
        .query_row((chain, account, integer(nonce)), decode)
        .optional()
}

fn pending(conn: &Connection, account: &Account) -> rusqlite::Result<Vec<Entry>> {
    let (chain, account) = columns(account);
    conn.prepare_cached("SELECT body FROM outbox WHERE chain_id = ?1 AND account = ?2 AND pending = 1 ORDER BY nonce")?
        .query_map((chain, account), decode)?
        .collect()
}

fn highest(conn: &Connection, account: &Account) -> rusqlite::Result<Option<u64>> {
    let (chain, account) = columns(account);
    let sql = "SELECT max(nonce) FROM outbox WHERE chain_id = ?1 AND account = ?2";
    let highest: Option<i64> = conn.prepare_cached(sql)?.query_row((chain, account), |row| row.get(0))?;
    Ok(highest.map(natural))
}

fn decode(row: &Row<'_>) -> rusqlite::Result<Entry> {
    parse_json(row, 0)
}

impl Store {
    /// The entry of a key, whatever its state.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn outbox_find(&self, account: Account, key: IntentKey) -> Result<Option<Entry>, StoreError> {
        self.look(move |conn| by_key(conn, &account, &key)).await
    }

    /// All pending entries of an account, by nonce.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn outbox_pending(&self, account: Account) -> Result<Vec<Entry>, StoreError> {
        self.look(move |conn| pending(conn, &account)).await
    }

    /// The highest nonce of an account that was ever written, whatever became of it.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn outbox_highest(&self, account: Account) -> Result<Option<u64>, StoreError> {
        self.look(move |conn| highest(conn, &account)).await
    }

    /// Writes a new entry.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn outbox_write(&self, entry: Entry) -> Result<Posted, StoreError> {
        self.write(Change::Write(entry)).await
    }

    /// Adds an attempt to a pending entry.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn outbox_add(&self, account: Account, nonce: u64, attempt: Attempt) -> Result<Posted, StoreError> {
        self.write(Change::Add { account, nonce, attempt }).await
    }

    /// Ends a pending entry.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn outbox_settle(&self, account: Account, nonce: u64, outcome: Outcome) -> Result<Posted, StoreError> {
        self.write(Change::Settle { account, nonce, outcome }).await
    }

    async fn look<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        const NAME: &str = "read the outbox";
        self.read(NAME, move |conn| question(conn).map_err(|error| StoreError::sql(NAME, error))).await
    }
}
