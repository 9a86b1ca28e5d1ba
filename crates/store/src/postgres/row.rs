//! One row of `runs` with its POD's.

use domain::{PodId, RunId, Wallet};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row, query};

use crate::codec::id_column;
use crate::columns::RunRow;
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
pub(crate) const OF_ID: &str = select_runs!("WHERE runs.id = $1");
/// The live runs of a wallet, newest first.
pub(crate) const LIVE_OF: &str = select_runs!("WHERE runs.wallet = $1 AND ended_at IS NULL ORDER BY runs.id DESC");

/// The run of this id, which nobody else changes until the transaction ends. It is read by
/// a statement of its own: what that one sees, its POD's row too, is newer than the lock.
pub(crate) async fn lock(conn: &mut PgConnection, id: RunId) -> sqlx::Result<Option<RunRecord>> {
    query("SELECT 1 FROM runs WHERE id = $1 FOR UPDATE").bind(id_column(id)).execute(&mut *conn).await?;
    find(conn, id).await
}

/// The run of this id.
pub(crate) async fn find(conn: &mut PgConnection, id: RunId) -> sqlx::Result<Option<RunRecord>> {
    let found = query(OF_ID).bind(id_column(id)).fetch_optional(conn).await?;
    found.map(|row| decode(&row)).transpose()
}

/// The live runs of this wallet, newest first.
pub(crate) async fn live_of(conn: &mut PgConnection, wallet: &Wallet) -> sqlx::Result<Vec<RunRecord>> {
    query(LIVE_OF).bind(wallet.0).fetch_all(conn).await?.iter().map(decode).collect()
}

pub(crate) fn decode(row: &PgRow) -> sqlx::Result<RunRecord> {
    read(row)?.record().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

fn read(row: &PgRow) -> sqlx::Result<RunRow> {
    Ok(RunRow {
        id: row.try_get(0)?,
        wallet: row.try_get(1)?,
        generation: row.try_get(2)?,
        state: (row.try_get(3)?, row.try_get(4)?),
        agent_type: row.try_get(5)?,
        image: row.try_get(6)?,
        tier: (row.try_get(7)?, row.try_get(8)?, small(row, 9)?, small(row, 10)?),
        public: row.try_get(11)?,
        spawned_at: row.try_get(12)?,
        ended_at: row.try_get(13)?,
        epoch: row.try_get(14)?,
        changes: row.try_get(15)?,
        placed: (row.try_get(16)?, row.try_get(17)?, small(row, 18)?, row.try_get(19)?),
        meter: (row.try_get(20)?, row.try_get(21)?, row.try_get(22)?),
        below: (small(row, 23)?, row.try_get(24)?),
        disk_mib: small(row, 25)?,
        pod: (row.try_get(26)?, row.try_get(27)?, row.try_get(28)?, row.try_get(29)?, row.try_get(30)?),
        data: (row.try_get(31)?, row.try_get(32)?, row.try_get(33)?),
        slot: (small(row, 34)?, small(row, 35)?),
        expiry: (row.try_get(36)?, row.try_get(37)?),
    })
}

/// A number of 32 bits.
pub(crate) fn small(row: &PgRow, column: usize) -> sqlx::Result<u32> {
    let wide: i64 = row.try_get(column)?;
    u32::try_from(wide).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// The key of a POD that was not removed, and is not until the transaction ends.
pub(crate) async fn hold(conn: &mut PgConnection, id: &PodId) -> sqlx::Result<Option<PodRowId>> {
    let sql = "SELECT key FROM pods WHERE removed_at IS NULL AND (name = $2 OR key = $1 AND name IS NULL) FOR SHARE";
    let (key, name) = names(id);
    let found = query(sql).bind(key).bind(name).fetch_optional(conn).await?;
    found.map(|row| Ok(PodRowId(row.try_get::<i64, _>(0)?.cast_unsigned()))).transpose()
}

/// The two arguments that name a POD: the number of a minted id, or a chosen name.
pub(crate) fn names(id: &PodId) -> (Option<i64>, Option<String>) {
    match id.first_run() {
        Some(run) => (Some(id_column(run)), None),
        None => (None, Some(id.as_str().to_owned())),
    }
}
