//! What the relayer took on.

use domain::B256;
use domain::relay::{DailyQuota, ForwarderNonce, RelayAdmission, RelayCounts, RelayEntry, RelayState};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::handle::Sqlite;
use super::json::{parse_json, to_json};
use super::purposes;
use super::writer::{Command, Tx};
use crate::codec::{integer, natural};
use crate::error::StoreError;
use crate::purposes::AuthorizationPurpose;
use crate::relays::{Progress, QUOTA_DAYS, RelayStore, added, nonces, once, payments};

impl RelayStore for Sqlite {
    async fn relay_admit(
        &self,
        entries: Vec<RelayEntry>,
        quotas: Vec<DailyQuota>,
    ) -> Result<RelayAdmission, StoreError> {
        self.write(Admit { entries, quotas }).await
    }

    async fn relay_count(&self, once: &str, quotas: Vec<DailyQuota>) -> Result<Option<String>, StoreError> {
        self.write(Count { once: once.to_owned(), quotas }).await
    }

    async fn relay_step(&self, id: B256, next: RelayState) -> Result<Option<RelayEntry>, StoreError> {
        self.write(Step { id, next }).await
    }

    async fn relay_find(&self, id: B256) -> Result<Option<RelayEntry>, StoreError> {
        self.peek(move |conn| find(conn, id)).await
    }

    async fn relay_open(&self, limit: u32) -> Result<Vec<RelayEntry>, StoreError> {
        self.peek(move |conn| open(conn, limit)).await
    }

    async fn relay_counts(&self) -> Result<RelayCounts, StoreError> {
        self.peek(counts).await
    }
}

impl Sqlite {
    async fn peek<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        const NAME: &str = "read what was taken on";
        self.read(NAME, move |conn| question(conn).map_err(|error| StoreError::sql(NAME, error))).await
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
        let asked = match nonces(&self.entries) {
            Ok(asked) => asked,
            Err(twice) => return Ok(Some(twice)),
        };
        for (id, nonce) in asked {
            if other.exists((nonce.to_bytes(), id.0))? {
                return Ok(Some(nonce));
            }
        }
        Ok(None)
    }

    fn used(&self, conn: &Connection) -> rusqlite::Result<bool> {
        let Some(payments) = payments(&self.entries) else { return Ok(true) };
        for (key, payment) in payments {
            if purposes::is_other(conn, &key, AuthorizationPurpose::Fee(payment.group))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn write(&self, conn: &Connection) -> rusqlite::Result<()> {
        for entry in &self.entries {
            put(conn, entry)?;
        }
        for (key, payment) in payments(&self.entries).unwrap_or_default() {
            purposes::note(
                conn,
                &key,
                AuthorizationPurpose::Fee(payment.group),
                payment.signed.authorization.valid_before,
            )?;
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
        let mark = once(&self.once, &self.quotas);
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

/// Whose quota would be passed first.
fn over(conn: &Connection, quotas: &[DailyQuota]) -> rusqlite::Result<Option<String>> {
    for (at, quota) in quotas.iter().enumerate() {
        if count(conn, quota)?.saturating_add(added(quotas, at)) > quota.limit {
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
