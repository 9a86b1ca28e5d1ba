//! What is forgotten, and when. In small bites, so that nobody waits for long.

use domain::{RunId, UnixMillis, Wallet};
use rusqlite::Connection;

use crate::billing::keep_total;
use crate::codec::{id_column, integer};
use crate::error::StoreError;
use crate::row::{many, select_runs};
use crate::writer::{Command, Tx};

/// Rows of each kind forgotten in one transaction.
const BITE: u32 = 500;
/// A spent message is kept this much longer than anyone accepts it, should the
/// clock be set back.
const STAMP_SLACK_MS: u64 = 10 * 60 * 1000;

/// What was forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Spent messages that nobody would accept any more.
    pub stamps: u64,
    /// Idempotency keys past their day.
    pub keys: u64,
    /// Ended runs past their retention, but the last of each POD; their usage went into
    /// the totals.
    pub runs: u64,
    /// Payments whose authorizations no token takes any more, and that are over.
    pub payments: u64,
    /// What authorizations paid for that no token takes any more.
    pub purposes: u64,
    /// Whether there is more to forget.
    pub more: bool,
}

pub(crate) struct Prune {
    pub(crate) now: UnixMillis,
    pub(crate) retention_ms: u64,
}

impl Command for Prune {
    type Answer = Pruned;
    const NAME: &'static str = "forget what is old";

    fn apply(&self, tx: &Tx<'_>) -> Result<Pruned, StoreError> {
        let sql = |error| StoreError::sql(Self::NAME, error);
        let before = |age: u64| integer(self.now.0.saturating_sub(age));
        let stamps = bite(
            tx.conn,
            "DELETE FROM spent WHERE (expires_at, key) IN \
             (SELECT expires_at, key FROM spent WHERE expires_at < ?1 ORDER BY expires_at LIMIT ?2)",
            before(STAMP_SLACK_MS),
        );
        let keys = bite(
            tx.conn,
            "DELETE FROM idempotency WHERE (wallet, key) IN \
             (SELECT wallet, key FROM idempotency WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
            before(0),
        );
        let payments = bite(
            tx.conn,
            "DELETE FROM payments WHERE (chain_id, asset, payer, nonce) IN \
             (SELECT chain_id, asset, payer, nonce FROM payments \
              WHERE valid_before BETWEEN 0 AND ?1 AND stage IN ('answered', 'failed') ORDER BY valid_before LIMIT ?2)",
            before(self.retention_ms) / 1000,
        );
        let purposes = bite(
            tx.conn,
            "DELETE FROM spent_payments WHERE (chain_id, asset, payer, nonce) IN \
             (SELECT chain_id, asset, payer, nonce FROM spent_payments \
              WHERE valid_before <= ?1 ORDER BY valid_before LIMIT ?2)",
            before(self.retention_ms) / 1000,
        );
        let (stamps, keys, payments) = (stamps.map_err(sql)?, keys.map_err(sql)?, payments.map_err(sql)?);
        let purposes = purposes.map_err(sql)?;
        let runs = forget_runs(tx.conn, before(self.retention_ms))?;
        let more = [stamps, keys, payments, purposes, runs].iter().any(|count| *count >= u64::from(BITE));
        Ok(Pruned { stamps, keys, runs, payments, purposes, more })
    }
}

fn bite(conn: &Connection, sql: &'static str, before: i64) -> rusqlite::Result<u64> {
    let gone = conn.prepare_cached(sql)?.execute((before, BITE))?;
    Ok(u64::try_from(gone).unwrap_or(u64::MAX))
}

fn forget_runs(conn: &Connection, before: i64) -> Result<u64, StoreError> {
    let old = many(
        conn,
        Prune::NAME,
        select_runs!(
            "WHERE ended_at IS NOT NULL AND ended_at < ?1 AND runs.id <> pods.last_run ORDER BY ended_at LIMIT ?2"
        ),
        (before, BITE),
    )?;
    let mut forgotten = 0;
    for run in old {
        let used = run.usage(UnixMillis(0));
        let wallet: Wallet = run.wallet;
        keep_total(conn, &wallet, used, run.was_ready)
            .and_then(|()| forget(conn, run.id))
            .map_err(|error| StoreError::sql(Prune::NAME, error))?;
        forgotten += 1;
    }
    Ok(forgotten)
}

fn forget(conn: &Connection, id: RunId) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM runs WHERE id = ?1")?.execute((id_column(id),)).map(drop)
}
