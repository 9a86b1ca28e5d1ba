//! Steps of an agent's life, taken in the transaction, and their history.

use domain::{Action, AgentId, Event, State, UnixMillis, step};
use rusqlite::{Connection, params};
use wire::public::StateChange;

use crate::codec::{change, first_change, id_column, integer, millis, natural, state_columns, state_of};
use crate::error::StoreError;
use crate::record::{Below, Record};
use crate::row::{ended, find};
use crate::writer::{Command, Tx};

/// Changes of state kept of one agent: a flapping one forgets its oldest.
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
    pub(crate) id: AgentId,
    pub(crate) event: Event,
    pub(crate) node: Option<String>,
    pub(crate) seen: Option<Observation>,
    /// Until when its node keeps its disks, now that it has ended.
    pub(crate) kept_until: Option<UnixMillis>,
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
        if self.forgets_the_owners_word(before.state) {
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
            keep(tx.conn, self.id, &change, state).map_err(|error| StoreError::sql(Self::NAME, error))?;
            tx.announce(self.id, change);
        }
        Ok(Advanced { record, actions, change })
    }
}

impl Advance {
    /// Whether an agent would end with its disks kept, whose owner has said that they
    /// go: that word came while they were set aside.
    fn forgets_the_owners_word(&self, state: State) -> bool {
        let owners = matches!(state, State::Stopping(end) if end.is_owners_word());
        self.event == Event::Gone && self.kept_until.is_some() && owners
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
            record.data_kept_until = self.kept_until;
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
            "UPDATE agents SET state = ?2, reason = ?3, generation = ?4, changes = ?5, node = ?6, runtime = ?7, \
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
/// SQLite write every index of live agents anew, changed or not.
fn end(conn: &Connection, record: &Record, at: UnixMillis) -> rusqlite::Result<()> {
    let mut update = conn.prepare_cached("UPDATE agents SET ended_at = ?2, data_kept_until = ?3 WHERE id = ?1")?;
    let kept_until = record.data_kept_until.map(|until| integer(until.0));
    update.execute((id_column(record.id), integer(at.0), kept_until)).map(drop)
}

fn keep(conn: &Connection, id: AgentId, change: &StateChange, state: State) -> rusqlite::Result<()> {
    let (name, reason) = state_columns(state);
    conn.prepare_cached("INSERT INTO changes (agent, seq, at, state, reason) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![id_column(id), integer(change.seq), integer(change.at.0), name, reason])?;
    if let Some(oldest) = change.seq.checked_sub(MAX_CHANGES) {
        conn.prepare_cached("DELETE FROM changes WHERE agent = ?1 AND seq <= ?2")?
            .execute((id_column(id), integer(oldest)))?;
    }
    Ok(())
}

pub(crate) struct Observe {
    pub(crate) id: AgentId,
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

pub(crate) struct NoteErased {
    pub(crate) id: AgentId,
}

impl Command for NoteErased {
    type Answer = ();
    const NAME: &'static str = "note that an agent's disks are erased";

    fn is_essential(&self) -> bool {
        true
    }

    fn apply(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        tx.rows.forget(self.id);
        let mut update = tx
            .conn
            .prepare_cached("UPDATE agents SET data_kept_until = NULL WHERE id = ?1")
            .map_err(|error| StoreError::sql(Self::NAME, error))?;
        update.execute((id_column(self.id),)).map(drop).map_err(|error| StoreError::sql(Self::NAME, error))
    }
}

pub(crate) struct NoteBalance {
    pub(crate) id: AgentId,
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
            .prepare_cached("UPDATE agents SET below_readings = ?2, below_since = ?3 WHERE id = ?1")
            .map_err(sql)?
            .execute((id_column(self.id), self.below.readings, self.below.since.map(|at| integer(at.0))))
            .map_err(sql)?;
        if known == 0 { Err(StoreError::Unknown(self.id)) } else { Ok(()) }
    }
}

/// The changes of an agent after this one, oldest first.
pub(crate) fn changes(conn: &Connection, id: AgentId, after: u64) -> Result<Vec<StateChange>, StoreError> {
    const NAME: &str = "read an agent's changes";
    let record = find(conn, NAME, id)?.ok_or(StoreError::Unknown(id))?;
    let first = (after == 0 && record.changes <= MAX_CHANGES).then(|| first_change(record.spawned_at));
    let sql = |error| StoreError::sql(NAME, error);
    let mut statement = conn
        .prepare_cached("SELECT seq, at, state, reason FROM changes WHERE agent = ?1 AND seq > ?2 ORDER BY seq")
        .map_err(sql)?;
    let rows = statement
        .query_map((id_column(id), integer(after)), |row| {
            let (seq, at): (i64, i64) = (row.get(0)?, row.get(1)?);
            let (state, reason): (String, Option<String>) = (row.get(2)?, row.get(3)?);
            Ok(state_of(&state, reason.as_deref()).map(|state| change(natural(seq), millis(at), state)))
        })
        .map_err(sql)?;
    first.map(Ok).into_iter().chain(rows.map(|row| row.map_err(sql)?)).collect()
}
