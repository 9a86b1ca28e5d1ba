//! What the relayer took on. Whoever takes entries on or counts waits for its turn: what
//! is looked at then stays as it is until it is written.

use domain::B256;
use domain::relay::{DailyQuota, ForwarderNonce, RelayAdmission, RelayCounts, RelayEntry, RelayState};
use sqlx::{PgConnection, Row, query};

use super::database::{Command, Postgres, Tx};
use super::json::{parse_json, to_json};
use super::purposes;
use crate::codec::{integer, natural};
use crate::error::StoreError;
use crate::purposes::AuthorizationPurpose;
use crate::relays::{Progress, QUOTA_DAYS, RelayStore, added, nonces, once, payments};

const READ: &str = "read what was taken on";
/// Names the lock of the turn.
const TURN: &str = "SELECT pg_advisory_xact_lock(hashtextextended('relays', 0))";

impl RelayStore for Postgres {
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
        let found = query("SELECT body FROM relays WHERE id = $1").bind(id.0);
        self.one(READ, found, |row| parse_json(row, 0)).await
    }

    async fn relay_open(&self, limit: u32) -> Result<Vec<RelayEntry>, StoreError> {
        let open = query("SELECT body FROM relays WHERE progress = 'open' ORDER BY at LIMIT $1");
        self.many(READ, open.bind(i64::from(limit)), |row| parse_json(row, 0)).await
    }

    async fn relay_counts(&self) -> Result<RelayCounts, StoreError> {
        let sql = "SELECT count(*) FILTER (WHERE progress = $1), count(*) FILTER (WHERE progress = $2), \
                   count(*) FILTER (WHERE progress = $3) FROM relays WHERE progress IN ($1, $2, $3)";
        let counts =
            query(sql).bind(Progress::Open.name()).bind(Progress::Executed.name()).bind(Progress::Failed.name());
        let number = |row: &sqlx::postgres::PgRow, at: usize| row.try_get(at).map(natural);
        let counted = self.one(READ, counts, |row| {
            Ok(RelayCounts { pending: number(row, 0)?, executed: number(row, 1)?, failed: number(row, 2)? })
        });
        counted.await?.ok_or(StoreError::Value("a count without a row"))
    }
}

struct Admit {
    entries: Vec<RelayEntry>,
    quotas: Vec<DailyQuota>,
}

impl Command for Admit {
    type Answer = RelayAdmission;
    const NAME: &'static str = "take calls on";

    async fn apply(&self, tx: &mut Tx) -> Result<RelayAdmission, StoreError> {
        let admitted = self.admit(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))?;
        if admitted != RelayAdmission::New {
            tx.take_back();
        }
        Ok(admitted)
    }
}

impl Admit {
    async fn admit(&self, conn: &mut PgConnection) -> sqlx::Result<RelayAdmission> {
        query(TURN).execute(&mut *conn).await?;
        for entry in &self.entries {
            if let Some(held) = find(conn, entry.id).await?.filter(|held| !held.is_replaced_by(entry)) {
                return Ok(RelayAdmission::Known(Box::new(held)));
            }
        }
        if let Some(nonce) = self.taken(conn).await? {
            return Ok(RelayAdmission::NonceTaken(nonce));
        }
        if !self.note_payments(conn).await? {
            return Ok(RelayAdmission::PaymentUsed);
        }
        if let Some(subject) = over(conn, &self.quotas).await? {
            return Ok(RelayAdmission::OverQuota(subject));
        }
        for entry in &self.entries {
            put(conn, entry).await?;
        }
        add(conn, &self.quotas).await?;
        Ok(RelayAdmission::New)
    }

    async fn taken(&self, conn: &mut PgConnection) -> sqlx::Result<Option<ForwarderNonce>> {
        let asked = match nonces(&self.entries) {
            Ok(asked) => asked,
            Err(twice) => return Ok(Some(twice)),
        };
        for (id, nonce) in asked {
            let other = query("SELECT 1 FROM relays WHERE lane = $1 AND holds AND id <> $2");
            let other = other.bind(nonce.to_bytes().to_vec()).bind(id.0);
            if other.fetch_optional(&mut *conn).await?.is_some() {
                return Ok(Some(nonce));
            }
        }
        Ok(None)
    }

    /// Whether each authorization pays for this alone. It is noted first: a request may
    /// come with the same one in this instant.
    async fn note_payments(&self, conn: &mut PgConnection) -> sqlx::Result<bool> {
        let Some(payments) = payments(&self.entries) else { return Ok(false) };
        for (key, payment) in payments {
            let valid_before = payment.signed.authorization.valid_before;
            if !purposes::note(conn, &key, AuthorizationPurpose::Fee(payment.group), valid_before).await? {
                return Ok(false);
            }
        }
        Ok(true)
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

    async fn apply(&self, tx: &mut Tx) -> Result<Option<String>, StoreError> {
        self.count(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl Count {
    async fn count(&self, conn: &mut PgConnection) -> sqlx::Result<Option<String>> {
        query(TURN).execute(&mut *conn).await?;
        let mark = once(&self.once, &self.quotas);
        if count(conn, &mark).await? > 0 {
            return Ok(None);
        }
        if let Some(subject) = over(conn, &self.quotas).await? {
            return Ok(Some(subject));
        }
        add(conn, &self.quotas).await?;
        add(conn, &[mark]).await?;
        Ok(None)
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

    async fn apply(&self, tx: &mut Tx) -> Result<Option<RelayEntry>, StoreError> {
        self.step(tx.conn()).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl Step {
    async fn step(&self, conn: &mut PgConnection) -> sqlx::Result<Option<RelayEntry>> {
        query("SELECT 1 FROM relays WHERE id = $1 FOR UPDATE").bind(self.id.0).execute(&mut *conn).await?;
        let Some(mut entry) = find(conn, self.id).await? else { return Ok(None) };
        if entry.state.may_become(&self.next) {
            entry.state = self.next.clone();
            put(conn, &entry).await?;
        }
        Ok(Some(entry))
    }
}

/// Whose quota would be passed first.
async fn over(conn: &mut PgConnection, quotas: &[DailyQuota]) -> sqlx::Result<Option<String>> {
    for (at, quota) in quotas.iter().enumerate() {
        if count(conn, quota).await?.saturating_add(added(quotas, at)) > quota.limit {
            return Ok(Some(quota.subject.clone()));
        }
    }
    Ok(None)
}

async fn add(conn: &mut PgConnection, quotas: &[DailyQuota]) -> sqlx::Result<()> {
    for quota in quotas {
        let count = "INSERT INTO relay_quotas AS q (day, subject, count) VALUES ($1, $2, $3) \
                     ON CONFLICT (day, subject) DO UPDATE SET count = q.count + $3";
        let count = query(count).bind(integer(quota.day)).bind(&quota.subject).bind(integer(quota.add));
        count.execute(&mut *conn).await?;
        let forget = query("DELETE FROM relay_quotas WHERE day < $1");
        forget.bind(integer(quota.day.saturating_sub(QUOTA_DAYS))).execute(&mut *conn).await?;
    }
    Ok(())
}

async fn count(conn: &mut PgConnection, quota: &DailyQuota) -> sqlx::Result<u64> {
    let sql = "SELECT count FROM relay_quotas WHERE day = $1 AND subject = $2";
    let found = query(sql).bind(integer(quota.day)).bind(&quota.subject).fetch_optional(conn).await?;
    found.map_or(Ok(0), |row| row.try_get(0).map(natural))
}

async fn put(conn: &mut PgConnection, entry: &RelayEntry) -> sqlx::Result<()> {
    query(
        "INSERT INTO relays (id, attempt, at, lane, holds, gives_way, progress, body) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO UPDATE SET attempt = $2, at = $3, lane = $4, \
         holds = $5, gives_way = $6, progress = $7, body = $8",
    )
    .bind(entry.id.0)
    .bind(i64::from(entry.attempt))
    .bind(integer(entry.at.0))
    .bind(entry.nonce.map(|nonce| nonce.to_bytes().to_vec()))
    .bind(entry.state.holds_nonce())
    .bind(entry.is_replaceable())
    .bind(Progress::of(&entry.state).name())
    .bind(to_json(entry)?)
    .execute(conn)
    .await
    .map(drop)
}

async fn find(conn: &mut PgConnection, id: B256) -> sqlx::Result<Option<RelayEntry>> {
    let found = query("SELECT body FROM relays WHERE id = $1").bind(id.0).fetch_optional(conn).await?;
    found.map(|row| parse_json(&row, 0)).transpose()
}
