//! From what the nodes and the store say to the steps that are due. Pure.
//!
//! The nodes were asked *before* the store was read. So a sandbox whose agent is
//! not live in the store has outlived it, and is removed: it cannot be one whose
//! record is only about to be written, for a record is written first.

use std::collections::{BTreeSet, HashMap, HashSet};

use domain::{Event, FailReason, NodeShortage, PodId, RunId, State, UnixMillis};
use store::{AgentObservation, GatewayEpoch, RunRecord};
use wire::v1::node::{Sandbox, SandboxPhase};

/// What one node listed.
#[derive(Clone, Debug)]
pub(crate) struct NodeReport {
    pub(crate) name: String,
    /// `None`: it did not answer.
    pub(crate) sandboxes: Option<Vec<Sandbox>>,
    /// Those it cannot read: neither here nor gone.
    pub(crate) quarantined: HashSet<RunId>,
}

/// Since when a node says that it does not know a running agent.
pub(crate) type MissingSince = HashMap<RunId, UnixMillis>;

/// When an agent's node was last seen waiting for what it lacks.
pub(crate) type LastWaiting = HashMap<RunId, UnixMillis>;

/// Everything a plan rests on.
#[derive(Debug)]
pub(crate) struct Snapshot<'a> {
    pub(crate) nodes: &'a [NodeReport],
    pub(crate) live: &'a [RunRecord],
    /// Agents that a task of this process was spawning at some moment since the
    /// nodes were asked.
    pub(crate) inflight: &'a HashSet<RunId>,
    pub(crate) missing: &'a MissingSince,
    pub(crate) waiting: &'a LastWaiting,
    pub(crate) epoch: GatewayEpoch,
    /// Other runs of the gateway that are there: what they reserved they see to.
    pub(crate) others: &'a BTreeSet<GatewayEpoch>,
    pub(crate) started_at: UnixMillis,
    /// The time that was counted; `None` where no agent has a time to live, or it is not known.
    pub(crate) counted_ms: Option<u64>,
    pub(crate) now: UnixMillis,
}

/// How long a plan waits before it acts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GracePeriods {
    /// Between a reservation and the task that spawns it.
    pub(crate) reserve_ms: u64,
    /// For what an earlier process may have sent just before it died.
    pub(crate) settle_ms: u64,
    /// For the first readiness, where no task waits for it.
    pub(crate) boot_ms: u64,
    /// For a running agent that its node does not know.
    pub(crate) lost_ms: u64,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A sandbox without a live agent on this node: it goes.
    Remove { node: String, id: RunId, pod: PodId },
    /// An agent that is to end: take it down and end its record.
    TearDown { id: RunId },
    /// An agent that cannot go on.
    Fail { id: RunId, reason: FailReason },
    /// An agent whose time to live was over when so much time was counted.
    Expire { id: RunId, counted_ms: u64 },
    /// An agent that is not as it was written down.
    Observe { id: RunId, event: Option<Event>, seen: AgentObservation },
}

/// What is due, and what to remember until the next snapshot.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) missing: MissingSince,
    pub(crate) waiting: LastWaiting,
}

/// Plans.
pub(crate) fn plan(snapshot: &Snapshot<'_>, grace: GracePeriods) -> Plan {
    let live: HashMap<RunId, &RunRecord> = snapshot.live.iter().map(|record| (record.id, record)).collect();
    let answered: HashMap<&str, (HashMap<RunId, &Sandbox>, &HashSet<RunId>)> = snapshot
        .nodes
        .iter()
        .filter_map(|node| Some((node.name.as_str(), (by_id(node.sandboxes.as_deref()?), &node.quarantined))))
        .collect();
    let mut plan = Plan::default();
    for node in snapshot.nodes {
        for sandbox in node.sandboxes.iter().flatten() {
            if is_orphan(snapshot, &node.name, sandbox, live.get(&sandbox.id).copied()) {
                plan.steps.push(Step::Remove { node: node.name.clone(), id: sandbox.id, pod: sandbox.pod });
            }
        }
    }
    for record in snapshot.live {
        let known = record.node.as_deref().and_then(|node| answered.get(node));
        let observed = match known {
            None => Observed::Unknown,
            Some((_, quarantined)) if quarantined.contains(&record.id) => Observed::Quarantined,
            Some((sandboxes, _)) => {
                sandboxes.get(&record.id).map_or(Observed::Absent, |sandbox| Observed::Here(sandbox))
            }
        };
        plan_one(snapshot, grace, record, observed, &mut plan);
    }
    plan
}

/// What is known of an agent on its node.
#[derive(Clone, Copy)]
enum Observed<'a> {
    Unknown,
    /// The node cannot read its own record: until somebody has repaired it, nobody can
    /// say how it is.
    Quarantined,
    Absent,
    Here(&'a Sandbox),
}

fn by_id(sandboxes: &[Sandbox]) -> HashMap<RunId, &Sandbox> {
    sandboxes.iter().map(|sandbox| (sandbox.id, sandbox)).collect()
}

fn is_orphan(snapshot: &Snapshot<'_>, node: &str, sandbox: &Sandbox, live: Option<&RunRecord>) -> bool {
    match live {
        None => true,
        Some(record) => record.node.as_deref() != Some(node) && !snapshot.inflight.contains(&sandbox.id),
    }
}

fn plan_one(snapshot: &Snapshot<'_>, grace: GracePeriods, record: &RunRecord, observed: Observed<'_>, plan: &mut Plan) {
    let id = record.id;
    if matches!(record.state, State::Stopping(_)) {
        plan.steps.push(Step::TearDown { id });
        return;
    }
    if let Some(counted_ms) = snapshot.counted_ms.filter(|counted_ms| record.is_expired(*counted_ms)) {
        plan.steps.push(Step::Expire { id, counted_ms });
        return;
    }
    if snapshot.inflight.contains(&id) {
        return;
    }
    let waits =
        matches!(observed, Observed::Here(Sandbox { phase: SandboxPhase::Waiting { .. }, .. }) | Observed::Quarantined);
    let waited = if waits { Some(snapshot.now) } else { snapshot.waiting.get(&id).copied() };
    plan.waiting.extend(waited.map(|at| (id, at)));
    let step = match (record.state, observed) {
        (State::Reserved, _) => reserved(snapshot, grace, record),
        (State::Placed | State::Booting | State::Waiting(_) | State::Ready, Observed::Unknown) => {
            // Not seen is not missing: the count goes on when the node answers.
            plan.missing.extend(snapshot.missing.get_key_value(&id));
            None
        }
        (State::Placed | State::Booting | State::Waiting(_) | State::Ready, Observed::Quarantined) => {
            quarantined(record)
        }
        (State::Placed | State::Booting | State::Waiting(_) | State::Ready, Observed::Here(sandbox)) => {
            here(snapshot, grace, record, sandbox)
        }
        (State::Placed, Observed::Absent) => placed_but_absent(snapshot, grace, record),
        (State::Booting | State::Waiting(_) | State::Ready, Observed::Absent) => {
            let since = snapshot.missing.get(&id).copied().unwrap_or(snapshot.now);
            plan.missing.insert(id, since);
            let lost = snapshot.now.since(since) >= grace.lost_ms;
            lost.then_some(Step::Fail { id, reason: FailReason::Lost })
        }
        // Dealt with above, or not live.
        (State::Stopping(_) | State::Stopped(_) | State::Failed(_), _) => None,
    };
    plan.steps.extend(step);
}

/// Nobody spawns it: its process is gone, or never came to it.
fn reserved(snapshot: &Snapshot<'_>, grace: GracePeriods, record: &RunRecord) -> Option<Step> {
    if snapshot.others.contains(&record.epoch) {
        return None;
    }
    let given_up = record.epoch != snapshot.epoch || snapshot.now.since(record.spawned_at) >= grace.reserve_ms;
    given_up.then_some(Step::Fail { id: record.id, reason: FailReason::Interrupted })
}

/// The node was to be told, and does not know of it. What an earlier process
/// sent may still be under way.
fn placed_but_absent(snapshot: &Snapshot<'_>, grace: GracePeriods, record: &RunRecord) -> Option<Step> {
    if snapshot.others.contains(&record.epoch) {
        return None;
    }
    let settled = record.epoch == snapshot.epoch || snapshot.now.since(snapshot.started_at) >= grace.settle_ms;
    settled.then_some(Step::Fail { id: record.id, reason: FailReason::Interrupted })
}

/// It waits for the repair; what else is known of it stays.
fn quarantined(record: &RunRecord) -> Option<Step> {
    let (id, wanted) = (record.id, State::Waiting(NodeShortage::Ledger));
    let runtime = record.runtime.clone().unwrap_or_default();
    let seen = AgentObservation { runtime, restarts: record.restarts };
    (record.state != wanted).then_some(Step::Observe { id, event: Some(Event::Waiting(NodeShortage::Ledger)), seen })
}

fn here(snapshot: &Snapshot<'_>, grace: GracePeriods, record: &RunRecord, sandbox: &Sandbox) -> Option<Step> {
    let id = record.id;
    let (wanted, event) = match sandbox.phase {
        SandboxPhase::Failed { reason } => return Some(Step::Fail { id, reason }),
        // Somebody else's doing; what comes of it is seen when it is gone.
        SandboxPhase::Stopping => return None,
        SandboxPhase::Ready => (State::Ready, Event::Ready),
        // However long it takes.
        SandboxPhase::Waiting { lacks, .. } => (State::Waiting(lacks), Event::Waiting(lacks)),
        SandboxPhase::Booting | SandboxPhase::Backoff { .. } if overdue(snapshot, grace, record) => {
            return Some(Step::Fail { id, reason: FailReason::BootTimeout });
        }
        SandboxPhase::Booting | SandboxPhase::Backoff { .. } => (State::Booting, Event::Booting),
    };
    let event = (record.state != wanted).then_some(event);
    let seen = AgentObservation { runtime: sandbox.runtime.as_str().to_owned(), restarts: sandbox.restarts };
    let known = record.runtime.as_deref() == Some(&seen.runtime) && record.restarts >= seen.restarts;
    (event.is_some() || !known).then_some(Step::Observe { id, event, seen })
}

/// Never ready, and no task of this process waits for it: an earlier one did.
fn overdue(snapshot: &Snapshot<'_>, grace: GracePeriods, record: &RunRecord) -> bool {
    // What the node lacked meanwhile is not held against the agent.
    let waited = snapshot.waiting.get(&record.id).copied().unwrap_or_default();
    let asked = record.spawned_at.max(snapshot.started_at).max(waited);
    !record.was_ready && snapshot.now.since(asked) >= grace.boot_ms
}

#[cfg(test)]
mod tests;
