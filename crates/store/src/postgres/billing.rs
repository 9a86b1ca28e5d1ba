//! From the nodes' journals to what a wallet used. Of two gateways that hear of the same
//! marks, one waits for the other at the journal's row, and finds them counted.

use domain::{DiskMark, Meter, RunId, RuntimeKinds, Tier, UnixMillis, Usage, Wallet};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row, query};

use super::database::{Command, Postgres, Tx};
use super::disks;
use super::row::small;
use super::totals::totals;
use crate::billing::{
    DiskSums, HEARD_EVERY_MS, HeardTimes, MarkCursor, MarksOutcome, NodeMark, RunMark, UsageStore, clamped, in_order,
};
use crate::codec::{ended, id_column, integer, meter, millis, natural};
use crate::error::StoreError;

impl UsageStore for Postgres {
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
        let sql = "SELECT journal, seq FROM cursors WHERE node = $1 ORDER BY heard_at DESC, n DESC LIMIT 1";
        let decode = |row: &PgRow| Ok(MarkCursor { journal: row.try_get(0)?, seq: natural(row.try_get(1)?) });
        self.one("read a node's cursor", query(sql).bind(node), decode).await
    }

    async fn usage(&self, wallet: Wallet, now: UnixMillis) -> Result<(Usage, u64), StoreError> {
        self.write(ReadUsage { wallet, now }).await
    }
}

struct CountMarks {
    node: String,
    journal: String,
    marks: Vec<RunMark>,
    disks: Vec<DiskMark>,
    now: UnixMillis,
}

impl Command for CountMarks {
    type Answer = MarksOutcome;
    const NAME: &'static str = "count marks";

    async fn apply(&self, tx: &mut Tx) -> Result<MarksOutcome, StoreError> {
        self.count(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
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
    async fn count(&self, conn: &mut PgConnection) -> sqlx::Result<MarksOutcome> {
        let journal = match self.begin_journal(conn).await? {
            Some(journal) => journal,
            None => self.journal(conn).await?,
        };
        let times = HeardTimes { before: journal.heard_before, now: self.now };
        let mut counted = MarksOutcome { seq: journal.seq, ..MarksOutcome::default() };
        let mut sums = DiskSums::default();
        for mark in in_order(&self.marks, &self.disks) {
            if !counted.is_next(mark.seq()) {
                continue;
            }
            let is_known = match &mark {
                NodeMark::Run(mark) => self.count_one(conn, journal.n, mark).await?,
                NodeMark::Disk(mark) => disks::count(conn, &self.node, journal.n, times, mark, &mut sums).await?,
            };
            counted.new += u64::from(is_known);
            counted.foreign += u64::from(!is_known);
        }
        disks::charge(conn, &sums).await?;
        if counted.seq != journal.seq || self.now.since(journal.heard_at) >= HEARD_EVERY_MS {
            let moved = query("UPDATE cursors SET seq = $2, heard_at = greatest(heard_at, $3) WHERE n = $1");
            let moved = moved.bind(journal.n).bind(integer(counted.seq)).bind(integer(self.now.0));
            moved.execute(conn).await?;
        }
        Ok(counted)
    }

    /// The journal's row, which nobody else moves until the transaction ends.
    async fn journal(&self, conn: &mut PgConnection) -> sqlx::Result<Journal> {
        let sql = "SELECT n, seq, heard_at FROM cursors WHERE node = $1 AND journal = $2 FOR UPDATE";
        let row = query(sql).bind(&self.node).bind(&self.journal).fetch_one(conn).await?;
        let heard_at = millis(row.try_get(2)?);
        Ok(Journal { n: row.try_get(0)?, seq: natural(row.try_get(1)?), heard_at, heard_before: heard_at })
    }

    /// A journal nobody saw before: what the node's earlier ones left open ended when they
    /// were last heard of. Nobody can say more, and nobody pays for it.
    async fn begin_journal(&self, conn: &mut PgConnection) -> sqlx::Result<Option<Journal>> {
        let known = query("SELECT 1 FROM cursors WHERE node = $1 AND journal = $2");
        if known.bind(&self.node).bind(&self.journal).fetch_optional(&mut *conn).await?.is_some() {
            return Ok(None);
        }
        let sql = "INSERT INTO cursors (node, journal, seq, heard_at) VALUES ($1, $2, 0, $3) \
                   ON CONFLICT DO NOTHING RETURNING n";
        let begun = query(sql).bind(&self.node).bind(&self.journal).bind(integer(self.now.0));
        let Some(begun) = begun.fetch_optional(&mut *conn).await? else { return Ok(None) };
        let close = "UPDATE runs SET closed_ms = closed_ms + greatest(0, least(c.heard_at, $2) - ready_since), \
                     ready_since = NULL \
                     FROM cursors c WHERE runs.mark_cursor = c.n AND c.node = $1 AND ready_since IS NOT NULL";
        query(close).bind(&self.node).bind(integer(self.now.0)).execute(&mut *conn).await?;
        disks::close_of_node(conn, &self.node, self.now).await?;
        Ok(Some(Journal { n: begun.try_get(0)?, seq: 0, heard_at: self.now, heard_before: UnixMillis(0) }))
    }

    /// Whether it is about a run of this node.
    async fn count_one(&self, conn: &mut PgConnection, cursor: i64, mark: &RunMark) -> sqlx::Result<bool> {
        let Some(meter) = self.bill(conn, cursor, mark.run).await? else { return Ok(false) };
        write(conn, mark.run, cursor, meter.count(clamped(mark.mark))).await?;
        Ok(true)
    }

    /// The bill of a run of this node; its numbering starts again with a new journal.
    async fn bill(&self, conn: &mut PgConnection, cursor: i64, run: RunId) -> sqlx::Result<Option<Meter>> {
        let sql = "SELECT closed_ms, ready_since, CASE WHEN mark_cursor = $3 THEN mark_seq ELSE 0 END FROM runs \
                   WHERE id = $1 AND node = $2 FOR UPDATE";
        let row = query(sql).bind(id_column(run)).bind(&self.node).bind(cursor).fetch_optional(conn).await?;
        row.map(|row| Ok(meter((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))).transpose()
    }
}

async fn write(conn: &mut PgConnection, run: RunId, cursor: i64, meter: Meter) -> sqlx::Result<()> {
    query(
        "UPDATE runs SET closed_ms = $2, ready_since = $3, mark_seq = $4, mark_cursor = $5, \
         was_ready = was_ready OR $3 IS NOT NULL WHERE id = $1",
    )
    .bind(id_column(run))
    .bind(integer(meter.closed_ms))
    .bind(meter.ready_since.map(|at| integer(at.0)))
    .bind(integer(meter.last_seq))
    .bind(cursor)
    .execute(conn)
    .await
    .map(drop)
}

struct ReadUsage {
    wallet: Wallet,
    now: UnixMillis,
}

impl Command for ReadUsage {
    type Answer = (Usage, u64);
    const NAME: &'static str = "read a wallet's usage";

    async fn apply(&self, tx: &mut Tx) -> Result<Self::Answer, StoreError> {
        self.read(tx).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl ReadUsage {
    async fn read(&self, tx: &mut Tx) -> sqlx::Result<(Usage, u64)> {
        // What is forgotten meanwhile is in the runs or in the totals, never in both.
        tx.snapshot().await?;
        let (mut usage, mut spawns) = totals(tx.conn(), &self.wallet).await?;
        let sql = "SELECT closed_ms, ready_since, mark_seq, ended_at, was_ready, tier_min, cores, memory_mib \
                   FROM runs WHERE wallet = $1";
        for row in query(sql).bind(self.wallet.0).fetch_all(tx.conn()).await? {
            let (used, was_ready) = self.bill(&row)?;
            usage = usage.plus(used);
            spawns += u64::from(was_ready);
        }
        usage = usage.plus(disks::running(tx.conn(), &self.wallet, self.now).await?);
        Ok((usage, spawns))
    }

    fn bill(&self, row: &PgRow) -> sqlx::Result<(Usage, bool)> {
        let ended_at: Option<i64> = row.try_get(3)?;
        let meter = meter((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        let meter = ended(meter, ended_at.map(millis));
        let tier = Tier {
            min: natural(row.try_get(5)?),
            cores: small(row, 6)?,
            memory: small(row, 7)?,
            disk: 0,
            agents: 1,
            images: None,
            runtimes: RuntimeKinds::MACHINES,
        };
        Ok((Usage::of(&tier, meter.uptime_ms(self.now)), row.try_get(4)?))
    }
}
