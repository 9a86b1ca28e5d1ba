//! Steps of a run's life, taken in the transaction, and their history.

use domain::{Action, Event, PodId, RunId, State, UnixMillis, step};
use rusqlite::{Connection, params};
use wire::public::StateChange;

use crate::codec::{change, first_change, id_column, integer, millis, natural, state_columns, state_of};
use crate::error::StoreError;
use crate::pod;
use crate::record::{Below, KeptData, PodKey, Record};
use crate::row::ended;
use crate::writer::{Command, Tx};

/// Changes of state kept of one POD: a flapping one forgets its oldest.
const MAX_CHANGES: u64 = 1000;

/// What a node said of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What isolates it.
    pub runtime: String,
    /// How often it was started again.
    pub restarts: u32,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advanced {
    /// The agent after it.
    pub record: Record,
    /// What has to be done because of it.
    pub actions: &'static [Action],
    /// The change it made, if it made one.
    pub change: Option<StateChange>,
}

/// One step, with what became known by it.
pub(crate) struct Advance {
    pub(crate) id: RunId,
    pub(crate) event: Event,
    pub(crate) node: Option<String>,
    pub(crate) seen: Option<Observation>,
    /// What its node keeps of its POD's data, now that it has ended.
    pub(crate) kept: Option<KeptData>,
    pub(crate) now: UnixMillis,
}

impl Command for Advance {
    type Answer = Advanced;
    const NAME: &'static str = "take a step of an agent";

    fn is_essential(&self) -> bool {
        true
    }

    fn apply(&self, tx: &Tx<'_>) -> Result<Advanced, StoreError> {
        let before = tx.rows.find(tx.conn, Self::NAME, self.id)?.ok_or(StoreError::Unknown(self.id))?;
        if self.forgets_a_removal(before.state) {
            return Ok(Advanced { record: before, actions: &[], change: None });
        }
        let (state, actions) = step(before.state, self.event)?;
        let record = self.after(&before, state);
        if record == before {
            return Ok(Advanced { record, actions, change: None });
        }
        write(tx, &record).map_err(|error| StoreError::sql(Self::NAME, error))?;
        let change = (record.state != before.state).then(|| change(record.changes, self.now, state));
        if let Some(change) = change {
            keep_change(tx.conn, record.pod_key, &change, state).map_err(|error| StoreError::sql(Self::NAME, error))?;
            tx.announce(record.pod, change);
        }
        let ended = before.state.is_live() && !record.state.is_live();
        if ended && record.state.end().is_some_and(domain::End::erases_data) {
            pod::remove(tx, &record, self.now)?;
        }
        Ok(Advanced { record, actions, change })
    }
}

impl Advance {
    /// Whether a run would end with data kept, whose holder has said that it goes: that
    /// word came while it was set aside.
    fn forgets_a_removal(&self, state: State) -> bool {
        let removed = matches!(state, State::Stopping(end) if end.erases_data());
        self.event == Event::Gone && self.kept.is_some() && removed
    }

    fn after(&self, before: &Record, state: State) -> Record {
        let mut record = before.clone();
        record.state = state;
        record.was_ready |= state == State::Ready;
        if state != before.state {
            record.changes += 1;
        }
        if matches!(state, State::Stopping(_)) && !matches!(before.state, State::Stopping(_)) {
            record.generation = record.generation.next();
        }
        if before.state.is_live() && !state.is_live() {
            record.ended_at = Some(self.now);
            record.meter = ended(record.meter, record.ended_at);
            record.data = self.kept;
            record.data_node = self.kept.and(record.node.clone().or_else(|| before.data_node.clone()));
        }
        if let Some(node) = &self.node {
            record.node = Some(node.clone());
        }
        if let Some(seen) = &self.seen {
            note(&mut record, seen);
        }
        record
    }
}

fn note(record: &mut Record, seen: &Observation) {
    if record.runtime.as_deref() != Some(&seen.runtime) {
        record.runtime = Some(seen.runtime.clone());
    }
    record.restarts = record.restarts.max(seen.restarts);
}

/// Writes what a step can change. The bill is not among it: only marks change it.
fn write(tx: &Tx<'_>, record: &Record) -> rusqlite::Result<()> {
    let (state, reason) = state_columns(record.state);
    // Should one of the two statements fail, what is remembered may be neither.
    tx.rows.forget(record.id);
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
    tx.rows.keep(record);
    Ok(())
}

/// Frees the wallet. Apart from the other columns, because naming this one has
/// SQLite write every index of live runs anew, changed or not.
fn end(conn: &Connection, record: &Record, at: UnixMillis) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE runs SET ended_at = ?2 WHERE id = ?1")?
        .execute((id_column(record.id), integer(at.0)))?;
    pod::rest(conn, record, at)
}

/// Adds to a POD's history.
pub(crate) fn keep_change(conn: &Connection, pod: PodKey, change: &StateChange, state: State) -> rusqlite::Result<()> {
    let key = pod.0.cast_signed();
    let (name, reason) = state_columns(state);
    conn.prepare_cached("INSERT INTO changes (pod, seq, at, state, reason) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![key, integer(change.seq), integer(change.at.0), name, reason])?;
    if let Some(oldest) = change.seq.checked_sub(MAX_CHANGES) {
        conn.prepare_cached("DELETE FROM changes WHERE pod = ?1 AND seq <= ?2")?.execute((key, integer(oldest)))?;
    }
    Ok(())
}

pub(crate) struct Observe {
    pub(crate) id: RunId,
    pub(crate) seen: Observation,
}

impl Command for Observe {
    type Answer = Record;
    const NAME: &'static str = "note what a node said";

    fn apply(&self, tx: &Tx<'_>) -> Result<Record, StoreError> {
        let before = tx.rows.find(tx.conn, Self::NAME, self.id)?.ok_or(StoreError::Unknown(self.id))?;
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
    pub(crate) below: Below,
}

impl Command for NoteBalance {
    type Answer = ();
    const NAME: &'static str = "note a balance";

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let sql = |error| StoreError::sql(Self::NAME, error);
        tx.rows.forget(self.id);
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
pub(crate) fn changes(conn: &Connection, id: PodId, after: u64) -> Result<Vec<StateChange>, StoreError> {
    const NAME: &str = "read a POD's changes";
    let record = pod::last_run(conn, NAME, &id)?.ok_or(StoreError::NoPod(id))?;
    let first = (after == 0 && record.changes <= MAX_CHANGES).then(|| first_change(record.created_at));
    let sql = |error| StoreError::sql(NAME, error);
    let mut statement = conn
        .prepare_cached("SELECT seq, at, state, reason FROM changes WHERE pod = ?1 AND seq > ?2 ORDER BY seq")
        .map_err(sql)?;
    let rows = statement
        .query_map((record.pod_key.0.cast_signed(), integer(after)), |row| {
            let (seq, at): (i64, i64) = (row.get(0)?, row.get(1)?);
            let (state, reason): (String, Option<String>) = (row.get(2)?, row.get(3)?);
            Ok(state_of(&state, reason.as_deref()).map(|state| change(natural(seq), millis(at), state)))
        })
        .map_err(sql)?;
    first.map(Ok).into_iter().chain(rows.map(|row| row.map_err(sql)?)).collect()
}
