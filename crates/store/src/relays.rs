//! What the relayer took on: unique names, lanes with one holder, payments with
//! one purpose (see `purposes`), daily quotas. What an entry means is the relayer's business.

use domain::{B256, UnixMillis};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::codec::{integer, millis, natural};
use crate::error::StoreError;
use crate::handle::Store;
use crate::payments::PaymentKey;
use crate::purposes::{self, Purpose};
use crate::writer::{Command, Tx};

/// Days for which quotas are kept.
const QUOTA_DAYS: u64 = 2;

/// How far an entry is, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayProgress {
    /// Something remains to be done.
    Open,
    /// It had its effect.
    Executed,
    /// It ended without.
    Failed,
    /// It was never paid for.
    Unpaid,
}

impl RelayProgress {
    const ALL: [Self; 4] = [Self::Open, Self::Executed, Self::Failed, Self::Unpaid];

    const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Executed => "executed",
            Self::Failed => "failed",
            Self::Unpaid => "unpaid",
        }
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayRow {
    /// Its name.
    pub id: B256,
    /// How often an entry of this name gave way before.
    pub attempt: u32,
    /// When it was taken on.
    pub at: UnixMillis,
    /// What only one entry may hold at a time.
    pub lane: Option<Vec<u8>>,
    /// Whether it holds its lane.
    pub holds: bool,
    /// Whether the next attempt may take its place.
    pub gives_way: bool,
    /// How far it is.
    pub progress: RelayProgress,
    /// The relayer's own.
    pub body: String,
}

/// A payment, and the group of entries that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayPayment {
    /// What makes it itself.
    pub key: PaymentKey,
    /// What it buys.
    pub group: B256,
    /// Unix seconds from which no token takes it any more.
    pub valid_before: u64,
}

/// A daily count that must not be passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayQuota {
    /// Who is counted.
    pub subject: String,
    /// Days since 1970.
    pub day: u64,
    /// How much is added.
    pub add: u64,
    /// How much there may be.
    pub limit: u64,
}

/// Entries that want to be taken on together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayWish {
    /// The entries.
    pub rows: Vec<RelayRow>,
    /// What pays for them.
    pub payments: Vec<RelayPayment>,
    /// Who is counted.
    pub quotas: Vec<RelayQuota>,
}

/// What a wish met. Nothing was changed unless it is `New`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayMet {
    /// All of it is taken on.
    New,
    /// An entry of this name stands.
    Known(RelayRow),
    /// The wish's entry at this place asks for a lane that another holds.
    LaneTaken(usize),
    /// A payment was presented for something else, here or for a request.
    PaymentUsed,
    /// The wish's quota at this place would be passed.
    OverQuota(usize),
}

/// How many entries there are, by progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayCounts {
    /// Open ones.
    pub open: u64,
    /// Executed ones.
    pub executed: u64,
    /// Failed ones.
    pub failed: u64,
}

struct Admit(RelayWish);

impl Command for Admit {
    type Answer = RelayMet;
    const NAME: &'static str = "take calls on";

    fn apply(&self, tx: &Tx<'_>) -> Result<RelayMet, StoreError> {
        self.admit(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl Admit {
    fn admit(&self, conn: &Connection) -> rusqlite::Result<RelayMet> {
        if let Some(met) = self.known(conn)? {
            return Ok(met);
        }
        if let Some(at) = self.taken(conn)? {
            return Ok(RelayMet::LaneTaken(at));
        }
        if self.used(conn)? {
            return Ok(RelayMet::PaymentUsed);
        }
        if let Some(at) = over(conn, &self.0.quotas)? {
            return Ok(RelayMet::OverQuota(at));
        }
        self.write(conn).map(|()| RelayMet::New)
    }

    fn known(&self, conn: &Connection) -> rusqlite::Result<Option<RelayMet>> {
        for row in &self.0.rows {
            let held = find(conn, row.id)?;
            let next = |held: &RelayRow| held.gives_way && held.attempt.checked_add(1) == Some(row.attempt);
            if let Some(held) = held.filter(|held| !next(held)) {
                return Ok(Some(RelayMet::Known(held)));
            }
        }
        Ok(None)
    }

    fn taken(&self, conn: &Connection) -> rusqlite::Result<Option<usize>> {
        let mut other = conn.prepare_cached("SELECT 1 FROM relays WHERE lane = ?1 AND holds = 1 AND id <> ?2")?;
        for (at, row) in self.0.rows.iter().enumerate().filter(|(_, row)| row.holds) {
            let Some(lane) = &row.lane else { continue };
            let twice = self.0.rows[..at].iter().any(|earlier| earlier.holds && earlier.lane.as_ref() == Some(lane));
            if twice || other.exists((lane, row.id.0))? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn used(&self, conn: &Connection) -> rusqlite::Result<bool> {
        for (at, payment) in self.0.payments.iter().enumerate() {
            let clash = |earlier: &RelayPayment| earlier.key == payment.key && earlier.group != payment.group;
            let earlier = self.0.payments[..at].iter().any(clash);
            if earlier || purposes::is_other(conn, &payment.key, Purpose::Fee(payment.group))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn write(&self, conn: &Connection) -> rusqlite::Result<()> {
        for row in &self.0.rows {
            put(conn, row)?;
        }
        for payment in &self.0.payments {
            purposes::note(conn, &payment.key, Purpose::Fee(payment.group), payment.valid_before)?;
        }
        add(conn, &self.0.quotas)
    }
}

struct Count {
    /// What is counted, so that it is once on each of these days.
    once: String,
    quotas: Vec<RelayQuota>,
}

impl Command for Count {
    type Answer = Option<usize>;
    const NAME: &'static str = "count calls";

    fn apply(&self, tx: &Tx<'_>) -> Result<Option<usize>, StoreError> {
        self.count(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl Count {
    fn count(&self, conn: &Connection) -> rusqlite::Result<Option<usize>> {
        let day = self.quotas.first().map_or(0, |quota| quota.day);
        let mark = RelayQuota { subject: format!("once:{}", self.once), day, add: 1, limit: 1 };
        if count(conn, &mark)? > 0 {
            return Ok(None);
        }
        if let Some(at) = over(conn, &self.quotas)? {
            return Ok(Some(at));
        }
        add(conn, &self.quotas)?;
        add(conn, &[mark]).map(|()| None)
    }
}

struct Step {
    from: RelayRow,
    to: RelayRow,
}

impl Command for Step {
    type Answer = bool;
    const NAME: &'static str = "step a call on";

    fn apply(&self, tx: &Tx<'_>) -> Result<bool, StoreError> {
        let sql = |error| StoreError::sql(Self::NAME, error);
        if find(tx.conn, self.from.id).map_err(sql)?.as_ref() != Some(&self.from) {
            return Ok(false);
        }
        put(tx.conn, &self.to).map(|()| true).map_err(sql)
    }
}

impl Store {
    /// Takes entries on, all or none.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn relay_admit(&self, wish: RelayWish) -> Result<RelayMet, StoreError> {
        self.write(Admit(wish)).await
    }

    /// Counts, all or none; answers with the place of the first quota that would be
    /// passed. What was counted on that day under the name `once` is not again.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn relay_count(&self, once: &str, quotas: Vec<RelayQuota>) -> Result<Option<usize>, StoreError> {
        self.write(Count { once: once.to_owned(), quotas }).await
    }

    /// Puts `to` in the place of `from`, if that still stands there as it is.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn relay_step(&self, from: RelayRow, to: RelayRow) -> Result<bool, StoreError> {
        self.write(Step { from, to }).await
    }

    /// The entry of this name.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn relay_find(&self, id: B256) -> Result<Option<RelayRow>, StoreError> {
        self.peek(move |conn| find(conn, id)).await
    }

    /// Open entries, the oldest first.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn relay_open(&self, limit: u32) -> Result<Vec<RelayRow>, StoreError> {
        self.peek(move |conn| open(conn, limit)).await
    }

    /// How many entries there are.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn relay_counts(&self) -> Result<RelayCounts, StoreError> {
        self.peek(counts).await
    }

    async fn peek<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        const NAME: &str = "read what was taken on";
        self.read(NAME, move |conn| question(conn).map_err(|error| StoreError::sql(NAME, error))).await
    }
}

/// The first quota that would be passed.
fn over(conn: &Connection, quotas: &[RelayQuota]) -> rusqlite::Result<Option<usize>> {
    for (at, quota) in quotas.iter().enumerate() {
        let same = |other: &&RelayQuota| (&other.subject, other.day) == (&quota.subject, quota.day);
        let added = quotas[..=at].iter().filter(same).fold(0, |sum: u64, q| sum.saturating_add(q.add));
        if count(conn, quota)?.saturating_add(added) > quota.limit {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

fn add(conn: &Connection, quotas: &[RelayQuota]) -> rusqlite::Result<()> {
    let mut count = conn.prepare_cached(
        "INSERT INTO relay_quotas (day, subject, count) VALUES (?1, ?2, ?3) \
         ON CONFLICT DO UPDATE SET count = count + ?3",
    )?;
    let mut forget = conn.prepare_cached("DELETE FROM relay_quotas WHERE day < ?1")?;
    for quota in quotas {
        count.execute((integer(quota.day), &quota.subject, integer(quota.add)))?;
        forget.execute((integer(quota.day.saturating_sub(QUOTA_DAYS)),))?;
    }
    Ok(())
}

fn count(conn: &Connection, quota: &RelayQuota) -> rusqlite::Result<u64> {
    let sql = "SELECT count FROM relay_quotas WHERE day = ?1 AND subject = ?2";
    let found = conn.prepare_cached(sql)?.query_row((integer(quota.day), &quota.subject), |row| row.get(0)).optional();
    Ok(found?.map_or(0, natural))
}

fn put(conn: &Connection, row: &RelayRow) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO relays (id, attempt, at, lane, holds, gives_way, progress, body) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    conn.prepare_cached(sql)?.execute(params![
        row.id.0,
        row.attempt,
        integer(row.at.0),
        row.lane,
        row.holds,
        row.gives_way,
        row.progress.name(),
        row.body
    ])?;
    Ok(())
}

macro_rules! select_relays {
    ($tail:literal) => {
        concat!("SELECT id, attempt, at, lane, holds, gives_way, progress, body FROM relays ", $tail)
    };
}

fn find(conn: &Connection, id: B256) -> rusqlite::Result<Option<RelayRow>> {
    conn.prepare_cached(select_relays!("WHERE id = ?1"))?.query_row((id.0,), decode).optional()
}

fn open(conn: &Connection, limit: u32) -> rusqlite::Result<Vec<RelayRow>> {
    conn.prepare_cached(select_relays!("WHERE progress = 'open' ORDER BY at LIMIT ?1"))?
        .query_map((limit,), decode)?
        .collect()
}

fn counts(conn: &Connection) -> rusqlite::Result<RelayCounts> {
    let mut statement = conn.prepare_cached("SELECT count(*) FROM relays WHERE progress = ?1")?;
    let mut of = |progress: RelayProgress| statement.query_row((progress.name(),), |row| row.get(0).map(natural));
    Ok(RelayCounts {
        open: of(RelayProgress::Open)?,
        executed: of(RelayProgress::Executed)?,
        failed: of(RelayProgress::Failed)?,
    })
}

fn decode(row: &Row<'_>) -> rusqlite::Result<RelayRow> {
    let progress: String = row.get(6)?;
    let found = RelayProgress::ALL.into_iter().find(|known| known.name() == progress);
    Ok(RelayRow {
        id: B256::from(row.get::<_, [u8; 32]>(0)?),
        attempt: row.get(1)?,
        at: millis(row.get(2)?),
        lane: row.get(3)?,
        holds: row.get(4)?,
        gives_way: row.get(5)?,
        progress: found.ok_or_else(|| rusqlite::Error::InvalidColumnName(format!("progress {progress:?}")))?,
        body: row.get(7)?,
    })
}
