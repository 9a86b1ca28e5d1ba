//! Spawning, and starting again: one task reserves the run, brings it up, and undoes it
//! if it does not come to be. It runs to that end even if its caller goes away.

use std::sync::Arc;

use domain::{EndReason, Event, FailReason, RunId, Wallet};
use store::{Admission, RunPod, RunRecord, RunReservation, StoreError};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::Instrument;
use wire::Environment;
use wire::v1::node::RuntimeName;

use crate::context::Context;
use crate::pods::error::{SpawnError, SpawnFailure};
use crate::pods::inflight::{NotPermitted, Permit};

/// A run that is to be reserved and brought up.
#[derive(Debug)]
pub struct SpawnOrder {
    /// What the store is asked for.
    pub reservation: RunReservation,
    /// What the store must not see: it goes to the node alone.
    pub env: Environment,
    /// What it may run in.
    pub runtimes: Vec<RuntimeName>,
    /// The trace that the node goes on with.
    pub traceparent: Option<String>,
}

/// A run that was reserved, and is being brought up whether this is kept or not.
#[derive(Debug)]
pub struct SpawnHandle(JoinHandle<Result<RunRecord, SpawnError>>);

impl SpawnHandle {
    /// Waits until the agent is ready, or what was begun is taken down.
    ///
    /// # Errors
    /// [`SpawnError`] says what the caller can be told.
    pub async fn ready(self) -> Result<RunRecord, SpawnError> {
        self.0.await.unwrap_or(Err(SpawnError::CutOff))
    }
}

/// A run that is reserved.
pub(crate) struct ReservedRun {
    pub(crate) record: RunRecord,
    pub(crate) env: Environment,
    pub(crate) runtimes: Vec<RuntimeName>,
    pub(crate) traceparent: Option<String>,
    /// Whether it may have volumes: only then is the store asked which.
    pub(crate) may_have_volumes: bool,
}

impl Context {
    /// Reserves a run, and brings it up. Returns as soon as it is reserved, or is not.
    pub(crate) async fn spawn(
        self: &Arc<Self>,
        mut order: SpawnOrder,
        on_reserved: impl FnOnce(&RunRecord) + Send + 'static,
    ) -> Result<(Admission, SpawnHandle), SpawnError> {
        let (id, holder) = (order.reservation.id, order.reservation.wallet);
        // Entered before it is reserved: no round of reconciliation takes it for lost.
        let permit = match self.spawning.enter(id, holder, self.config.spawns_at_once) {
            Ok(permit) => Some(permit),
            Err(NotPermitted::Inflight) => return Err(SpawnError::CutOff),
            // A retry has its answer all the same.
            Err(NotPermitted::TooMany) => None,
        };
        order.reservation.may_start &= permit.is_some();
        let (admitted, admission) = oneshot::channel();
        let work = Arc::clone(self).run_spawn(permit, order, admitted, on_reserved);
        let starting = SpawnHandle(self.tasks.spawn(work.in_current_span()));
        let admission = admission.await.map_err(|_| SpawnError::CutOff)??;
        Ok((admission, starting))
    }

    /// A spawn, from its reservation to a ready agent, or one that is taken down.
    async fn run_spawn(
        self: Arc<Self>,
        _permit: Option<Permit<Wallet>>,
        order: SpawnOrder,
        admitted: oneshot::Sender<Result<Admission, StoreError>>,
        on_reserved: impl FnOnce(&RunRecord) + Send + 'static,
    ) -> Result<RunRecord, SpawnError> {
        let began = Instant::now();
        let SpawnOrder { reservation, env, runtimes, traceparent } = order;
        let may_have_volumes = !reservation.volumes.is_empty() || matches!(reservation.pod, RunPod::Existing(_));
        let admission = self.store.reserve(reservation).await;
        let reserved = match &admission {
            Ok(Admission::Reserved(record)) => Some(record.clone()),
            Ok(_) | Err(_) => None,
        };
        // Who asked may have gone away: what is reserved is brought up all the same.
        let _ = admitted.send(admission);
        let record = reserved.ok_or(SpawnError::CutOff)?;
        on_reserved(&record);
        let id = record.id;
        let reserved = ReservedRun { record, env, runtimes, traceparent, may_have_volumes };
        let outcome = match self.bring_up(reserved).await {
            Ok(record) => Ok(record),
            Err(failure) => Err(self.give_up(id, failure).await),
        };
        tell(id, began, &outcome);
        outcome
    }

    async fn bring_up(&self, run: ReservedRun) -> Result<RunRecord, SpawnFailure> {
        if self.stopping.is_cancelled() {
            return Err(SpawnFailure::new(FailReason::Interrupted, SpawnError::ShuttingDown));
        }
        let deadline = Instant::now() + self.config.spawn_timeout();
        let id = run.record.id;
        let (node, sandbox) = {
            // Until the node has answered, nobody may take the agent down: a
            // deletion that overtakes a creation would leave an orphan.
            let _guard = self.locks.lock(id).await;
            self.place(run).await?
        };
        self.until_ready(node.as_ref(), sandbox, deadline).await
    }

    /// Ends what did not come to be. The first end stands: an agent that was
    /// stopped meanwhile was stopped, whatever failure that made here.
    async fn give_up(self: &Arc<Self>, id: RunId, failure: SpawnFailure) -> SpawnError {
        let now = self.clock.now();
        let failed = match failure.on_no_node {
            true => self.store.abandon(id, failure.reason, now).await,
            false => self.store.advance(id, Event::Fail(failure.reason), now).await,
        };
        let end = match failed {
            Ok(advanced) => advanced.record.state.end(),
            Err(error) => return SpawnError::Store(error),
        };
        let ended = match self.tear_down_in_time(id).await {
            Ok(record) => !record.state.is_live(),
            Err(error) => return SpawnError::Store(error),
        };
        match (end, failure.error) {
            (Some(EndReason::Stopped(reason)), _) => SpawnError::Stopped(reason),
            (_, error) if ended => error,
            (_, error @ (SpawnError::NodeUnavailable(_) | SpawnError::Store(_))) => error,
            (_, _) => SpawnError::NodeUnavailable(None),
        }
    }
}

fn tell(id: RunId, began: Instant, outcome: &Result<RunRecord, SpawnError>) {
    let label = outcome.as_ref().map_or_else(label, |_| "ready");
    metrics::counter!("palatine_spawns_total", "outcome" => label).increment(1);
    metrics::histogram!("palatine_spawn_seconds", "outcome" => label).record(began.elapsed().as_secs_f64());
    match outcome {
        Ok(_) => tracing::info!(agent = %id, took_ms = %began.elapsed().as_millis(), "the agent is ready"),
        Err(error) => tracing::warn!(agent = %id, %error, "the agent was not spawned"),
    }
}

const fn label(error: &SpawnError) -> &'static str {
    match error {
        SpawnError::NoCapacity(_) => "no_capacity",
        SpawnError::NoImage(_) => "no_image",
        SpawnError::NodeUnavailable(_) | SpawnError::DataAway(_) => "node_unavailable",
        SpawnError::NoData(_) => "no_data",
        SpawnError::NoVolume(_) => "no_volume",
        SpawnError::VolumesNeedMachine => "volumes_need_machine",
        SpawnError::Timeout { .. } => "timeout",
        SpawnError::NodeLacks(_) => "node_lacks",
        SpawnError::Failed { .. } => "failed",
        SpawnError::Stopped(_) => "stopped",
        SpawnError::ShuttingDown => "shutting_down",
        SpawnError::Store(_) => "store",
        SpawnError::CutOff => "cut_off",
    }
}
