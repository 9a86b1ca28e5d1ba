//! Steps of a run's life, taken in the transaction, and their history.

use domain::{Event, FailReason, PodId, RunId, UnixMillis, Wallet};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row, query};

use super::database::{Command, Postgres, Tx};
use super::pod::{self, RemovePod};
use super::row::{LIVE_OF, OF_ID, decode, live_of, lock, select_runs};
use crate::codec::{id_column, integer, millis, natural, state_columns, state_of};
use crate::error::StoreError;
use crate::life::{
    AgentObservation, AgentStore, Expire, MAX_CHANGES, MAX_LISTED, NodeChange, RunAfterStep, RunStep, SetExpiry,
    StepOutcome, note,
};
use crate::record::{BelowTier, KeptData, PodRowId, RunChange, RunExpiry, RunRecord};

impl AgentStore for Postgres {
    async fn advance(&self, id: RunId, event: Event, now: UnixMillis) -> Result<StepOutcome, StoreError> {
        self.write(RunStep::step(id, event, now)).await
    }

    async fn expire(&self, id: RunId, counted_ms: u64, now: UnixMillis) -> Result<StepOutcome, StoreError> {
        self.write(Expire { id, counted_ms, now }).await
    }

    async fn set_expiry(&self, id: RunId, expiry: Option<RunExpiry>) -> Result<Option<RunRecord>, StoreError> {
        self.write(SetExpiry { id, expiry }).await
    }

    async fn end(&self, id: RunId, kept: Option<KeptData>, now: UnixMillis) -> Result<StepOutcome, StoreError> {
        self.write(RunStep { kept, ..RunStep::step(id, Event::Gone, now) }).await
    }

    async fn remove_pod(&self, pod: PodId, now: UnixMillis) -> Result<bool, StoreError> {
        self.write(RemovePod { pod, now }).await
    }

    async fn place(&self, id: RunId, node: &str, now: UnixMillis) -> Result<StepOutcome, StoreError> {
        self.write(RunStep { node: NodeChange::Set(node.to_owned()), ..RunStep::step(id, Event::Placed, now) }).await
    }

    async fn abandon(&self, id: RunId, reason: FailReason, now: UnixMillis) -> Result<StepOutcome, StoreError> {
        self.write(RunStep { node: NodeChange::Clear, ..RunStep::step(id, Event::Fail(reason), now) }).await
    }

    async fn settle(
        &self,
        id: RunId,
        event: Event,
        seen: AgentObservation,
        now: UnixMillis,
    ) -> Result<StepOutcome, StoreError> {
        self.write(RunStep { seen: Some(seen), ..RunStep::step(id, event, now) }).await
    }

    async fn observe(&self, id: RunId, seen: AgentObservation) -> Result<RunRecord, StoreError> {
        self.write(Observe { id, seen }).await
    }

    async fn note_balance(&self, id: RunId, below: BelowTier) -> Result<(), StoreError> {
        let update = query("UPDATE runs SET below_readings = $2, below_since = $3 WHERE id = $1")
            .bind(id_column(id))
            .bind(i64::from(below.readings))
            .bind(below.since.map(|at| integer(at.0)));
        let known = self.execute("note a balance", update).await?;
        if known == 0 { Err(StoreError::Unknown(id)) } else { Ok(()) }
    }

    async fn get(&self, id: RunId) -> Result<Option<RunRecord>, StoreError> {
        self.one("read a run", query(OF_ID).bind(id_column(id)), decode).await
    }

    async fn last_run(&self, id: PodId) -> Result<Option<RunRecord>, StoreError> {
        self.one("read a POD", pod::last_run_of(&id), decode).await
    }

    async fn of(&self, wallet: Wallet, limit: u32) -> Result<Vec<RunRecord>, StoreError> {
        self.write(Of { wallet, limit: limit.min(MAX_LISTED) }).await
    }

    async fn live_of(&self, wallet: Wallet) -> Result<Vec<RunRecord>, StoreError> {
        self.many("read a wallet's live runs", query(LIVE_OF).bind(wallet.0), decode).await
    }

    async fn live(&self) -> Result<Vec<RunRecord>, StoreError> {
        let live = query(select_runs!("WHERE ended_at IS NULL ORDER BY runs.id"));
        self.many("list the live runs", live, decode).await
    }

    async fn changes(&self, id: PodId, after: u64) -> Result<Vec<RunChange>, StoreError> {
        self.write(Changes { id, after }).await
    }
}

impl Command for RunStep {
    type Answer = StepOutcome;
    const NAME: &'static str = "take a step of an agent";

    async fn apply(&self, tx: &mut Tx) -> Result<StepOutcome, StoreError> {
        let fail = |error| StoreError::postgres(Self::NAME, error);
        let before = lock(tx.conn(), self.id).await.map_err(fail)?.ok_or(StoreError::Unknown(self.id))?;
        taken(tx, self.take(before)?, self.now).await
    }
}

impl Command for Expire {
    type Answer = StepOutcome;
    const NAME: &'static str = "stop a run whose time is over";

    async fn apply(&self, tx: &mut Tx) -> Result<StepOutcome, StoreError> {
        let fail = |error| StoreError::postgres(Self::NAME, error);
        let before = lock(tx.conn(), self.id).await.map_err(fail)?.ok_or(StoreError::Unknown(self.id))?;
        taken(tx, self.take(before)?, self.now).await
    }
}

/// Writes what a step has made of a run, and tells it.
async fn taken(tx: &mut Tx, after: RunAfterStep, now: UnixMillis) -> Result<StepOutcome, StoreError> {
    let fail = |error| StoreError::postgres(RunStep::NAME, error);
    let (record, actions, change, removes) = match after {
        RunAfterStep::Same(advanced) => return Ok(advanced),
        RunAfterStep::New { record, actions, change, removes } => (record, actions, change, removes),
    };
    write(tx.conn(), &record).await.map_err(fail)?;
    if let Some(change) = &change {
        keep_change(tx.conn(), record.pod_key, change).await.map_err(fail)?;
        tx.announce(record.pod, change).await.map_err(fail)?;
    }
    if removes && !pod::remove(tx.conn(), &record, now).await.map_err(fail)? {
        return Err(StoreError::tie(RunStep::NAME));
    }
    Ok(StepOutcome { record, actions, change })
}

impl Command for SetExpiry {
    type Answer = Option<RunRecord>;
    const NAME: &'static str = "set when a run is stopped";

    async fn apply(&self, tx: &mut Tx) -> Result<Option<RunRecord>, StoreError> {
        let fail = |error| StoreError::postgres(Self::NAME, error);
        let before = lock(tx.conn(), self.id).await.map_err(fail)?.ok_or(StoreError::Unknown(self.id))?;
        let Some(record) = self.take(before) else { return Ok(None) };
        query("UPDATE runs SET expires_at = $2, expires_counted_ms = $3 WHERE id = $1")
            .bind(id_column(self.id))
            .bind(record.expiry.map(|expiry| integer(expiry.at.0)))
            .bind(record.expiry.map(|expiry| integer(expiry.counted_ms)))
            .execute(tx.conn())
            .await
            .map_err(fail)?;
        Ok(Some(record))
    }
}

/// Writes what a step can change. The bill is not among it: only marks change it.
async fn write(conn: &mut PgConnection, record: &RunRecord) -> sqlx::Result<()> {
    let (state, reason) = state_columns(record.state);
    query(
        "UPDATE runs SET state = $2, reason = $3, generation = $4, changes = $5, node = $6, runtime = $7, \
         restarts = $8, was_ready = $9, ended_at = $10 WHERE id = $1",
    )
    .bind(id_column(record.id))
    .bind(state)
    .bind(reason)
    .bind(integer(record.generation.0))
    .bind(integer(record.changes))
    .bind(&record.node)
    .bind(&record.runtime)
    .bind(i64::from(record.restarts))
    .bind(record.was_ready)
    .bind(record.ended_at.map(|at| integer(at.0)))
    .execute(&mut *conn)
    .await?;
    match record.ended_at {
        None => Ok(()),
        Some(at) => pod::rest(conn, record, at).await,
    }
}

/// Adds to a POD's history.
pub(crate) async fn keep_change(conn: &mut PgConnection, pod: PodRowId, change: &RunChange) -> sqlx::Result<()> {
    let key = pod.0.cast_signed();
    let (name, reason) = state_columns(change.state);
    query("INSERT INTO changes (pod, seq, at, state, reason) VALUES ($1, $2, $3, $4, $5)")
        .bind(key)
        .bind(integer(change.seq))
        .bind(integer(change.at.0))
        .bind(name)
        .bind(reason)
        .execute(&mut *conn)
        .await?;
    if let Some(oldest) = change.seq.checked_sub(MAX_CHANGES) {
        let forget = query("DELETE FROM changes WHERE pod = $1 AND seq <= $2");
        forget.bind(key).bind(integer(oldest)).execute(conn).await?;
    }
    Ok(())
}

struct Observe {
    id: RunId,
    seen: AgentObservation,
}

impl Command for Observe {
    type Answer = RunRecord;
    const NAME: &'static str = "note what a node said";

    async fn apply(&self, tx: &mut Tx) -> Result<RunRecord, StoreError> {
        let fail = |error| StoreError::postgres(Self::NAME, error);
        let before = lock(tx.conn(), self.id).await.map_err(fail)?.ok_or(StoreError::Unknown(self.id))?;
        let mut record = before.clone();
        note(&mut record, &self.seen);
        if record != before {
            write(tx.conn(), &record).await.map_err(fail)?;
        }
        Ok(record)
    }
}

struct Of {
    wallet: Wallet,
    limit: u32,
}

impl Command for Of {
    type Answer = Vec<RunRecord>;
    const NAME: &'static str = "list a wallet's PODs";

    async fn apply(&self, tx: &mut Tx) -> Result<Vec<RunRecord>, StoreError> {
        self.list(tx).await.map_err(|error| StoreError::postgres(Self::NAME, error))
    }
}

impl Of {
    async fn list(&self, tx: &mut Tx) -> sqlx::Result<Vec<RunRecord>> {
        tx.snapshot().await?;
        let mut runs = live_of(tx.conn(), &self.wallet).await?;
        let stopped = query(select_runs!(
            "WHERE runs.id IN (SELECT last_run FROM pods WHERE wallet = $1 AND stopped_at IS NOT NULL \
             AND removed_at IS NULL ORDER BY key DESC LIMIT $2) ORDER BY pods.key DESC"
        ));
        let stopped = stopped.bind(self.wallet.0).bind(i64::from(self.limit)).fetch_all(tx.conn()).await?;
        for row in &stopped {
            runs.push(decode(row)?);
        }
        runs.truncate(usize::try_from(self.limit).unwrap_or(usize::MAX));
        Ok(runs)
    }
}

struct Changes {
    id: PodId,
    after: u64,
}

impl Command for Changes {
    type Answer = Vec<RunChange>;
    const NAME: &'static str = "read a POD's changes";

    async fn apply(&self, tx: &mut Tx) -> Result<Vec<RunChange>, StoreError> {
        let found = self.read(tx).await.map_err(|error| StoreError::postgres(Self::NAME, error))?;
        found.ok_or(StoreError::NoPod(self.id))
    }
}

impl Changes {
    async fn read(&self, tx: &mut Tx) -> sqlx::Result<Option<Vec<RunChange>>> {
        tx.snapshot().await?;
        let Some(record) = pod::last_run(tx.conn(), &self.id).await? else { return Ok(None) };
        let first = (self.after == 0 && record.changes <= MAX_CHANGES).then(|| RunChange::first(record.created_at));
        let sql = "SELECT seq, at, state, reason FROM changes WHERE pod = $1 AND seq > $2 ORDER BY seq";
        let rows = query(sql).bind(record.pod_key.0.cast_signed()).bind(integer(self.after));
        let rows = rows.fetch_all(tx.conn()).await?;
        first.map(Ok).into_iter().chain(rows.iter().map(decode_change)).collect::<sqlx::Result<_>>().map(Some)
    }
}

fn decode_change(row: &PgRow) -> sqlx::Result<RunChange> {
    let (state, reason): (String, Option<String>) = (row.try_get(2)?, row.try_get(3)?);
    let state = state_of(&state, reason.as_deref()).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(RunChange { seq: natural(row.try_get(0)?), at: millis(row.try_get(1)?), state })
}
