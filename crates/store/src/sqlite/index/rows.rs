//! The index's rows.

use std::collections::BTreeMap;

use domain::evm::BlockRef;
use domain::vault::{LoggedEvent, Task, TaskId, Vault};
use domain::{Address, B256, Usdc};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::codec::{integer, natural};
use crate::index::{IndexId, MAX_EVENTS, MAX_TASKS};
use crate::sqlite::json::{parse_json, to_json};

fn block(row: &Row<'_>) -> rusqlite::Result<BlockRef> {
    let hash: [u8; 32] = row.get(1)?;
    Ok(BlockRef { number: natural(row.get(0)?), hash: B256::from(hash), time: natural(row.get(2)?) })
}

pub(super) fn cursor(conn: &Connection, index: IndexId) -> rusqlite::Result<Option<BlockRef>> {
    conn.prepare_cached("SELECT number, hash, time FROM books WHERE id = ?1 AND number IS NOT NULL")?
        .query_row((index.0,), block)
        .optional()
}

pub(super) fn set_cursor(conn: &Connection, index: IndexId, to: Option<&BlockRef>) -> rusqlite::Result<()> {
    let (number, hash) = (to.map(|to| integer(to.number)), to.map(|to| to.hash.0));
    conn.prepare_cached("UPDATE books SET number = ?2, hash = ?3, time = ?4 WHERE id = ?1")?.execute((
        index.0,
        number,
        hash,
        to.map(|to| integer(to.time)),
    ))?;
    Ok(())
}

pub(super) fn remembered(conn: &Connection, index: IndexId) -> rusqlite::Result<Vec<BlockRef>> {
    let sql = "SELECT number, hash, time FROM book_blocks WHERE book = ?1 ORDER BY number DESC";
    conn.prepare_cached(sql)?.query_map((index.0,), block)?.collect()
}

fn address(row: &Row<'_>, column: usize) -> rusqlite::Result<Address> {
    row.get::<_, [u8; 20]>(column).map(Address::from)
}

pub(super) fn vaults(conn: &Connection, index: IndexId) -> rusqlite::Result<Vec<Address>> {
    let sql = "SELECT address FROM vaults WHERE book = ?1";
    conn.prepare_cached(sql)?.query_map((index.0,), |row| address(row, 0))?.collect()
}

pub(super) fn vault(conn: &Connection, index: IndexId, at: Address) -> rusqlite::Result<Option<Vault>> {
    let sql = "SELECT body FROM vaults WHERE book = ?1 AND address = ?2";
    conn.prepare_cached(sql)?.query_row((index.0, at.0.0), |row| parse_json(row, 0)).optional()
}

pub(super) fn put_vault(conn: &Connection, index: IndexId, at: Address, vault: Option<&Vault>) -> rusqlite::Result<()> {
    match vault {
        Some(vault) => conn
            .prepare_cached("INSERT OR REPLACE INTO vaults (book, address, body) VALUES (?1, ?2, ?3)")?
            .execute((index.0, at.0.0, to_json(vault)?))?,
        None => {
            conn.prepare_cached("DELETE FROM vaults WHERE book = ?1 AND address = ?2")?.execute((index.0, at.0.0))?
        }
    };
    Ok(())
}

pub(super) fn task(conn: &Connection, index: IndexId, vault: Address, id: TaskId) -> rusqlite::Result<Option<Task>> {
    let sql = "SELECT body FROM tasks WHERE book = ?1 AND vault = ?2 AND task = ?3";
    conn.prepare_cached(sql)?.query_row((index.0, vault.0.0, id.0.0), |row| parse_json(row, 0)).optional()
}

pub(super) fn tasks(conn: &Connection, index: IndexId, vault: Address) -> rusqlite::Result<Vec<(TaskId, Task)>> {
    let sql = "SELECT task, body FROM tasks WHERE book = ?1 AND vault = ?2 ORDER BY n DESC LIMIT ?3";
    let mut rows = conn.prepare_cached(sql)?;
    let found = rows.query_map((index.0, vault.0.0, MAX_TASKS), |row| {
        Ok((TaskId(B256::from(row.get::<_, [u8; 32]>(0)?)), parse_json(row, 1)?))
    })?;
    found.collect()
}

pub(super) fn insert_task(
    conn: &Connection,
    index: IndexId,
    vault: Address,
    id: TaskId,
    order: u64,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO tasks (book, vault, task, n, body) VALUES (?1, ?2, ?3, ?4, '')";
    conn.prepare_cached(sql)?.execute((index.0, vault.0.0, id.0.0, integer(order)))?;
    Ok(())
}

pub(super) fn put_task(
    conn: &Connection,
    index: IndexId,
    vault: Address,
    id: TaskId,
    task: Option<&Task>,
) -> rusqlite::Result<()> {
    match task {
        Some(task) => conn
            .prepare_cached("UPDATE tasks SET body = ?4 WHERE book = ?1 AND vault = ?2 AND task = ?3")?
            .execute((index.0, vault.0.0, id.0.0, to_json(task)?))?,
        None => conn
            .prepare_cached("DELETE FROM tasks WHERE book = ?1 AND vault = ?2 AND task = ?3")?
            .execute((index.0, vault.0.0, id.0.0))?,
    };
    Ok(())
}

pub(super) fn credit(conn: &Connection, index: IndexId, vault: Address, account: Address) -> rusqlite::Result<Usdc> {
    let sql = "SELECT amount FROM credits WHERE book = ?1 AND vault = ?2 AND account = ?3";
    let key = (index.0, vault.0.0, account.0.0);
    let amount = conn.prepare_cached(sql)?.query_row(key, |row| row.get(0).map(natural)).optional()?;
    Ok(amount.map_or(Usdc::ZERO, Usdc))
}

pub(super) fn credits(conn: &Connection, index: IndexId, vault: Address) -> rusqlite::Result<BTreeMap<Address, Usdc>> {
    let mut rows = conn.prepare_cached("SELECT account, amount FROM credits WHERE book = ?1 AND vault = ?2")?;
    let all = rows.query_map((index.0, vault.0.0), |row| Ok((address(row, 0)?, Usdc(natural(row.get(1)?)))))?;
    all.collect()
}

pub(super) fn put_credit(
    conn: &Connection,
    index: IndexId,
    vault: Address,
    account: Address,
    amount: Usdc,
) -> rusqlite::Result<()> {
    let key = (index.0, vault.0.0, account.0.0);
    if amount == Usdc::ZERO {
        let sql = "DELETE FROM credits WHERE book = ?1 AND vault = ?2 AND account = ?3";
        conn.prepare_cached(sql)?.execute(key)?;
    } else {
        let sql = "INSERT OR REPLACE INTO credits (book, vault, account, amount) VALUES (?1, ?2, ?3, ?4)";
        conn.prepare_cached(sql)?.execute((key.0, key.1, key.2, integer(amount.0)))?;
    }
    Ok(())
}

pub(super) fn events(
    conn: &Connection,
    index: IndexId,
    vault: Address,
    after: Option<(u64, u64)>,
) -> rusqlite::Result<Vec<LoggedEvent>> {
    let (block, log_index) = after.map_or((-1, -1), |(block, index)| (integer(block), integer(index)));
    conn.prepare_cached(
        "SELECT body FROM book_events WHERE book = ?1 AND vault = ?2 AND (block, log_index) > (?3, ?4) \
         ORDER BY block, log_index LIMIT ?5",
    )?
    .query_map((index.0, vault.0.0, block, log_index, MAX_EVENTS), |row| parse_json(row, 0))?
    .collect()
}
