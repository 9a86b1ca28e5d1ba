//! Steps of a run's life, taken in the transaction, and their history.

use domain::{Event, FailReason, PodId, RunId, UnixMillis, Wallet};
use rusqlite::{Connection, params};

use super::handle::Sqlite;
use super::pod::{self, RemovePod};
use super::row::{find, live_of, many, select_runs};
use super::writer::{Command, Tx};
use crate::codec::{id_column, integer, millis, natural, state_columns, state_of};
use crate::error::StoreError;
use crate::life::{
    AgentObservation, AgentStore, Expire, MAX_CHANGES, MAX_LISTED, NodeChange, RunAfterStep, RunStep, SetExpiry,
    StepOutcome, note,
};
use crate::record::{BelowTier, KeptData, PodRowId, RunChange, RunExpiry, RunRecord};

impl AgentStore for Sqlite {
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
        self.write(NoteBalance { id, below }).await
    }

    async fn get(&self, id: RunId) -> Result<Option<RunRecord>, StoreError> {
        const NAME: &str = "read a run";
        self.read(NAME, move |conn| find(conn, NAME, id)).await
    }

    async fn last_run(&self, id: PodId) -> Result<Option<RunRecord>, StoreError> {
        const NAME: &str = "read a POD";
        self.read(NAME, move |conn| pod::last_run(conn, NAME, &id)).await
    }

    async fn of(&self, wallet: Wallet, limit: u32) -> Result<Vec<RunRecord>, StoreError> {
        self.read("list a wallet's PODs", move |conn| of(conn, &wallet, limit.min(MAX_LISTED))).await
    }

    async fn live_of(&self, wallet: Wallet) -> Result<Vec<RunRecord>, StoreError> {
        const NAME: &str = "read a wallet's live runs";
        self.read(NAME, move |conn| live_of(conn, NAME, &wallet)).await
    }

    async fn live(&self) -> Result<Vec<RunRecord>, StoreError> {
        const NAME: &str = "list the live runs";
        self.read(NAME, |conn| many(conn, NAME, select_runs!("WHERE ended_at IS NULL ORDER BY runs.id"), ())).await
    }

    async fn changes(&self, id: PodId, after: u64) -> Result<Vec<RunChange>, StoreError> {
        self.read("read a POD's changes", move |conn| changes(conn, id, after)).await
    }
}

impl Command for RunStep {
    type Answer = StepOutcome;
    const NAME: &'static str = "take a step of an agent";

    fn is_essential(&self) -> bool {
        true
    }

    fn apply(&self, tx: &Tx<'_>) -> Result<StepOutcome, StoreError> {
        let before = tx.cache.find(tx.conn, Self::NAME, self.id)?.ok_or(StoreError::Unknown(self.id))?;
        taken(tx, self.take(before)?, self.now)
    }
}

impl Command for Expire {
    type Answer = StepOutcome;
    const NAME: &'static str = "stop a run whose time is over";

    fn is_essential(&self) -> bool {
        true
    }

    fn apply(&self, tx: &Tx<'_>) -> Result<StepOutcome, StoreError> {
        let before = tx.cache.find(tx.conn, Self::NAME, self.id)?.ok_or(StoreError::Unknown(self.id))?;
        taken(tx, self.take(before)?, self.now)
    }
}

/// Writes what a step has made of a run, and tells it.
fn taken(tx: &Tx<'_>, after: RunAfterStep, now: UnixMillis) -> Result<StepOutcome, StoreError> {
    let (record, actions, change, removes) = match after {
        RunAfterStep::Same(advanced) => return Ok(advanced),
        RunAfterStep::New { record, actions, change, removes } => (record, actions, change, removes),
    };
    write(tx, &record).map_err(|error| StoreError::sql(RunStep::NAME, error))?;
    if let Some(change) = change {
        keep_change(tx.conn, record.pod_key, &change).map_err(|error| StoreError::sql(RunStep::NAME, error))?;
        tx.announce(record.pod, change);
    }
    if removes {
        pod::remove(tx, &record, now)?;
    }
    Ok(StepOutcome { record, actions, change })
}

impl Command for SetExpiry {
    type Answer = Option<RunRecord>;
    const NAME: &'static str = "set when a run is stopped";

    fn apply(&self, tx: &Tx<'_>) -> Result<Option<RunRecord>, StoreError> {
        let before = tx.cache.find(tx.conn, Self::NAME, self.id)?.ok_or(StoreError::Unknown(self.id))?;
        let Some(record) = self.take(before) else { return Ok(None) };
        tx.cache.forget(self.id);
        tx.conn
            .prepare_cached("UPDATE runs SET expires_at = ?2, expires_counted_ms = ?3 WHERE id = ?1")
            .and_then(|mut update| {
                let (at, counted) = (record.expiry.map(|set| set.at.0), record.expiry.map(|set| set.counted_ms));
                update.execute((id_column(self.id), at.map(integer), counted.map(integer)))
            })
            .map_err(|error| StoreError::sql(Self::NAME, error))?;
        tx.cache.keep(&record);
        Ok(Some(record))
    }
}

/// Writes what a step can change. The bill is not among it: only marks change it.
fn write(tx: &Tx<'_>, record: &RunRecord) -> rusqlite::Result<()> {
    let (state, reason) = state_columns(record.state);
    // Should one of the two statements fail, what is remembered may be neither.
    tx.cache.forget(record.id);
    tx.conn
        .prepare_cached(
            "UPDATE runs SET state = ?2, reason = ?3, generation = ?4, changes = ?5, node = ?6, runtime = ?7, \
         restarts = ?8, was_ready = ?9 WHERE id = ?1",
        )?
        .execute(params![
            id_column(record.id),
            state,
            reason,
            integer(record.generation.0),
            integer(record.changes),
            record.node,
            record.runtime,
            record.restarts,
            record.was_ready,
        ])?;
    record.ended_at.map_or(Ok(()), |at| end(tx.conn, record, at))?;
    tx.cache.keep(record);
    Ok(())
}

/// Frees the wallet. Apart from the other columns, because naming this one has
/// SQLite write every index of live runs anew, changed or not.
fn end(conn: &Connection, record: &RunRecord, at: UnixMillis) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE runs SET ended_at = ?2 WHERE id = ?1")?
        .execute((id_column(record.id), integer(at.0)))?;
    pod::rest(conn, record, at)
}

/// Adds to a POD's history.
pub(crate) fn keep_change(conn: &Connection, pod: PodRowId, change: &RunChange) -> rusqlite::Result<()> {
    let key = pod.0.cast_signed();
    let (name, reason) = state_columns(change.state);
    conn.prepare_cached("INSERT INTO changes (pod, seq, at, state, reason) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![key, integer(change.seq), integer(change.at.0), name, reason])?;
    if let Some(oldest) = change.seq.checked_sub(MAX_CHANGES) {
        conn.prepare_cached("DELETE FROM changes WHERE pod = ?1 AND seq <= ?2")?.execute((key, integer(oldest)))?;
    }
    Ok(())
}

pub(crate) struct Observe {
    pub(crate) id: RunId,
    pub(crate) seen: AgentObservation,
}

impl Command for Observe {
    type Answer = RunRecord;
    const NAME: &'static str = "note what a node said";

    fn apply(&self, tx: &Tx<'_>) -> Result<RunRecord, StoreError> {
        let before = tx.cache.find(tx.conn, Self::NAME, self.id)?.ok_or(StoreError::Unknown(self.id))?;
        let mut record = before.clone();
        note(&mut record, &self.seen);
        if record != before {
            write(tx, &record).map_err(|error| StoreError::sql(Self::NAME, error))?;
        }
        Ok(record)
    }
}

pub(crate) struct NoteBalance {
    pub(crate) id: RunId,
    pub(crate) below: BelowTier,
}

impl Command for NoteBalance {
    type Answer = ();
    const NAME: &'static str = "note a balance";

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let sql = |error| StoreError::sql(Self::NAME, error);
        tx.cache.forget(self.id);
        let known = tx
            .conn
            .prepare_cached("UPDATE runs SET below_readings = ?2, below_since = ?3 WHERE id = ?1")
            .map_err(sql)?
            .execute((id_column(self.id), self.below.readings, self.below.since.map(|at| integer(at.0))))
            .map_err(sql)?;
        if known == 0 { Err(StoreError::Unknown(self.id)) } else { Ok(()) }
    }
}

/// The changes of a POD after this one, oldest first.
pub(crate) fn changes(conn: &Connection, id: PodId, after: u64) -> Result<Vec<RunChange>, StoreError> {
    const NAME: &str = "read a POD's changes";
    let record = pod::last_run(conn, NAME, &id)?.ok_or(StoreError::NoPod(id))?;
    let first = (after == 0 && record.changes <= MAX_CHANGES).then(|| RunChange::first(record.created_at));
    let sql = |error| StoreError::sql(NAME, error);
    let mut statement = conn
        .prepare_cached("SELECT seq, at, state, reason FROM changes WHERE pod = ?1 AND seq > ?2 ORDER BY seq")
        .map_err(sql)?;
    let rows = statement
        .query_map((record.pod_key.0.cast_signed(), integer(after)), |row| {
            let (seq, at): (i64, i64) = (row.get(0)?, row.get(1)?);
            let (state, reason): (String, Option<String>) = (row.get(2)?, row.get(3)?);
            Ok(state_of(&state, reason.as_deref()).map(|state| RunChange { seq: natural(seq), at: millis(at), state }))
        })
        .map_err(sql)?;
    first.map(Ok).into_iter().chain(rows.map(|row| row.map_err(sql)?)).collect()
}

fn of(conn: &Connection, wallet: &Wallet, limit: u32) -> Result<Vec<RunRecord>, StoreError> {
    const NAME: &str = "list a wallet's PODs";
    let mut runs = live_of(conn, NAME, wallet)?;
    runs.extend(pod::stopped(conn, NAME, wallet, limit)?);
    runs.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(runs)
}
