//! From the nodes' journals to what a wallet used.

use domain::{DiskMark, Meter, RunId, RuntimeKinds, Tier, UnixMillis, Usage, Wallet};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::disks;
use super::handle::Sqlite;
use super::totals::totals;
use super::writer::{Command, Tx};
use crate::billing::{
    DiskSums, HEARD_EVERY_MS, HeardTimes, MarkCursor, MarksOutcome, NodeMark, RunMark, UsageStore, clamped, in_order,
};
use crate::codec::{ended, id_column, integer, meter, millis, natural};
use crate::error::StoreError;

impl UsageStore for Sqlite {
    async fn count_marks(
        &self,
        node: &str,
        journal: &str,
        marks: Vec<RunMark>,
        disks: Vec<DiskMark>,
        now: UnixMillis,
    ) -> Result<MarksOutcome, StoreError> {
        self.write(CountMarks { node: node.to_owned(), journal: journal.to_owned(), marks, disks, now }).await
    }

    async fn mark_cursor(&self, node: &str) -> Result<Option<MarkCursor>, StoreError> {
        let node = node.to_owned();
        self.read("read a node's cursor", move |conn| cursor(conn, &node)).await
    }

    async fn usage(&self, wallet: Wallet, now: UnixMillis) -> Result<(Usage, u64), StoreError> {
        self.read("read a wallet's usage", move |conn| usage(conn, &wallet, now)).await
    }
}

pub(crate) struct CountMarks {
    pub(crate) node: String,
    pub(crate) journal: String,
    pub(crate) marks: Vec<RunMark>,
    pub(crate) disks: Vec<DiskMark>,
    pub(crate) now: UnixMillis,
}

impl Command for CountMarks {
    type Answer = MarksOutcome;
    const NAME: &'static str = "count marks";

    fn is_essential(&self) -> bool {
        true
    }

    fn apply(&self, tx: &Tx<'_>) -> Result<MarksOutcome, StoreError> {
        self.count(tx).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

struct Journal {
    n: i64,
    seq: u64,
    heard_at: UnixMillis,
    /// The same, but where it was never heard of before.
    heard_before: UnixMillis,
}

impl CountMarks {
    fn count(&self, tx: &Tx<'_>) -> rusqlite::Result<MarksOutcome> {
        let conn = tx.conn;
        let journal = match self.journal(conn)? {
            Some(journal) => journal,
            None => self.begin_journal(tx)?,
        };
        let times = HeardTimes { before: journal.heard_before, now: self.now };
        let mut counted = MarksOutcome { seq: journal.seq, ..MarksOutcome::default() };
        let mut sums = DiskSums::default();
        for mark in in_order(&self.marks, &self.disks) {
            if !counted.is_next(mark.seq()) {
                continue;
            }
            let is_known = match &mark {
                NodeMark::Run(mark) => self.count_one(tx, journal.n, mark)?,
                NodeMark::Disk(mark) => disks::count(conn, &self.node, journal.n, times, mark, &mut sums)?,
            };
            counted.new += u64::from(is_known);
            counted.foreign += u64::from(!is_known);
        }
        disks::charge(conn, &sums)?;
        if counted.seq != journal.seq || self.now.since(journal.heard_at) >= HEARD_EVERY_MS {
            conn.prepare_cached("UPDATE cursors SET seq = ?2, heard_at = max(heard_at, ?3) WHERE n = ?1")?
                .execute((journal.n, integer(counted.seq), integer(self.now.0)))?;
        }
        Ok(counted)
    }

    fn journal(&self, conn: &Connection) -> rusqlite::Result<Option<Journal>> {
        conn.prepare_cached("SELECT n, seq, heard_at FROM cursors WHERE node = ?1 AND journal = ?2")?
            .query_row((&self.node, &self.journal), |row| {
                let heard_at = millis(row.get(2)?);
                Ok(Journal { n: row.get(0)?, seq: natural(row.get(1)?), heard_at, heard_before: heard_at })
            })
            .optional()
    }

    /// A journal nobody saw before: what the node's earlier ones left open ended
    /// when they were last heard of. Nobody can say more, and nobody pays for it.
    fn begin_journal(&self, tx: &Tx<'_>) -> rusqlite::Result<Journal> {
        let conn = tx.conn;
        tx.cache.forget_all();
        conn.prepare_cached(
            "UPDATE runs SET closed_ms = closed_ms + max(0, min(c.heard_at, ?2) - ready_since), ready_since = NULL \
             FROM cursors c WHERE runs.mark_cursor = c.n AND c.node = ?1 AND ready_since IS NOT NULL",
        )?
        .execute((&self.node, integer(self.now.0)))?;
        disks::close_of_node(conn, &self.node, self.now)?;
        conn.prepare_cached("INSERT INTO cursors (node, journal, seq, heard_at) VALUES (?1, ?2, 0, ?3)")?.execute((
            &self.node,
            &self.journal,
            integer(self.now.0),
        ))?;
        Ok(Journal { n: conn.last_insert_rowid(), seq: 0, heard_at: self.now, heard_before: UnixMillis(0) })
    }

    /// Whether it is about a run of this node.
    fn count_one(&self, tx: &Tx<'_>, cursor: i64, mark: &RunMark) -> rusqlite::Result<bool> {
        let Some(meter) = self.bill(tx.conn, cursor, mark.run)? else { return Ok(false) };
        tx.cache.forget(mark.run);
        write(tx.conn, mark.run, cursor, meter.count(clamped(mark.mark)))?;
        Ok(true)
    }

    /// The bill of an agent of this node; its numbering starts again with a new
    /// journal.
    fn bill(&self, conn: &Connection, cursor: i64, agent: RunId) -> rusqlite::Result<Option<Meter>> {
        conn.prepare_cached(
            "SELECT closed_ms, ready_since, iif(mark_cursor = ?3, mark_seq, 0) FROM runs \
             WHERE id = ?1 AND node = ?2",
        )?
        .query_row((id_column(agent), &self.node, cursor), |row| Ok(meter((row.get(0)?, row.get(1)?, row.get(2)?))))
        .optional()
    }
}

fn write(conn: &Connection, agent: RunId, cursor: i64, meter: Meter) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE runs SET closed_ms = ?2, ready_since = ?3, mark_seq = ?4, mark_cursor = ?5, \
         was_ready = was_ready OR ?3 IS NOT NULL WHERE id = ?1",
    )?
    .execute(params![
        id_column(agent),
        integer(meter.closed_ms),
        meter.ready_since.map(|at| integer(at.0)),
        integer(meter.last_seq),
        cursor
    ])
    .map(drop)
}

/// The journal last heard of a node, and how far it is counted.
pub(crate) fn cursor(conn: &Connection, node: &str) -> Result<Option<MarkCursor>, StoreError> {
    let read = |row: &Row<'_>| Ok(MarkCursor { journal: row.get(0)?, seq: natural(row.get(1)?) });
    conn.prepare_cached("SELECT journal, seq FROM cursors WHERE node = ?1 ORDER BY heard_at DESC, n DESC LIMIT 1")
        .and_then(|mut statement| statement.query_row((node,), read).optional())
        .map_err(|error| StoreError::sql("read a node's cursor", error))
}

/// What a wallet used up to `now`, and how many of its agents were ever ready.
pub(crate) fn usage(conn: &Connection, wallet: &Wallet, now: UnixMillis) -> Result<(Usage, u64), StoreError> {
    let sql = |error| StoreError::sql("read a wallet's usage", error);
    let (mut usage, mut spawns) = totals(conn, wallet).map_err(sql)?;
    let mut statement = conn
        .prepare_cached(
            "SELECT closed_ms, ready_since, mark_seq, ended_at, was_ready, tier_min, cores, memory_mib FROM runs \
             WHERE wallet = ?1 AND ended_at IS NULL UNION ALL \
             SELECT closed_ms, ready_since, mark_seq, ended_at, was_ready, tier_min, cores, memory_mib FROM runs \
             WHERE wallet = ?1 AND ended_at IS NOT NULL",
        )
        .map_err(sql)?;
    let rows = statement.query_map((&wallet.0,), |row| bill_row(row, now)).map_err(sql)?;
    for row in rows {
        let (used, was_ready) = row.map_err(sql)?;
        usage = usage.plus(used);
        spawns += u64::from(was_ready);
    }
    usage = usage.plus(disks::running(conn, wallet, now).map_err(sql)?);
    Ok((usage, spawns))
}

fn bill_row(row: &Row<'_>, now: UnixMillis) -> rusqlite::Result<(Usage, bool)> {
    let ended_at: Option<i64> = row.get(3)?;
    let meter = ended(meter((row.get(0)?, row.get(1)?, row.get(2)?)), ended_at.map(millis));
    let tier = Tier {
        min: natural(row.get(5)?),
        cores: row.get(6)?,
        memory: row.get(7)?,
        disk: 0,
        agents: 1,
        images: None,
        runtimes: RuntimeKinds::MACHINES,
    };
    Ok((Usage::of(&tier, meter.uptime_ms(now)), row.get(4)?))
}
