//! What the parts of this program share: its state, its logs, its processes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;
use subtle::ConstantTimeEq as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use wire::Secret;
use wire::v1::pod::{PodPhase, PodStatus};

use super::logs::Logs;
use super::plan::Plan;
use crate::check::CheckProgress;
use crate::exec::ProcessTable;
use crate::files::{FileWorkers, Watchers};
use crate::process::Reaper;
use crate::timings::BootStopwatch;

/// Answers that may last, at the same time.
const MAX_STREAMS: usize = 64;
/// Connections that are carried to the guest's loopback, at the same time.
const MAX_TUNNELS: usize = 256;

/// The pod. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Pod(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    logs: Logs,
    reaper: Reaper,
    processes: ProcessTable,
    files: FileWorkers,
    watchers: Watchers,
    timings: Mutex<BootStopwatch>,
    check: CheckProgress,
    set_up: watch::Sender<bool>,
    status: watch::Sender<PodStatus>,
    assignment: watch::Sender<Option<Assignment>>,
    streams: Arc<Semaphore>,
    tunnels: Arc<Semaphore>,
    stop: watch::Sender<Option<Duration>>,
}

/// What the identity said, once.
#[derive(Clone, Debug)]
struct Assignment {
    token: Secret,
    plan: Arc<Plan>,
}

impl Pod {
    /// A pod that listens, and is neither set up nor has an identity.
    pub(crate) fn new(logs: Logs, reaper: Reaper, mut timings: BootStopwatch) -> Self {
        let listening_after_us = timings.milestone("listening");
        let status = PodStatus {
            phase: PodPhase::Waiting,
            restarts: 0,
            exits: 0,
            listening_after_us,
            timings_us: timings.micros(),
            last_exit: None,
        };
        Self(Arc::new(Shared {
            processes: ProcessTable::new(reaper.clone()),
            files: FileWorkers::default(),
            watchers: Watchers::default(),
            logs,
            reaper,
            timings: Mutex::new(timings),
            check: CheckProgress::default(),
            set_up: watch::Sender::new(false),
            status: watch::Sender::new(status),
            assignment: watch::Sender::new(None),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            tunnels: Arc::new(Semaphore::new(MAX_TUNNELS)),
            stop: watch::Sender::new(None),
        }))
    }

    /// What the agent and `pod` wrote.
    pub(crate) fn logs(&self) -> &Logs {
        &self.0.logs
    }

    /// Who reaps its children.
    pub(crate) fn reaper(&self) -> &Reaper {
        &self.0.reaper
    }

    /// How far the check of its volumes is.
    pub(crate) fn check(&self) -> &CheckProgress {
        &self.0.check
    }

    /// The commands that run beside the agent.
    pub(crate) fn processes(&self) -> &ProcessTable {
        &self.0.processes
    }

    /// Where its users' files are worked on.
    pub(crate) fn files(&self) -> &FileWorkers {
        &self.0.files
    }

    /// The folders that are watched.
    pub(crate) fn watchers(&self) -> &Watchers {
        &self.0.watchers
    }

    /// Leave to give an answer that may last: fewer than there are connections, so
    /// that the node's own short calls always find one.
    pub(crate) fn stream_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.streams).try_acquire_owned().ok()
    }

    /// Leave to carry one more connection to the guest's loopback. Visitors take these, and
    /// none of the places of the node's own calls.
    pub(crate) fn tunnel_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.tunnels).try_acquire_owned().ok()
    }

    /// Since when this program runs.
    pub(crate) fn started(&self) -> Instant {
        self.lock_timings().started()
    }

    /// How long the steps took that are done.
    pub(crate) fn timings(&self) -> BootStopwatch {
        self.lock_timings().clone()
    }

    /// The agent's files are there, after these steps.
    pub(crate) fn set_up(&self, timings: BootStopwatch) {
        self.0.status.send_modify(|status| status.timings_us = timings.micros());
        *self.lock_timings() = timings;
        self.0.set_up.send_replace(true);
    }

    /// Waits until the agent's files are there.
    pub(crate) async fn wait_for_set_up(&self) {
        // The sender lives as long as this value: the wait cannot fail.
        let _ = self.0.set_up.subscribe().wait_for(|set_up| *set_up).await;
    }

    /// Its state.
    pub(crate) fn status(&self) -> PodStatus {
        self.0.status.borrow().clone()
    }

    /// Its state, and every change of it.
    pub(crate) fn watch(&self) -> watch::Receiver<PodStatus> {
        self.0.status.subscribe()
    }

    /// Whether an identity was delivered.
    pub(crate) fn has_identity(&self) -> bool {
        self.0.assignment.borrow().is_some()
    }

    /// Takes the identity, once: the first one stays.
    pub(crate) fn assign(&self, token: Secret, plan: Plan) {
        let plan = Arc::new(plan);
        self.0.assignment.send_if_modified(|assignment| {
            let first = assignment.is_none();
            assignment.get_or_insert(Assignment { token, plan });
            first
        });
        self.milestone("identified", PodPhase::Starting);
    }

    /// Whether this is the token that came with the identity.
    pub(crate) fn token_matches(&self, token: &str) -> bool {
        let assignment = self.0.assignment.borrow();
        let equal = |own: &Secret| own.0.expose_secret().as_bytes().ct_eq(token.as_bytes()).into();
        assignment.as_ref().is_some_and(|assignment| equal(&assignment.token))
    }

    /// How the agent runs, once that is known.
    pub(crate) fn plan(&self) -> Option<Arc<Plan>> {
        self.0.assignment.borrow().as_ref().map(|assignment| Arc::clone(&assignment.plan))
    }

    /// Waits for the identity.
    pub(crate) async fn wait_for_plan(&self) -> Arc<Plan> {
        let mut assignment = self.0.assignment.subscribe();
        // The sender lives as long as this value: the wait cannot fail.
        let found = assignment.wait_for(Option::is_some).await.ok().and_then(|assignment| assignment.clone());
        match found {
            Some(assignment) => assignment.plan,
            None => std::future::pending().await,
        }
    }

    /// Asks for the end; the first to ask sets the grace.
    pub(crate) fn stop(&self, grace: Duration) {
        self.0.stop.send_if_modified(|stop| stop.is_none() && stop.replace(grace).is_none());
        self.enter(PodPhase::Stopping);
    }

    /// Whether the end was asked for.
    pub(crate) fn is_stopping(&self) -> bool {
        self.0.stop.borrow().is_some()
    }

    /// Waits until somebody asks for the end, and says how much time is left to
    /// the agent.
    pub(crate) async fn wait_for_stop(&self) -> Duration {
        let mut stop = self.0.stop.subscribe();
        let asked = stop.wait_for(Option::is_some).await.ok().and_then(|stop| *stop);
        match asked {
            Some(grace) => grace,
            None => std::future::pending().await,
        }
    }

    /// The agent's process runs.
    pub(crate) fn agent_started(&self) {
        self.milestone("started", PodPhase::Starting);
    }

    /// The agent answers.
    pub(crate) fn agent_ready(&self) {
        self.milestone("ready", PodPhase::Ready);
    }

    /// The agent's process ended.
    pub(crate) fn agent_exited(&self, phase: PodPhase, reason: &str) {
        self.0.status.send_modify(|status| {
            status.exits = status.exits.saturating_add(1);
            status.last_exit = Some(reason.to_owned());
        });
        self.enter(phase);
    }

    /// The agent's process is started again.
    pub(crate) fn agent_restarting(&self) {
        self.0.status.send_modify(|status| status.restarts += 1);
        self.enter(PodPhase::Starting);
    }

    fn lock_timings(&self) -> MutexGuard<'_, BootStopwatch> {
        self.0.timings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing leaves `stopping`.
    fn enter(&self, phase: PodPhase) {
        self.0.status.send_if_modified(|status| {
            let moves = status.phase != PodPhase::Stopping && status.phase != phase;
            if moves {
                status.phase = phase;
            }
            moves
        });
    }

    /// Notes the time of the first arrival at a phase.
    fn milestone(&self, name: &str, phase: PodPhase) {
        if !self.0.status.borrow().timings_us.contains_key(name) {
            let since = self.lock_timings().milestone(name);
            self.0.status.send_modify(|status| status.timings_us.extend([(name.to_owned(), since)]));
        }
        self.enter(phase);
    }
}
