//! What is forgotten, and how the disk is.

use std::collections::BTreeSet;

use domain::{RunId, UnixMillis, Wallet};
use rusqlite::Connection;

use super::handle::Sqlite;
use super::row::{find, many, select_runs};
use super::totals::keep_total;
use super::writer::{Command, Tx};
use crate::apikeys::EXPIRED_KNOWN_MS;
use crate::codec::{id_column, integer};
use crate::error::StoreError;
use crate::prune::{DELETE_BATCH, MaintenanceStore, PruneReport, SPENT_SLACK_MS};
use crate::record::GatewayEpoch;

impl MaintenanceStore for Sqlite {
    async fn check(&self) -> Result<(), StoreError> {
        const NAME: &str = "read a run";
        self.read(NAME, |conn| find(conn, NAME, RunId::from_bits(0))).await?;
        if self.last_error().is_some() { self.write(Probe).await } else { Ok(()) }
    }

    async fn prune(&self, now: UnixMillis) -> Result<PruneReport, StoreError> {
        self.write(Prune { now, retention_ms: self.retention_ms() }).await
    }

    async fn live_epochs(&self) -> Result<BTreeSet<GatewayEpoch>, StoreError> {
        // The lock on its files keeps every other one out.
        Ok(BTreeSet::from([self.epoch()]))
    }
}

/// Writes something, and leaves nothing behind: whether the disk takes it.
pub(crate) struct Probe;

impl Command for Probe {
    type Answer = ();
    const NAME: &'static str = "try the disk";

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let sql = |error| StoreError::sql(Self::NAME, error);
        // Past its expiry: it is nobody's message, and would be forgotten if it stayed.
        tx.conn
            .prepare_cached("INSERT OR REPLACE INTO spent (key, expires_at) VALUES (zeroblob(32), 0)")
            .map_err(sql)?
            .execute(())
            .map_err(sql)?;
        let mut gone = tx.conn.prepare_cached("DELETE FROM spent WHERE key = zeroblob(32)").map_err(sql)?;
        gone.execute(()).map(drop).map_err(sql)
    }
}

pub(crate) struct Prune {
    pub(crate) now: UnixMillis,
    pub(crate) retention_ms: u64,
}

impl Command for Prune {
    type Answer = PruneReport;
    const NAME: &'static str = "forget what is old";

    fn apply(&self, tx: &Tx<'_>) -> Result<PruneReport, StoreError> {
        let sql = |error| StoreError::sql(Self::NAME, error);
        let before = |age: u64| integer(self.now.0.saturating_sub(age));
        let spent_signatures = delete_batch(
            tx.conn,
            "DELETE FROM spent WHERE (expires_at, key) IN \
             (SELECT expires_at, key FROM spent WHERE expires_at < ?1 ORDER BY expires_at LIMIT ?2)",
            before(SPENT_SLACK_MS),
        );
        let keys = delete_batch(
            tx.conn,
            "DELETE FROM idempotency WHERE (wallet, key) IN \
             (SELECT wallet, key FROM idempotency WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
            before(0),
        );
        let payments = delete_batch(
            tx.conn,
            "DELETE FROM payments WHERE (chain_id, asset, payer, nonce) IN \
             (SELECT chain_id, asset, payer, nonce FROM payments \
              WHERE valid_before BETWEEN 0 AND ?1 AND stage IN ('answered', 'failed') ORDER BY valid_before LIMIT ?2)",
            before(self.retention_ms) / 1000,
        );
        let purposes = delete_batch(
            tx.conn,
            "DELETE FROM spent_payments WHERE (chain_id, asset, payer, nonce) IN \
             (SELECT chain_id, asset, payer, nonce FROM spent_payments \
              WHERE valid_before <= ?1 ORDER BY valid_before LIMIT ?2)",
            before(self.retention_ms) / 1000,
        );
        let (spent_signatures, keys, payments) =
            (spent_signatures.map_err(sql)?, keys.map_err(sql)?, payments.map_err(sql)?);
        let purposes = purposes.map_err(sql)?;
        let api_keys = delete_batch(
            tx.conn,
            "DELETE FROM api_keys WHERE id IN \
             (SELECT id FROM api_keys WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
            before(EXPIRED_KNOWN_MS),
        );
        let api_keys = api_keys.map_err(sql)?;
        let runs = forget_runs(tx.conn, before(self.retention_ms))?;
        let more = [spent_signatures, keys, payments, purposes, api_keys, runs]
            .iter()
            .any(|count| *count >= u64::from(DELETE_BATCH));
        Ok(PruneReport { spent_signatures, keys, runs, payments, purposes, api_keys, more })
    }
}

fn delete_batch(conn: &Connection, sql: &'static str, before: i64) -> rusqlite::Result<u64> {
    let gone = conn.prepare_cached(sql)?.execute((before, DELETE_BATCH))?;
    Ok(u64::try_from(gone).unwrap_or(u64::MAX))
}

fn forget_runs(conn: &Connection, before: i64) -> Result<u64, StoreError> {
    let old = many(
        conn,
        Prune::NAME,
        select_runs!(
            "WHERE ended_at IS NOT NULL AND ended_at < ?1 AND runs.id <> pods.last_run ORDER BY ended_at LIMIT ?2"
        ),
        (before, DELETE_BATCH),
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
