//! From what the nodes and the store say to the steps that are due. Pure.
//!
//! The nodes were asked *before* the store was read. So a sandbox whose agent is
//! not live in the store has outlived it, and is removed: it cannot be one whose
//! record is only about to be written, for a record is written first.

use std::collections::{BTreeSet, HashMap, HashSet};

use domain::{Event, FailReason, PodId, RunId, State, UnixMillis, WaitReason};
use store::{Epoch, NodeObservation, RunRecord};
use wire::node::{Phase, Sandbox};

/// What one node said.
#[derive(Clone, Debug)]
pub(crate) struct NodeSaid {
    pub(crate) name: String,
    /// `None`: it did not answer.
    pub(crate) sandboxes: Option<Vec<Sandbox>>,
    /// Those it cannot read: neither here nor gone.
    pub(crate) quarantined: HashSet<RunId>,
}

/// Since when a node says that it does not know a running agent.
pub(crate) type Missing = HashMap<RunId, UnixMillis>;

/// When an agent's node was last seen waiting for what it lacks.
pub(crate) type Waited = HashMap<RunId, UnixMillis>;

/// Everything a plan rests on.
#[derive(Debug)]
pub(crate) struct Snapshot<'a> {
    pub(crate) nodes: &'a [NodeSaid],
    pub(crate) live: &'a [RunRecord],
    /// Agents that a task of this process was spawning at some moment since the
    /// nodes were asked.
    pub(crate) busy: &'a HashSet<RunId>,
    pub(crate) missing: &'a Missing,
    pub(crate) waited: &'a Waited,
    pub(crate) epoch: Epoch,
    /// Other runs of the gateway that are there: what they reserved they see to.
    pub(crate) others: &'a BTreeSet<Epoch>,
    pub(crate) started_at: UnixMillis,
    pub(crate) now: UnixMillis,
}

/// How patient a plan is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
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
    /// An agent that is not as it was written down.
    See { id: RunId, event: Option<Event>, seen: NodeObservation },
}

/// What is due, and what to remember until the next look.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) missing: Missing,
    pub(crate) waited: Waited,
}

/// Plans.
pub(crate) fn plan(look: &Snapshot<'_>, patience: Patience) -> Plan {
    let live: HashMap<RunId, &RunRecord> = look.live.iter().map(|record| (record.id, record)).collect();
    let answered: HashMap<&str, (HashMap<RunId, &Sandbox>, &HashSet<RunId>)> = look
        .nodes
        .iter()
        .filter_map(|node| Some((node.name.as_str(), (by_id(node.sandboxes.as_deref()?), &node.quarantined))))
        .collect();
    let mut plan = Plan::default();
    for node in look.nodes {
        for sandbox in node.sandboxes.iter().flatten() {
            if is_orphan(look, &node.name, sandbox, live.get(&sandbox.id).copied()) {
                plan.steps.push(Step::Remove { node: node.name.clone(), id: sandbox.id, pod: sandbox.pod });
            }
        }
    }
    for record in look.live {
        let known = record.node.as_deref().and_then(|node| answered.get(node));
        let truth = match known {
            None => Truth::Unknown,
            Some((_, quarantined)) if quarantined.contains(&record.id) => Truth::Quarantined,
            Some((sandboxes, _)) => sandboxes.get(&record.id).map_or(Truth::Absent, |sandbox| Truth::Here(sandbox)),
        };
        plan_one(look, patience, record, truth, &mut plan);
    }
    plan
}

/// What is known of an agent on its node.
#[derive(Clone, Copy)]
enum Truth<'a> {
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

fn is_orphan(look: &Snapshot<'_>, node: &str, sandbox: &Sandbox, live: Option<&RunRecord>) -> bool {
    match live {
        None => true,
        Some(record) => record.node.as_deref() != Some(node) && !look.busy.contains(&sandbox.id),
    }
}

fn plan_one(look: &Snapshot<'_>, patience: Patience, record: &RunRecord, truth: Truth<'_>, plan: &mut Plan) {
    let id = record.id;
    if matches!(record.state, State::Stopping(_)) {
        plan.steps.push(Step::TearDown { id });
        return;
    }
    if look.busy.contains(&id) {
        return;
    }
    let waits = matches!(truth, Truth::Here(Sandbox { phase: Phase::Waiting { .. }, .. }) | Truth::Quarantined);
    let waited = if waits { Some(look.now) } else { look.waited.get(&id).copied() };
    plan.waited.extend(waited.map(|at| (id, at)));
    let step = match (record.state, truth) {
        (State::Reserved, _) => reserved(look, patience, record),
        (State::Placed | State::Booting | State::Waiting(_) | State::Ready, Truth::Unknown) => {
            // Not seen is not missing: the count goes on when the node answers.
            plan.missing.extend(look.missing.get_key_value(&id));
            None
        }
        (State::Placed | State::Booting | State::Waiting(_) | State::Ready, Truth::Quarantined) => quarantined(record),
        (State::Placed | State::Booting | State::Waiting(_) | State::Ready, Truth::Here(sandbox)) => {
            here(look, patience, record, sandbox)
        }
        (State::Placed, Truth::Absent) => placed_but_absent(look, patience, record),
        (State::Booting | State::Waiting(_) | State::Ready, Truth::Absent) => {
            let since = look.missing.get(&id).copied().unwrap_or(look.now);
            plan.missing.insert(id, since);
            let lost = look.now.since(since) >= patience.lost_ms;
            lost.then_some(Step::Fail { id, reason: FailReason::Lost })
        }
        // Dealt with above, or not live.
        (State::Stopping(_) | State::Stopped(_) | State::Failed(_), _) => None,
    };
    plan.steps.extend(step);
}

/// Nobody spawns it: its process is gone, or never came to it.
fn reserved(look: &Snapshot<'_>, patience: Patience, record: &RunRecord) -> Option<Step> {
    if look.others.contains(&record.epoch) {
        return None;
    }
    let given_up = record.epoch != look.epoch || look.now.since(record.spawned_at) >= patience.reserve_ms;
    given_up.then_some(Step::Fail { id: record.id, reason: FailReason::Interrupted })
}

/// The node was to be told, and does not know of it. What an earlier process
/// sent may still be under way.
fn placed_but_absent(look: &Snapshot<'_>, patience: Patience, record: &RunRecord) -> Option<Step> {
    if look.others.contains(&record.epoch) {
        return None;
    }
    let settled = record.epoch == look.epoch || look.now.since(look.started_at) >= patience.settle_ms;
    settled.then_some(Step::Fail { id: record.id, reason: FailReason::Interrupted })
}

/// It waits for the repair; what else is known of it stays.
fn quarantined(record: &RunRecord) -> Option<Step> {
    let (id, wanted) = (record.id, State::Waiting(WaitReason::Ledger));
    let runtime = record.runtime.clone().unwrap_or_default();
    let seen = NodeObservation { runtime, restarts: record.restarts };
    (record.state != wanted).then_some(Step::See { id, event: Some(Event::Waiting(WaitReason::Ledger)), seen })
}

fn here(look: &Snapshot<'_>, patience: Patience, record: &RunRecord, sandbox: &Sandbox) -> Option<Step> {
    let id = record.id;
    let (wanted, event) = match sandbox.phase {
        Phase::Failed { reason } => return Some(Step::Fail { id, reason }),
        // Somebody else's doing; what comes of it is seen when it is gone.
        Phase::Stopping => return None,
        Phase::Ready => (State::Ready, Event::Ready),
        // However long it takes.
        Phase::Waiting { lacks, .. } => (State::Waiting(lacks), Event::Waiting(lacks)),
        Phase::Booting | Phase::Backoff { .. } if overdue(look, patience, record) => {
            return Some(Step::Fail { id, reason: FailReason::BootTimeout });
        }
        Phase::Booting | Phase::Backoff { .. } => (State::Booting, Event::Booting),
    };
    let event = (record.state != wanted).then_some(event);
    let seen = NodeObservation { runtime: sandbox.runtime.as_str().to_owned(), restarts: sandbox.restarts };
    let known = record.runtime.as_deref() == Some(&seen.runtime) && record.restarts >= seen.restarts;
    (event.is_some() || !known).then_some(Step::See { id, event, seen })
}

/// Never ready, and no task of this process waits for it: an earlier one did.
fn overdue(look: &Snapshot<'_>, patience: Patience, record: &RunRecord) -> bool {
    // What the node lacked meanwhile is not held against the agent.
    let waited = look.waited.get(&record.id).copied().unwrap_or_default();
    let asked = record.spawned_at.max(look.started_at).max(waited);
    !record.was_ready && look.now.since(asked) >= patience.boot_ms
}

#[cfg(test)]
mod tests;
