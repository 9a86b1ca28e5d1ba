//! What is forgotten, and how the server is.

use std::collections::BTreeSet;

use domain::UnixMillis;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row, query};

use super::database::{Command, Postgres, Tx};
use super::lease;
use super::row::{decode, select_runs};
use super::totals::keep_total;
use crate::apikeys::EXPIRED_KNOWN_MS;
use crate::codec::{id_column, integer};
use crate::error::StoreError;
use crate::prune::{DELETE_BATCH, MaintenanceStore, PruneReport, SPENT_SLACK_MS};
use crate::record::GatewayEpoch;

impl MaintenanceStore for Postgres {
    async fn check(&self) -> Result<(), StoreError> {
        self.execute(lease::WRITE, lease::statement(self.epoch())).await.map(drop)
    }

    async fn prune(&self, now: UnixMillis) -> Result<PruneReport, StoreError> {
        self.write(Prune { now, retention_ms: self.retention_ms() }).await
    }

    async fn live_epochs(&self) -> Result<BTreeSet<GatewayEpoch>, StoreError> {
        let there = query("SELECT epoch FROM gateways WHERE holds_until > now()");
        let decode = |row: &PgRow| row.try_get(0).map(|epoch: i64| GatewayEpoch(epoch.cast_unsigned()));
        let there = self.many("ask which gateways are there", there, decode).await?;
        Ok(there.into_iter().chain([self.epoch()]).collect())
    }
}

struct Prune {
    now: UnixMillis,
    retention_ms: u64,
}

impl Command for Prune {
    type Answer = PruneReport;
    const NAME: &'static str = "forget what is old";

    async fn apply(&self, tx: &mut Tx) -> Result<PruneReport, StoreError> {
        self.forget(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

/// The rows of a batch are those that no other gateway forgets in this instant.
impl Prune {
    async fn forget(&self, conn: &mut PgConnection) -> sqlx::Result<PruneReport> {
        let before = |age: u64| integer(self.now.0.saturating_sub(age));
        query("DELETE FROM news WHERE written < now() - interval '1 hour'").execute(&mut *conn).await?;
        let spent_signatures = "DELETE FROM spent WHERE ctid = ANY (ARRAY (SELECT ctid FROM spent \
                      WHERE expires_at < $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED))";
        let spent_signatures = delete_batch(conn, spent_signatures, before(SPENT_SLACK_MS)).await?;
        let keys = "DELETE FROM idempotency WHERE ctid = ANY (ARRAY (SELECT ctid FROM idempotency \
                    WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED))";
        let keys = delete_batch(conn, keys, before(0)).await?;
        let payments = "DELETE FROM payments WHERE ctid = ANY (ARRAY (SELECT ctid FROM payments \
                        WHERE valid_before BETWEEN 0 AND $1 AND stage IN ('answered', 'failed') \
                        ORDER BY valid_before LIMIT $2 FOR UPDATE SKIP LOCKED))";
        let payments = delete_batch(conn, payments, before(self.retention_ms) / 1000).await?;
        let purposes = "DELETE FROM spent_payments WHERE ctid = ANY (ARRAY (SELECT ctid FROM spent_payments \
                        WHERE valid_before <= $1 ORDER BY valid_before LIMIT $2 FOR UPDATE SKIP LOCKED))";
        let purposes = delete_batch(conn, purposes, before(self.retention_ms) / 1000).await?;
        let api_keys = "DELETE FROM api_keys WHERE ctid = ANY (ARRAY (SELECT ctid FROM api_keys \
                        WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED))";
        let api_keys = delete_batch(conn, api_keys, before(EXPIRED_KNOWN_MS)).await?;
        let runs = forget_runs(conn, before(self.retention_ms)).await?;
        let more = [spent_signatures, keys, payments, purposes, api_keys, runs]
            .iter()
            .any(|count| *count >= u64::from(DELETE_BATCH));
        Ok(PruneReport { spent_signatures, keys, runs, payments, purposes, api_keys, more })
    }
}

async fn delete_batch(conn: &mut PgConnection, sql: &'static str, before: i64) -> sqlx::Result<u64> {
    let gone = query(sql).bind(before).bind(i64::from(DELETE_BATCH)).execute(conn).await?;
    Ok(gone.rows_affected())
}

async fn forget_runs(conn: &mut PgConnection, before: i64) -> sqlx::Result<u64> {
    let old = query(select_runs!(
        "WHERE ended_at IS NOT NULL AND ended_at < $1 AND runs.id <> pods.last_run ORDER BY ended_at LIMIT $2 \
         FOR UPDATE OF runs SKIP LOCKED"
    ));
    let old = old.bind(before).bind(i64::from(DELETE_BATCH)).fetch_all(&mut *conn).await?;
    let mut forgotten = 0;
    for row in &old {
        let run = decode(row)?;
        keep_total(conn, &run.wallet, run.usage(UnixMillis(0)), run.was_ready).await?;
        query("DELETE FROM runs WHERE id = $1").bind(id_column(run.id)).execute(&mut *conn).await?;
        forgotten += 1;
    }
    Ok(forgotten)
}
