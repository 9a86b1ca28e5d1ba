//! One row of `runs` with its POD's, and the record they make.

use domain::{Generation, ImageDigest, Meter, RunId, Tier, TierName, UnixMillis, Wallet};
use rusqlite::{Connection, OptionalExtension, Params, Row};

use crate::codec::{id_column, id_from, id_of, millis, natural, state_of};
use crate::error::StoreError;
use crate::record::{Below, Epoch, KeptData, PodKey, Record};

/// `SELECT` of whole runs, with what follows the tables.
macro_rules! select_runs {
    ($tail:literal) => {
        concat!(
            "SELECT runs.id, runs.wallet, generation, state, reason, agent_type, image, tier, tier_min, cores, ",
            "memory_mib, public, spawned_at, ended_at, epoch, changes, node, runtime, restarts, was_ready, ",
            "closed_ms, ready_since, mark_seq, below_readings, below_since, disk_mib, pods.key, pods.name, ",
            "pods.created_at, pods.ephemeral, pods.brought, pods.data_node, pods.data_until, pods.data_bytes ",
            "FROM runs JOIN pods ON pods.key = runs.pod ",
            $tail
        )
    };
}
pub(crate) use select_runs;

/// The run of this id.
pub(crate) fn find(conn: &Connection, operation: &'static str, id: RunId) -> Result<Option<Record>, StoreError> {
    one(conn, operation, select_runs!("WHERE runs.id = ?1"), (id_column(id),))
}

/// The live run of this wallet.
pub(crate) fn find_live(
    conn: &Connection,
    operation: &'static str,
    wallet: &Wallet,
) -> Result<Option<Record>, StoreError> {
    one(conn, operation, select_runs!("WHERE runs.wallet = ?1 AND ended_at IS NULL"), (wallet.0,))
}

/// At most one run.
pub(crate) fn one(
    conn: &Connection,
    operation: &'static str,
    sql: &'static str,
    params: impl Params,
) -> Result<Option<Record>, StoreError> {
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
) -> Result<Vec<Record>, StoreError> {
    let fail = |error| StoreError::sql(operation, error);
    let mut statement = conn.prepare_cached(sql).map_err(fail)?;
    let rows = statement.query_map(params, |row| Ok(decode(row))).map_err(fail)?;
    rows.map(|row| row.map_err(fail)?).collect()
}

fn decode(row: &Row<'_>) -> Result<Record, StoreError> {
    let wide = Columns::read(row).map_err(|error| StoreError::sql("read a run", error))?;
    wide.record()
}

/// The row as SQLite types it.
struct Columns {
    id: i64,
    wallet: [u8; 32],
    generation: i64,
    state: (String, Option<String>),
    agent_type: String,
    image: [u8; 32],
    tier: (String, i64, u32, u32),
    public: bool,
    spawned_at: i64,
    ended_at: Option<i64>,
    epoch: i64,
    changes: i64,
    placed: (Option<String>, Option<String>, u32, bool),
    meter: (i64, Option<i64>, i64),
    below: (u32, Option<i64>),
    disk_mib: u32,
    pod: (i64, Option<String>, i64, bool, bool),
    data: (Option<String>, Option<i64>, Option<i64>),
}

impl Columns {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
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
        })
    }

    fn record(self) -> Result<Record, StoreError> {
        let (tier, min, cores, memory) = self.tier;
        let (node, runtime, restarts, was_ready) = self.placed;
        let ended_at = self.ended_at.map(millis);
        let (key, name, created_at, ephemeral, brought) = self.pod;
        let (data_node, until, bytes) = self.data;
        let pod_key = PodKey(key.cast_unsigned());
        let kept = KeptData { until: until.map(millis), bytes: natural(bytes.unwrap_or_default()) };
        Ok(Record {
            id: id_of(self.id),
            pod: id_from(pod_key, name)?,
            pod_key,
            created_at: millis(created_at),
            ephemeral,
            brought,
            wallet: Wallet(self.wallet),
            generation: Generation(natural(self.generation)),
            state: state_of(&self.state.0, self.state.1.as_deref())?,
            agent_type: self.agent_type,
            image: ImageDigest(self.image),
            tier: TierName::try_from(tier).map_err(|_| StoreError::Value("a tier's name"))?,
            tier_config: Tier { min: natural(min), cores, memory, disk: self.disk_mib },
            public: self.public,
            spawned_at: millis(self.spawned_at),
            ended_at,
            node,
            runtime,
            restarts,
            epoch: Epoch(self.epoch.cast_unsigned()),
            meter: ended(meter(self.meter), ended_at),
            was_ready,
            below: Below { readings: self.below.0, since: self.below.1.map(millis) },
            changes: natural(self.changes),
            data: data_node.is_some().then_some(kept),
            data_node,
        })
    }
}

pub(crate) fn meter((closed_ms, ready_since, seq): (i64, Option<i64>, i64)) -> Meter {
    Meter { closed_ms: natural(closed_ms), ready_since: ready_since.map(millis), last_seq: natural(seq) }
}

/// The bill of an ended agent: a stretch that no mark has closed yet ends with
/// it. The columns stay open, so that a mark that comes late is still exact.
pub(crate) fn ended(meter: Meter, ended_at: Option<UnixMillis>) -> Meter {
    match ended_at {
        None => meter,
        Some(end) => Meter { closed_ms: meter.uptime_ms(end), ready_since: None, last_seq: meter.last_seq },
    }
}
