//! The index's rows.

use std::collections::BTreeMap;

use domain::evm::BlockRef;
use domain::vault::{Task, TaskId, Vault};
use domain::{Address, B256, Usdc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row, query};

use crate::codec::{integer, natural};
use crate::index::IndexId;
use crate::postgres::json::{parse_json, to_json};

pub(super) const CURSOR: &str = "SELECT number, hash, time FROM books WHERE id = $1 AND number IS NOT NULL";
pub(super) const REMEMBERED: &str = "SELECT number, hash, time FROM book_blocks WHERE book = $1 ORDER BY number DESC";
pub(super) const TASK: &str = "SELECT body FROM tasks WHERE book = $1 AND vault = $2 AND task = $3";

pub(super) fn block(row: &PgRow) -> sqlx::Result<BlockRef> {
    Ok(BlockRef { number: natural(row.try_get(0)?), hash: hash(row, 1)?, time: natural(row.try_get(2)?) })
}

pub(super) fn hash(row: &PgRow, column: usize) -> sqlx::Result<B256> {
    row.try_get::<[u8; 32], _>(column).map(B256::from)
}

pub(super) fn address(row: &PgRow, column: usize) -> sqlx::Result<Address> {
    row.try_get::<[u8; 20], _>(column).map(Address::from)
}

pub(super) async fn cursor(conn: &mut PgConnection, index: IndexId) -> sqlx::Result<Option<BlockRef>> {
    let found = query(CURSOR).bind(index.0).fetch_optional(conn).await?;
    found.map(|row| block(&row)).transpose()
}

/// Nobody else posts to this index, or takes back from it, until the transaction ends.
pub(super) async fn lock(conn: &mut PgConnection, index: IndexId) -> sqlx::Result<()> {
    query("SELECT 1 FROM books WHERE id = $1 FOR UPDATE").bind(index.0).execute(conn).await.map(drop)
}

pub(super) async fn set_cursor(conn: &mut PgConnection, index: IndexId, to: Option<&BlockRef>) -> sqlx::Result<()> {
    query("UPDATE books SET number = $2, hash = $3, time = $4 WHERE id = $1")
        .bind(index.0)
        .bind(to.map(|to| integer(to.number)))
        .bind(to.map(|to| to.hash.0))
        .bind(to.map(|to| integer(to.time)))
        .execute(conn)
        .await
        .map(drop)
}

pub(super) async fn remembers(conn: &mut PgConnection, index: IndexId, block: &BlockRef) -> sqlx::Result<bool> {
    let sql = "SELECT 1 FROM book_blocks WHERE book = $1 AND number = $2 AND hash = $3 AND time = $4";
    let found = query(sql).bind(index.0).bind(integer(block.number)).bind(block.hash.0).bind(integer(block.time));
    Ok(found.fetch_optional(conn).await?.is_some())
}

pub(super) async fn vault(conn: &mut PgConnection, index: IndexId, at: Address) -> sqlx::Result<Option<Vault>> {
    let sql = "SELECT body FROM vaults WHERE book = $1 AND address = $2";
    let found = query(sql).bind(index.0).bind(at.0.0).fetch_optional(conn).await?;
    found.map(|row| parse_json(&row, 0)).transpose()
}

pub(super) async fn put_vault(
    conn: &mut PgConnection,
    index: IndexId,
    at: Address,
    vault: Option<&Vault>,
) -> sqlx::Result<()> {
    let done = match vault {
        Some(vault) => {
            let sql = "INSERT INTO vaults (book, address, body) VALUES ($1, $2, $3) \
                       ON CONFLICT (book, address) DO UPDATE SET body = $3";
            query(sql).bind(index.0).bind(at.0.0).bind(to_json(vault)?).execute(conn).await
        }
        None => {
            let sql = "DELETE FROM vaults WHERE book = $1 AND address = $2";
            query(sql).bind(index.0).bind(at.0.0).execute(conn).await
        }
    };
    done.map(drop)
}

pub(super) async fn task(
    conn: &mut PgConnection,
    index: IndexId,
    (vault, id): (Address, TaskId),
) -> sqlx::Result<Option<Task>> {
    let found = query(TASK).bind(index.0).bind(vault.0.0).bind(id.0.0).fetch_optional(conn).await?;
    found.map(|row| parse_json(&row, 0)).transpose()
}

pub(super) async fn insert_task(
    conn: &mut PgConnection,
    index: IndexId,
    (vault, id): (Address, TaskId),
    order: u64,
) -> sqlx::Result<()> {
    let sql = "INSERT INTO tasks (book, vault, task, n, body) VALUES ($1, $2, $3, $4, '')";
    query(sql).bind(index.0).bind(vault.0.0).bind(id.0.0).bind(integer(order)).execute(conn).await.map(drop)
}

pub(super) async fn put_task(
    conn: &mut PgConnection,
    index: IndexId,
    (vault, id): (Address, TaskId),
    task: Option<&Task>,
) -> sqlx::Result<()> {
    let done = match task {
        Some(task) => {
            let sql = "UPDATE tasks SET body = $4 WHERE book = $1 AND vault = $2 AND task = $3";
            query(sql).bind(index.0).bind(vault.0.0).bind(id.0.0).bind(to_json(task)?).execute(conn).await
        }
        None => {
            let sql = "DELETE FROM tasks WHERE book = $1 AND vault = $2 AND task = $3";
            query(sql).bind(index.0).bind(vault.0.0).bind(id.0.0).execute(conn).await
        }
    };
    done.map(drop)
}

pub(super) async fn credit(
    conn: &mut PgConnection,
    index: IndexId,
    (vault, account): (Address, Address),
) -> sqlx::Result<Usdc> {
    let sql = "SELECT amount FROM credits WHERE book = $1 AND vault = $2 AND account = $3";
    let found = query(sql).bind(index.0).bind(vault.0.0).bind(account.0.0).fetch_optional(conn).await?;
    found.map_or(Ok(Usdc::ZERO), |row| row.try_get(0).map(natural).map(Usdc))
}

pub(super) async fn credits(
    conn: &mut PgConnection,
    index: IndexId,
    vault: Address,
) -> sqlx::Result<BTreeMap<Address, Usdc>> {
    let sql = "SELECT account, amount FROM credits WHERE book = $1 AND vault = $2";
    let rows = query(sql).bind(index.0).bind(vault.0.0).fetch_all(conn).await?;
    rows.iter().map(|row| Ok((address(row, 0)?, Usdc(natural(row.try_get(1)?))))).collect()
}

pub(super) async fn put_credit(
    conn: &mut PgConnection,
    index: IndexId,
    (vault, account): (Address, Address),
    amount: Usdc,
) -> sqlx::Result<()> {
    let done = if amount == Usdc::ZERO {
        let sql = "DELETE FROM credits WHERE book = $1 AND vault = $2 AND account = $3";
        query(sql).bind(index.0).bind(vault.0.0).bind(account.0.0).execute(conn).await
    } else {
        let sql = "INSERT INTO credits (book, vault, account, amount) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (book, vault, account) DO UPDATE SET amount = $4";
        query(sql).bind(index.0).bind(vault.0.0).bind(account.0.0).bind(integer(amount.0)).execute(conn).await
    };
    done.map(drop)
}
