//! What lasts of a POD.

use domain::{PodId, UnixMillis, Wallet};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::disks;
use super::row::{many, one, select_runs};
use super::totals::keep_total;
use super::writer::{Command, Tx};
use crate::billing::DiskKey;
use crate::codec::{id_column, integer, millis, natural};
use crate::error::StoreError;
use crate::pod::{MAX_STOPPED_PODS, PodIdStatus, QuotaCheck, id_from};
use crate::record::{KeptData, PodRowId, RunRecord};

/// Whether a holder may have this chosen id.
pub(crate) fn look_up(conn: &Connection, name: &PodId, wallet: &Wallet) -> rusqlite::Result<PodIdStatus> {
    let row: Option<(i64, [u8; 32], bool)> = conn
        .prepare_cached("SELECT key, wallet, removed_at IS NOT NULL FROM pods WHERE name = ?1")?
        .query_row((name.as_str(),), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    Ok(match row {
        None => PodIdStatus::Free,
        Some((key, holder, true)) if holder == wallet.0 => PodIdStatus::Removed(PodRowId(key.cast_unsigned())),
        Some(_) => PodIdStatus::Taken,
    })
}

/// The last run of a POD.
pub(crate) fn last_run(
    conn: &Connection,
    operation: &'static str,
    id: &PodId,
) -> Result<Option<RunRecord>, StoreError> {
    match id.first_run() {
        Some(run) => one(
            conn,
            operation,
            select_runs!(
                "WHERE pods.key = ?1 AND pods.name IS NULL AND pods.removed_at IS NULL AND runs.id = pods.last_run"
            ),
            (id_column(run),),
        ),
        None => one(
            conn,
            operation,
            select_runs!("WHERE pods.name = ?1 AND pods.removed_at IS NULL AND runs.id = pods.last_run"),
            (id.as_str(),),
        ),
    }
}

/// The last runs of a wallet's PODs that do not run, newest POD first.
pub(crate) fn stopped(
    conn: &Connection,
    operation: &'static str,
    wallet: &Wallet,
    limit: u32,
) -> Result<Vec<RunRecord>, StoreError> {
    many(
        conn,
        operation,
        select_runs!(
            "WHERE runs.id IN (SELECT last_run FROM pods WHERE wallet = ?1 AND stopped_at IS NOT NULL \
             AND removed_at IS NULL ORDER BY key DESC LIMIT ?2) ORDER BY pods.key DESC"
        ),
        (&wallet.0, limit),
    )
}

/// Whether a wallet with this disk quota may have one more POD.
pub(crate) fn quota(
    conn: &Connection,
    wallet: &Wallet,
    disk_mib: u32,
    now: UnixMillis,
) -> Result<QuotaCheck, StoreError> {
    const NAME: &str = "read what is kept for a wallet";
    let sql = |error| StoreError::sql(NAME, error);
    let mut statement = conn
        .prepare_cached(
            "SELECT key, name, data_node IS NOT NULL, data_until, coalesce(data_bytes, 0) FROM pods \
             WHERE wallet = ?1 AND stopped_at IS NOT NULL AND removed_at IS NULL LIMIT ?2",
        )
        .map_err(sql)?;
    let rows = statement.query_map(params![&wallet.0, MAX_STOPPED_PODS], stopped_row).map_err(sql)?;
    let mut all = Vec::new();
    for row in rows {
        let (key, name, data) = row.map_err(sql)?;
        all.push((id_from(key, name)?, data));
    }
    Ok(QuotaCheck::of(all, disk_mib, now))
}

/// A POD that does not run, and what is kept of it.
fn stopped_row(row: &Row<'_>) -> rusqlite::Result<(PodRowId, Option<String>, Option<KeptData>)> {
    let (has, until, bytes): (bool, Option<i64>, i64) = (row.get(2)?, row.get(3)?, row.get(4)?);
    let data = KeptData { until: until.map(millis), bytes: natural(bytes) };
    Ok((PodRowId(row.get::<_, i64>(0)?.cast_unsigned()), row.get(1)?, has.then_some(data)))
}

/// Writes that a POD's run has ended, and what its node keeps.
pub(crate) fn rest(conn: &Connection, record: &RunRecord, at: UnixMillis) -> rusqlite::Result<()> {
    let data = record.data.as_ref();
    conn.prepare_cached(
        "UPDATE pods SET stopped_at = ?2, data_node = ?3, data_until = ?4, data_bytes = ?5 WHERE key = ?1",
    )?
    .execute(params![
        record.pod_key.0.cast_signed(),
        integer(at.0),
        record.data_node,
        data.and_then(|data| data.until).map(|until| integer(until.0)),
        data.map(|data| integer(data.bytes)),
    ])
    .map(drop)
}

/// Forgets all of a POD, its key with it, but what its wallet used, and that its id was its
/// holder's.
pub(crate) fn remove(tx: &Tx<'_>, record: &RunRecord, now: UnixMillis) -> Result<(), StoreError> {
    const NAME: &str = "forget a POD";
    let sql = |error| StoreError::sql(NAME, error);
    let key = record.pod_key.0.cast_signed();
    disks::close(tx.conn, DiskKey::data(record.pod_key), now).map_err(sql)?;
    for run in many(tx.conn, NAME, select_runs!("WHERE runs.pod = ?1"), (key,))? {
        tx.cache.forget(run.id);
        keep_total(tx.conn, &run.wallet, run.usage(now), run.was_ready).map_err(sql)?;
        tx.conn
            .prepare_cached("DELETE FROM idempotency WHERE wallet = ?1 AND run = ?2")
            .and_then(|mut delete| delete.execute((&run.wallet.0, id_column(run.id))))
            .map_err(sql)?;
    }
    for delete in [
        "DELETE FROM runs WHERE pod = ?1",
        "DELETE FROM changes WHERE pod = ?1",
        "DELETE FROM prices WHERE pod = ?1",
        "DELETE FROM deploys WHERE pod = ?1",
        "DELETE FROM identities WHERE pod = ?1",
    ] {
        tx.conn.prepare_cached(delete).and_then(|mut delete| delete.execute((key,))).map_err(sql)?;
    }
    // Removals after keys began to be sealed are told from those before by it, and two from each
    // other, whatever clocks say.
    tx.conn
        .prepare_cached(
            "UPDATE pods SET removed_at = ?2, erased_at = max(?2, min(coalesce(erased_at, -1), 9223372036854775806) + 1, \
             coalesce((SELECT made_at FROM secrets WHERE name = 'check'), 0)), last_run = 0, stopped_at = NULL, data_node = NULL, data_until = NULL, \
             data_bytes = NULL WHERE key = ?1",
        )
        .and_then(|mut update| update.execute((key, integer(now.0))))
        .map(drop)
        .map_err(sql)
}

/// Forgets a POD that does not run and of which no node keeps anything any more.
pub(crate) struct RemovePod {
    pub(crate) pod: PodId,
    pub(crate) now: UnixMillis,
}

impl Command for RemovePod {
    type Answer = bool;
    const NAME: &'static str = "remove a POD";

    fn is_essential(&self) -> bool {
        true
    }

    fn apply(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        let Some(record) = last_run(tx.conn, Self::NAME, &self.pod)? else { return Ok(true) };
        if record.state.is_live() {
            return Ok(false);
        }
        remove(tx, &record, self.now)?;
        Ok(true)
    }
}
