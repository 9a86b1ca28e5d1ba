//! What the guest's parts share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;
use subtle::ConstantTimeEq as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use wire::Secret;
use wire::pod::{PodPhase, Status};

use crate::agent::Plan;
use crate::boot::Steps;
use crate::exec::Table;
use crate::logs::Logs;
use crate::reap::Reaper;

/// Answers that may last, at the same time.
const MAX_STREAMS: usize = 64;

/// The guest. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Pod(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    logs: Logs,
    reaper: Reaper,
    table: Table,
    steps: Mutex<Steps>,
    furnished: watch::Sender<bool>,
    status: watch::Sender<Status>,
    owner: watch::Sender<Option<Owner>>,
    streams: Arc<Semaphore>,
    stop: watch::Sender<Option<Duration>>,
}

/// Who was delivered, once.
#[derive(Clone, Debug)]
struct Owner {
    token: Secret,
    plan: Arc<Plan>,
}

impl Pod {
    /// A guest that listens, and has neither disks nor an identity.
    pub(crate) fn new(logs: Logs, reaper: Reaper, mut steps: Steps) -> Self {
        let listening_after_us = steps.reached("listening");
        let status = Status {
            phase: PodPhase::Waiting,
            restarts: 0,
            listening_after_us,
            timings_us: steps.micros(),
            last_exit: None,
        };
        Self(Arc::new(Shared {
            table: Table::new(reaper.clone()),
            logs,
            reaper,
            steps: Mutex::new(steps),
            furnished: watch::Sender::new(false),
            status: watch::Sender::new(status),
            owner: watch::Sender::new(None),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            stop: watch::Sender::new(None),
        }))
    }

    /// What the guest said.
    pub(crate) fn logs(&self) -> &Logs {
        &self.0.logs
    }

    /// Who buries its children.
    pub(crate) fn reaper(&self) -> &Reaper {
        &self.0.reaper
    }

    /// The commands that run beside the agent.
    pub(crate) fn table(&self) -> &Table {
        &self.0.table
    }

    /// A place for an answer that may last: fewer than there are connections, so
    /// that the node's own short calls always find one.
    pub(crate) fn stream_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.streams).try_acquire_owned().ok()
    }

    /// Since when this program runs.
    pub(crate) fn started(&self) -> Instant {
        self.lock_steps().started()
    }

    /// How long the steps took that are done.
    pub(crate) fn steps(&self) -> Steps {
        self.lock_steps().clone()
    }

    /// The guest stands on its disks, after these steps.
    pub(crate) fn furnished(&self, steps: Steps) {
        self.0.status.send_modify(|status| status.timings_us = steps.micros());
        *self.lock_steps() = steps;
        self.0.furnished.send_replace(true);
    }

    /// Waits until the guest stands on its disks.
    pub(crate) async fn has_disks(&self) {
        // The sender lives as long as this value: the wait cannot fail.
        let _ = self.0.furnished.subscribe().wait_for(|furnished| *furnished).await;
    }

    /// Its state.
    pub(crate) fn status(&self) -> Status {
        self.0.status.borrow().clone()
    }

    /// Its state, and every change of it.
    pub(crate) fn watch(&self) -> watch::Receiver<Status> {
        self.0.status.subscribe()
    }

    /// Whether an identity was delivered.
    pub(crate) fn has_owner(&self) -> bool {
        self.0.owner.borrow().is_some()
    }

    /// Takes the identity, once: the first one stays.
    pub(crate) fn own(&self, token: Secret, plan: Plan) {
        let plan = Arc::new(plan);
        self.0.owner.send_if_modified(|owner| {
            let first = owner.is_none();
            owner.get_or_insert(Owner { token, plan });
            first
        });
        self.milestone("identified", PodPhase::Starting);
    }

    /// Whether this is the token that came with the identity.
    pub(crate) fn knows(&self, token: &str) -> bool {
        let owner = self.0.owner.borrow();
        owner.as_ref().is_some_and(|owner| owner.token.0.expose_secret().as_bytes().ct_eq(token.as_bytes()).into())
    }

    /// How the agent runs, once that is known.
    pub(crate) fn plan(&self) -> Option<Arc<Plan>> {
        self.0.owner.borrow().as_ref().map(|owner| Arc::clone(&owner.plan))
    }

    /// Waits for the identity.
    pub(crate) async fn identified(&self) -> Arc<Plan> {
        let mut owner = self.0.owner.subscribe();
        // The sender lives as long as this value: the wait cannot fail.
        let found = owner.wait_for(Option::is_some).await.ok().and_then(|owner| owner.clone());
        match found {
            Some(owner) => owner.plan,
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
    pub(crate) async fn stop_asked(&self) -> Duration {
        let mut stop = self.0.stop.subscribe();
        let asked = stop.wait_for(Option::is_some).await.ok().and_then(|stop| *stop);
        match asked {
            Some(grace) => grace,
            None => std::future::pending().await,
        }
    }

    /// The agent's process runs.
    pub(crate) fn started_agent(&self) {
        self.milestone("started", PodPhase::Starting);
    }

    /// The agent answers.
    pub(crate) fn ready(&self) {
        self.milestone("ready", PodPhase::Ready);
    }

    /// The agent's process died.
    pub(crate) fn died(&self, phase: PodPhase, of: &str) {
        self.0.status.send_modify(|status| status.last_exit = Some(of.to_owned()));
        self.enter(phase);
    }

    /// The agent's process is started again.
    pub(crate) fn restarting(&self) {
        self.0.status.send_modify(|status| status.restarts += 1);
        self.enter(PodPhase::Starting);
    }

    fn lock_steps(&self) -> MutexGuard<'_, Steps> {
        self.0.steps.lock().unwrap_or_else(PoisonError::into_inner)
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
            let since = self.lock_steps().reached(name);
            self.0.status.send_modify(|status| status.timings_us.extend([(name.to_owned(), since)]));
        }
        self.enter(phase);
    }
}
