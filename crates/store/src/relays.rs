//! What the relayer took on: unique names, forwarder nonces with one holder,
//! authorizations with one purpose (see `purposes`), daily quotas. An entry is JSON of
//! the domain's type; what is asked for has columns of its own.

use async_trait::async_trait;
use domain::B256;
use domain::relay::{
    DailyQuota, FeePayment, ForwarderNonce, Journal, JournalError, RelayAdmission, RelayCounts, RelayEntry, RelayState,
    RelayStatus,
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::codec::{integer, natural, parse_json, to_json};
use crate::error::StoreError;
use crate::handle::Store;
use crate::purposes::{self, Purpose};
use crate::writer::{Command, Tx};

/// Days for which quotas are kept.
const QUOTA_DAYS: u64 = 2;

/// How far an entry is, as the table counts it.
#[derive(Clone, Copy)]
enum Progress {
    Open,
    Executed,
    Failed,
    Unpaid,
}

impl Progress {
    const fn of(state: &RelayState) -> Self {
        match state {
            RelayState::Paying | RelayState::Sending { .. } => Self::Open,
            RelayState::Unpaid { .. } => Self::Unpaid,
            RelayState::Done { outcome, .. } => match outcome.status {
                RelayStatus::Executed => Self::Executed,
                RelayStatus::Reverted | RelayStatus::Failed | RelayStatus::Superseded => Self::Failed,
            },
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Executed => "executed",
            Self::Failed => "failed",
            Self::Unpaid => "unpaid",
        }
    }
}

struct Admit {
    entries: Vec<RelayEntry>,
    quotas: Vec<DailyQuota>,
}

impl Command for Admit {
    type Answer = RelayAdmission;
    const NAME: &'static str = "take calls on";

    fn apply(&self, tx: &Tx<'_>) -> Result<RelayAdmission, StoreError> {
        self.admit(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl Admit {
    fn admit(&self, conn: &Connection) -> rusqlite::Result<RelayAdmission> {
        for entry in &self.entries {
            if let Some(held) = find(conn, entry.id)?.filter(|held| !held.is_replaced_by(entry)) {
                return Ok(RelayAdmission::Known(Box::new(held)));
            }
        }
        if let Some(nonce) = self.taken(conn)? {
            return Ok(RelayAdmission::NonceTaken(nonce));
        }
        if self.used(conn)? {
            return Ok(RelayAdmission::PaymentUsed);
        }
        if let Some(subject) = over(conn, &self.quotas)? {
            return Ok(RelayAdmission::OverQuota(subject));
        }
        self.write(conn).map(|()| RelayAdmission::New)
    }

    fn taken(&self, conn: &Connection) -> rusqlite::Result<Option<ForwarderNonce>> {
        let mut other = conn.prepare_cached("SELECT 1 FROM relays WHERE lane = ?1 AND holds = 1 AND id <> ?2")?;
        for (at, entry) in self.entries.iter().enumerate().filter(|(_, entry)| entry.state.holds_nonce()) {
            let Some(nonce) = entry.nonce else { continue };
            let earlier = |it: &RelayEntry| it.state.holds_nonce() && it.nonce == Some(nonce);
            if self.entries[..at].iter().any(earlier) || other.exists((nonce.to_bytes(), entry.id.0))? {
                return Ok(Some(nonce));
            }
        }
        Ok(None)
    }

    fn payments(&self) -> impl Iterator<Item = &FeePayment> {
        self.entries.iter().filter_map(|entry| entry.payment.as_ref())
    }

    fn used(&self, conn: &Connection) -> rusqlite::Result<bool> {
        for (at, payment) in self.payments().enumerate() {
            let key = payment.signed.authorization.key();
            let clash = |it: &FeePayment| it.signed.authorization.key() == key && it.group != payment.group;
            if self.payments().take(at).any(clash) || purposes::is_other(conn, &key, Purpose::Fee(payment.group))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn write(&self, conn: &Connection) -> rusqlite::Result<()> {
        for entry in &self.entries {
            put(conn, entry)?;
        }
        for FeePayment { group, signed, .. } in self.payments() {
            let of = &signed.authorization;
            purposes::note(conn, &of.key(), Purpose::Fee(*group), of.valid_before)?;
        }
        add(conn, &self.quotas)
    }
}

struct Count {
    /// What is counted, so that it is once on each of these days.
    once: String,
    quotas: Vec<DailyQuota>,
}

impl Command for Count {
    /// Whose quota would be passed.
    type Answer = Option<String>;
    const NAME: &'static str = "count calls";

    fn apply(&self, tx: &Tx<'_>) -> Result<Option<String>, StoreError> {
        self.count(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl Count {
    fn count(&self, conn: &Connection) -> rusqlite::Result<Option<String>> {
        let day = self.quotas.first().map_or(0, |quota| quota.day);
        let mark = DailyQuota { subject: format!("once:{}", self.once), day, add: 1, limit: 1 };
        if count(conn, &mark)? > 0 {
            return Ok(None);
        }
        if let Some(subject) = over(conn, &self.quotas)? {
            return Ok(Some(subject));
        }
        add(conn, &self.quotas)?;
        add(conn, &[mark]).map(|()| None)
    }
}

struct Step {
    id: B256,
    next: RelayState,
}

impl Command for Step {
    /// The entry as it stands then; none if there is none.
    type Answer = Option<RelayEntry>;
    const NAME: &'static str = "step a call on";

    fn apply(&self, tx: &Tx<'_>) -> Result<Option<RelayEntry>, StoreError> {
        self.step(tx.conn).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

impl Step {
    fn step(&self, conn: &Connection) -> rusqlite::Result<Option<RelayEntry>> {
        let Some(mut entry) = find(conn, self.id)? else { return Ok(None) };
        if entry.state.may_become(&self.next) {
            entry.state = self.next.clone();
            put(conn, &entry)?;
        }
        Ok(Some(entry))
    }
}

/// The journal of one chain's relayer in this store.
#[derive(Clone, Debug)]
pub struct StoreJournal {
    store: Store,
    chain_id: u64,
}

impl Store {
    /// The journal of the relayer on this chain.
    #[must_use]
    pub fn relay_journal(&self, chain_id: u64) -> StoreJournal {
        StoreJournal { store: self.clone(), chain_id }
    }
}

impl StoreJournal {
    /// The last version wrote fees down without their chain: it is this one.
    fn here(&self, mut entry: RelayEntry) -> RelayEntry {
        if let Some(payment) = &mut entry.payment {
            payment.signed.authorization = payment.signed.authorization.on_chain(self.chain_id);
        }
        entry
    }

    async fn peek<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        const NAME: &str = "read what was taken on";
        let asked = move |conn: &Connection| question(conn).map_err(|error| StoreError::sql(NAME, error));
        self.store.read(NAME, asked).await.map_err(unavailable)
    }
}

#[async_trait]
impl Journal for StoreJournal {
    async fn admit(&self, entries: &[RelayEntry], quotas: &[DailyQuota]) -> Result<RelayAdmission, JournalError> {
        let admit = Admit { entries: entries.to_vec(), quotas: quotas.to_vec() };
        Ok(match self.store.write(admit).await.map_err(unavailable)? {
            RelayAdmission::Known(entry) => RelayAdmission::Known(Box::new(self.here(*entry))),
            other => other,
        })
    }

    async fn count(&self, once: &str, quotas: &[DailyQuota]) -> Result<Option<String>, JournalError> {
        let count = Count { once: once.to_owned(), quotas: quotas.to_vec() };
        self.store.write(count).await.map_err(unavailable)
    }

    async fn find(&self, id: B256) -> Result<Option<RelayEntry>, JournalError> {
        Ok(self.peek(move |conn| find(conn, id)).await?.map(|entry| self.here(entry)))
    }

    async fn step(&self, id: B256, next: &RelayState) -> Result<RelayEntry, JournalError> {
        let stepped = self.store.write(Step { id, next: next.clone() }).await.map_err(unavailable)?;
        let missing = || JournalError(format!("nothing was taken on as {id}"));
        stepped.map(|entry| self.here(entry)).ok_or_else(missing)
    }

    async fn open(&self, limit: usize) -> Result<Vec<RelayEntry>, JournalError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let open = self.peek(move |conn| open(conn, limit)).await?;
        Ok(open.into_iter().map(|entry| self.here(entry)).collect())
    }

    async fn counts(&self) -> Result<RelayCounts, JournalError> {
        self.peek(counts).await
    }
}

fn unavailable(error: StoreError) -> JournalError {
    JournalError(error.to_string())
}

/// Whose quota would be passed first.
fn over(conn: &Connection, quotas: &[DailyQuota]) -> rusqlite::Result<Option<String>> {
    for (at, quota) in quotas.iter().enumerate() {
        let same = |other: &&DailyQuota| (&other.subject, other.day) == (&quota.subject, quota.day);
        let added = quotas[..=at].iter().filter(same).fold(0, |sum: u64, q| sum.saturating_add(q.add));
        if count(conn, quota)?.saturating_add(added) > quota.limit {
            return Ok(Some(quota.subject.clone()));
        }
    }
    Ok(None)
}

fn add(conn: &Connection, quotas: &[DailyQuota]) -> rusqlite::Result<()> {
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

fn count(conn: &Connection, quota: &DailyQuota) -> rusqlite::Result<u64> {
    let sql = "SELECT count FROM relay_quotas WHERE day = ?1 AND subject = ?2";
    let found = conn.prepare_cached(sql)?.query_row((integer(quota.day), &quota.subject), |row| row.get(0)).optional();
    Ok(found?.map_or(0, natural))
}

fn put(conn: &Connection, entry: &RelayEntry) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO relays (id, attempt, at, lane, holds, gives_way, progress, body) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    conn.prepare_cached(sql)?.execute(params![
        entry.id.0,
        entry.attempt,
        integer(entry.at.0),
        entry.nonce.map(|nonce| nonce.to_bytes()),
        entry.state.holds_nonce(),
        entry.is_replaceable(),
        Progress::of(&entry.state).name(),
        to_json(entry)?,
    ])?;
    Ok(())
}

fn find(conn: &Connection, id: B256) -> rusqlite::Result<Option<RelayEntry>> {
    conn.prepare_cached("SELECT body FROM relays WHERE id = ?1")?.query_row((id.0,), decode).optional()
}

fn open(conn: &Connection, limit: u32) -> rusqlite::Result<Vec<RelayEntry>> {
    conn.prepare_cached("SELECT body FROM relays WHERE progress = 'open' ORDER BY at LIMIT ?1")?
        .query_map((limit,), decode)?
        .collect()
}

fn counts(conn: &Connection) -> rusqlite::Result<RelayCounts> {
    let mut statement = conn.prepare_cached("SELECT count(*) FROM relays WHERE progress = ?1")?;
    let mut of = |progress: Progress| statement.query_row((progress.name(),), |row| row.get(0).map(natural));
    Ok(RelayCounts { pending: of(Progress::Open)?, executed: of(Progress::Executed)?, failed: of(Progress::Failed)? })
}

fn decode(row: &Row<'_>) -> rusqlite::Result<RelayEntry> {
    parse_json(row, 0)
}
