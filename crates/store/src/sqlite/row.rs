//! One row of `runs` with its POD's, and the record they make.

use domain::{PodId, RunId, Wallet};
use rusqlite::{Connection, OptionalExtension, Params, Row};

use crate::codec::id_column;
use crate::columns::RunRow;
use crate::error::StoreError;
use crate::record::{PodRowId, RunRecord};

/// `SELECT` of whole runs, with what follows the tables.
macro_rules! select_runs {
    ($tail:literal) => {
        concat!(
            "SELECT runs.id, runs.wallet, generation, state, reason, agent_type, image, tier, tier_min, cores, ",
            "memory_mib, public, spawned_at, ended_at, epoch, changes, node, runtime, restarts, was_ready, ",
            "closed_ms, ready_since, mark_seq, below_readings, below_since, disk_mib, pods.key, pods.name, ",
            "pods.created_at, pods.ephemeral, pods.brought, pods.data_node, pods.data_until, pods.data_bytes, ",
            "slot, tier_agents, expires_at, expires_counted_ms ",
            "FROM runs JOIN pods ON pods.key = runs.pod ",
            $tail
        )
    };
}
pub(crate) use select_runs;

/// The run of this id.
pub(crate) fn find(conn: &Connection, operation: &'static str, id: RunId) -> Result<Option<RunRecord>, StoreError> {
    one(conn, operation, select_runs!("WHERE runs.id = ?1"), (id_column(id),))
}

pub(super) const LIVE_OF: &str = select_runs!("WHERE runs.wallet = ?1 AND ended_at IS NULL ORDER BY runs.id DESC");

/// The live runs of this wallet, newest first.
pub(crate) fn live_of(
    conn: &Connection,
    operation: &'static str,
    wallet: &Wallet,
) -> Result<Vec<RunRecord>, StoreError> {
    many(conn, operation, LIVE_OF, (wallet.0,))
}

/// At most one run.
pub(crate) fn one(
    conn: &Connection,
    operation: &'static str,
    sql: &'static str,
    params: impl Params,
) -> Result<Option<RunRecord>, StoreError> {
    let fail = |error| StoreError::sql(operation, error);
    let row = conn.prepare_cached(sql).map_err(fail)?.query_row(params, |row| Ok(decode(row))).optional();
    row.map_err(fail)?.transpose()
}

/// All runs that the statement names, in its order.
pub(crate) fn many(
    conn: &Connection,
    operation: &'static str,
    sql: &'static str,
    params: impl Params,
) -> Result<Vec<RunRecord>, StoreError> {
    let fail = |error| StoreError::sql(operation, error);
    let mut statement = conn.prepare_cached(sql).map_err(fail)?;
    let rows = statement.query_map(params, |row| Ok(decode(row))).map_err(fail)?;
    rows.map(|row| row.map_err(fail)?).collect()
}

fn decode(row: &Row<'_>) -> Result<RunRecord, StoreError> {
    let columns = read(row).map_err(|error| StoreError::sql("read a run", error))?;
    columns.record()
}

fn read(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    Ok(RunRow {
        id: row.get(0)?,
        wallet: row.get(1)?,
        generation: row.get(2)?,
        state: (row.get(3)?, row.get(4)?),
        agent_type: row.get(5)?,
        image: row.get(6)?,
        tier: (row.get(7)?, row.get(8)?, row.get(9)?, row.get(10)?),
        public: row.get(11)?,
        spawned_at: row.get(12)?,
        ended_at: row.get(13)?,
        epoch: row.get(14)?,
        changes: row.get(15)?,
        placed: (row.get(16)?, row.get(17)?, row.get(18)?, row.get(19)?),
        meter: (row.get(20)?, row.get(21)?, row.get(22)?),
        below: (row.get(23)?, row.get(24)?),
        disk_mib: row.get(25)?,
        pod: (row.get(26)?, row.get(27)?, row.get(28)?, row.get(29)?, row.get(30)?),
        data: (row.get(31)?, row.get(32)?, row.get(33)?),
        slot: (row.get(34)?, row.get(35)?),
        expiry: (row.get(36)?, row.get(37)?),
    })
}

/// The key of a POD that was not removed.
pub(crate) fn key_of(conn: &Connection, id: &PodId) -> rusqlite::Result<Option<PodRowId>> {
    let key = |row: &Row<'_>| Ok(PodRowId(row.get::<_, i64>(0)?.cast_unsigned()));
    match id.first_run() {
        Some(run) => conn
            .prepare_cached("SELECT key FROM pods WHERE key = ?1 AND name IS NULL AND removed_at IS NULL")?
            .query_row((id_column(run),), key),
        None => conn
            .prepare_cached("SELECT key FROM pods WHERE name = ?1 AND removed_at IS NULL")?
            .query_row((id.as_str(),), key),
    }
    .optional()
}
