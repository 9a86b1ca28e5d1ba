//! Steps of a run's life, and their history.

use domain::{Event, FailReason, PodId, RunId, State, StepEffect, StopReason, UnixMillis, Wallet, step};

use crate::codec::ended;
use crate::error::StoreError;
use crate::port::port;
use crate::record::{BelowTier, KeptData, RunChange, RunExpiry, RunRecord};

/// Changes of state kept of one POD: a flapping one forgets its oldest.
pub(crate) const MAX_CHANGES: u64 = 1000;

/// What a node said of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentObservation {
    /// What isolates it.
    pub runtime: String,
    /// How often it was started again.
    pub restarts: u32,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepOutcome {
    /// The agent after it.
    pub record: RunRecord,
    /// What has to be done because of it.
    pub actions: &'static [StepEffect],
    /// The change it made, if it made one.
    pub change: Option<RunChange>,
}

port! {
    /// PODs, their runs, and the steps of these.
    AgentStore {
        /// Takes one step of a run's life; tells subscribers when it is durable.
        /// [`StoreError::Unknown`], [`StoreError::Refused`].
        fn advance(&self, id: RunId, event: Event, now: UnixMillis) -> StepOutcome;

        /// Stops a run whose time to live is over, once so much time was counted; any other one
        /// stays as it is. [`StoreError::Unknown`].
        fn expire(&self, id: RunId, counted_ms: u64, now: UnixMillis) -> StepOutcome;

        /// Sets anew when a run is stopped, or that it is not; `None` of one that is ending or
        /// has ended. [`StoreError::Unknown`].
        fn set_expiry(&self, id: RunId, expiry: Option<RunExpiry>) -> Option<RunRecord>;

        /// Ends a run of which its node holds nothing any more but what it keeps of the
        /// POD's data. A run that ends with its data removed takes its POD with it.
        fn end(&self, id: RunId, kept: Option<KeptData>, now: UnixMillis) -> StepOutcome;

        /// Forgets all of a POD, its key with it, but what its wallet used and that its
        /// id was its holder's; `false` while a run of it is live. One that is not there is removed
        /// already.
        fn remove_pod(&self, pod: PodId, now: UnixMillis) -> bool;

        /// Writes down the node that is about to be told of a reserved run.
        fn place(&self, id: RunId, node: &str, now: UnixMillis) -> StepOutcome;

        /// Fails a run that no node has: each that was told of it has refused it, and the
        /// one that was written down last was not told.
        fn abandon(&self, id: RunId, reason: FailReason, now: UnixMillis) -> StepOutcome;

        /// Takes a step together with what the node said.
        fn settle(&self, id: RunId, event: Event, seen: AgentObservation, now: UnixMillis) -> StepOutcome;

        /// Notes what the node said, with no step.
        fn observe(&self, id: RunId, seen: AgentObservation) -> RunRecord;

        /// Notes how long the holder's balance has been below the tier.
        fn note_balance(&self, id: RunId, below: BelowTier) -> ();

        /// A run.
        fn get(&self, id: RunId) -> Option<RunRecord>;

        /// The last run of a POD; `None` of one that is not there or was removed.
        fn last_run(&self, id: PodId) -> Option<RunRecord>;

        /// The last runs of a wallet's PODs: those that are live, the newest run first,
        /// then those that do not run, the newest POD first.
        fn of(&self, wallet: Wallet, limit: u32) -> Vec<RunRecord>;

        /// The live runs of a wallet, newest first.
        fn live_of(&self, wallet: Wallet) -> Vec<RunRecord>;

        /// All live runs, oldest first.
        fn live(&self) -> Vec<RunRecord>;

        /// The changes of a POD's state after this number, over all its runs, oldest
        /// first. [`StoreError::NoPod`].
        fn changes(&self, id: PodId, after: u64) -> Vec<RunChange>;
    }
}

/// PODs in one list at most.
pub(crate) const MAX_LISTED: u32 = 1000;

/// What a step does to the node that is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeChange {
    /// Nothing.
    Keep,
    /// This one is about to be told.
    Set(String),
    /// None has the run.
    Clear,
}

/// One step, with what became known by it.
pub(crate) struct RunStep {
    pub(crate) id: RunId,
    pub(crate) event: Event,
    pub(crate) node: NodeChange,
    pub(crate) seen: Option<AgentObservation>,
    /// What its node keeps of its POD's data, now that it has ended.
    pub(crate) kept: Option<KeptData>,
    pub(crate) now: UnixMillis,
}

/// What a step makes of a run.
pub(crate) enum RunAfterStep {
    /// Nothing.
    Same(StepOutcome),
    /// This.
    New {
        /// The run after it.
        record: RunRecord,
        /// What has to be done because of it.
        actions: &'static [StepEffect],
        /// The change of state, if it is one.
        change: Option<RunChange>,
        /// Whether the POD goes with it.
        removes: bool,
    },
}

impl RunStep {
    /// One step of a run's life.
    pub(crate) const fn step(id: RunId, event: Event, now: UnixMillis) -> Self {
        Self { id, event, node: NodeChange::Keep, seen: None, kept: None, now }
    }

    /// What the step makes of the run as it is.
    pub(crate) fn take(&self, before: RunRecord) -> Result<RunAfterStep, StoreError> {
        if self.forgets_a_removal(before.state) {
            return Ok(RunAfterStep::Same(StepOutcome { record: before, actions: &[], change: None }));
        }
        let (state, actions) = step(before.state, self.event)?;
        let record = self.after(&before, state);
        if record == before {
            return Ok(RunAfterStep::Same(StepOutcome { record, actions, change: None }));
        }
        let change = (state != before.state).then_some(RunChange { seq: record.changes, at: self.now, state });
        let ended = before.state.is_live() && !state.is_live();
        let removes = ended && state.end().is_some_and(domain::EndReason::erases_data);
        Ok(RunAfterStep::New { record, actions, change, removes })
    }

    /// Whether a run would end with data kept, whose holder has said that it goes: that
    /// word came while it was set aside.
    fn forgets_a_removal(&self, state: State) -> bool {
        let removed = matches!(state, State::Stopping(end) if end.erases_data());
        self.event == Event::Gone && self.kept.is_some() && removed
    }

    fn after(&self, before: &RunRecord, state: State) -> RunRecord {
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
        match &self.node {
            NodeChange::Set(node) => record.node = Some(node.clone()),
            NodeChange::Clear if state.is_live() => record.node = None,
            // Of one that has ended it stays what happened.
            NodeChange::Keep | NodeChange::Clear => {}
        }
        if let Some(seen) = &self.seen {
            note(&mut record, seen);
        }
        record
    }
}

/// Stops a run if its time to live is over.
pub(crate) struct Expire {
    pub(crate) id: RunId,
    pub(crate) counted_ms: u64,
    pub(crate) now: UnixMillis,
}

impl Expire {
    /// What is due of the run as it is: what its holder's own stop would do.
    pub(crate) fn take(&self, before: RunRecord) -> Result<RunAfterStep, StoreError> {
        let ends = matches!(before.state, State::Stopping(_)) || !before.state.is_live();
        if ends || !before.is_expired(self.counted_ms) {
            return Ok(RunAfterStep::Same(StepOutcome { record: before, actions: &[], change: None }));
        }
        let reason = if before.ephemeral { StopReason::Removed } else { StopReason::Expired };
        RunStep::step(self.id, Event::Stop(reason), self.now).take(before)
    }
}

/// Sets when a run is stopped.
pub(crate) struct SetExpiry {
    pub(crate) id: RunId,
    pub(crate) expiry: Option<RunExpiry>,
}

impl SetExpiry {
    /// The run with it; `None` of one that is ending or has ended.
    pub(crate) fn take(&self, before: RunRecord) -> Option<RunRecord> {
        let runs = before.state.is_live() && !matches!(before.state, State::Stopping(_));
        runs.then_some(RunRecord { expiry: self.expiry, ..before })
    }
}

/// Adds what a node said.
pub(crate) fn note(record: &mut RunRecord, seen: &AgentObservation) {
    if record.runtime.as_deref() != Some(&seen.runtime) {
        record.runtime = Some(seen.runtime.clone());
    }
    record.restarts = record.restarts.max(seen.restarts);
}
