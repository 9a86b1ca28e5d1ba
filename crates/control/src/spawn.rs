//! Spawning: place, create, wait until ready; undo what did not come to be.

use std::sync::Arc;
use std::time::Duration;

use client::NodeError;
use domain::{EndReason, Event, FailReason, NodeView, PlacementError, RunId, place};
use futures_util::future::join_all;
use store::{NodeObservation, RunRecord, StoreError};
use tokio::time::Instant;
use wire::Environment;
use wire::fault::Code;
use wire::node::{DataDisk, Phase, Sandbox, SandboxSpec};

use crate::busy::Working;
use crate::error::SpawnError;
use crate::node::{Node, view, within};
use crate::service::Inner;

/// How long one question for readiness is held.
const WAIT: Duration = Duration::from_secs(20);
/// The pause before a node that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// A run that is to be brought up.
pub(crate) struct RunOrder {
    pub(crate) record: RunRecord,
    pub(crate) env: Environment,
    pub(crate) traceparent: Option<String>,
}

/// Why it did not come to be, for the record and for the caller.
struct SpawnFailure {
    reason: FailReason,
    error: SpawnError,
}

impl SpawnFailure {
    const fn new(reason: FailReason, error: SpawnError) -> Self {
        Self { reason, error }
    }

    /// It failed for this reason, and that is all there is to say.
    const fn of(reason: FailReason) -> Self {
        Self { reason, error: SpawnError::Failed(reason) }
    }
}

impl From<StoreError> for SpawnFailure {
    fn from(error: StoreError) -> Self {
        Self::new(FailReason::Interrupted, SpawnError::Store(error))
    }
}

impl Inner {
    /// Runs a spawn to its end: a ready agent, or one that is taken down.
    pub(crate) async fn run_spawn(
        self: Arc<Self>,
        _working: Working,
        order: RunOrder,
    ) -> Result<RunRecord, SpawnError> {
        let began = Instant::now();
        let id = order.record.id;
        let outcome = match self.bring_up(order).await {
            Ok(record) => Ok(record),
            Err(failure) => Err(self.give_up(id, failure).await),
        };
        let label = outcome.as_ref().map_or_else(label, |_| "ready");
        metrics::counter!("palatine_spawns_total", "outcome" => label).increment(1);
        metrics::histogram!("palatine_spawn_seconds", "outcome" => label).record(began.elapsed().as_secs_f64());
        match &outcome {
            Ok(_) => tracing::info!(agent = %id, took_ms = %began.elapsed().as_millis(), "the agent is ready"),
            Err(error) => tracing::warn!(agent = %id, %error, "the agent was not spawned"),
        }
        outcome
    }

    /// Ends a reservation for which there is no hand free.
    pub(crate) async fn turn_away(self: &Arc<Self>, id: RunId, most: usize) -> Result<RunRecord, SpawnError> {
        let failure = SpawnFailure::new(FailReason::NoCapacity, SpawnError::TooMany(most));
        Err(self.give_up(id, failure).await)
    }

    async fn bring_up(&self, order: RunOrder) -> Result<RunRecord, SpawnFailure> {
        if self.stopping.is_cancelled() {
            return Err(SpawnFailure::new(FailReason::Interrupted, SpawnError::ShuttingDown));
        }
        let deadline = Instant::now() + self.config.spawn_timeout();
        let id = order.record.id;
        let (node, sandbox) = {
            // Until the node has answered, nobody may take the agent down: a
            // deletion that overtakes a creation would leave an orphan.
            let _turn = self.locks.turn(id).await;
            self.place(order).await?
        };
        if sandbox.phase != Phase::Ready {
            self.see(id, Event::Booting, &sandbox).await?;
        }
        self.until_ready(node.as_ref(), id, sandbox, deadline).await
    }

    /// Finds a node that takes it. A node is written down before it is told.
    async fn place(&self, order: RunOrder) -> Result<(Arc<dyn Node>, Sandbox), SpawnFailure> {
        let RunOrder { record, env, traceparent } = order;
        let keeper = self.keeper(&record);
        let spec = SandboxSpec {
            pod: record.pod,
            data: if keeper.is_some() { DataDisk::Kept } else { DataDisk::KeptOrEmpty },
            generation: record.generation,
            image: record.image,
            cores: record.tier_config.cores,
            memory_mib: u64::from(record.tier_config.memory),
            env,
        };
        let mut views = self.views(keeper).await?;
        let mut full = false;
        loop {
            let chosen = place(&views, record.ask()).map_err(no_room)?.name.clone();
            let node = self.node(&chosen).cloned().ok_or_else(|| no_room(PlacementError::NoNodes))?;
            self.store.place(record.id, &chosen, self.clock.now()).await?;
            let creation = node.create(record.id, &spec, traceparent.as_deref());
            match within("create the sandbox", self.config.node_timeout(), creation).await {
                Ok(sandbox) => return Ok((node, sandbox)),
                // Others were quicker. Each turn leaves one node fewer.
                Err(error) if error.code() == Some(Code::NoCapacity) => {
                    full = true;
                    views.retain(|view| view.name != chosen);
                }
                // Another may have what this one lacks.
                Err(error) if error.code() == Some(Code::NoImage) => {
                    tracing::warn!(agent = %record.id, node = chosen, image = %record.image, "a node lacks an image");
                    views.retain(|view| view.name != chosen);
                }
                Err(error) => return Err(self.not_created(record.id, &chosen, error)),
            }
            if views.is_empty() && full {
                return Err(no_room(PlacementError::Full));
            }
            if views.is_empty() {
                return Err(SpawnFailure::new(FailReason::NodeRefused, SpawnError::NoImage(record.image)));
            }
        }
    }

    /// The node that keeps the POD's data, which no other has.
    fn keeper<'a>(&self, record: &'a RunRecord) -> Option<&'a str> {
        let kept = record.data.is_some_and(|data| !data.is_over(self.clock.now()));
        record.data_node.as_deref().filter(|_| kept)
    }

    fn not_created(&self, id: RunId, node: &str, error: NodeError) -> SpawnFailure {
        tracing::warn!(agent = %id, node, %error, "a sandbox was not created");
        if error.code() == Some(Code::NoData) {
            return SpawnFailure::new(FailReason::NodeRefused, SpawnError::NoData(node.to_owned()));
        }
        if error.is_ambiguous() {
            self.unsettled.note(id);
            return SpawnFailure::new(FailReason::Interrupted, SpawnError::NodeUnavailable(Some(error)));
        }
        SpawnFailure::of(FailReason::NodeRefused)
    }

    /// The nodes that answer, as placement sees them: all, or the one that keeps the
    /// POD's data.
    async fn views(&self, keeper: Option<&str>) -> Result<Vec<NodeView>, SpawnFailure> {
        let able = self.nodes.iter().filter(|node| keeper.is_none_or(|keeper| node.name() == keeper));
        let asked = able.map(|node| async move {
            let info = within("describe the node", self.config.look(), node.info()).await;
            info.map(|info| view(node.name(), &info))
        });
        let (views, silent): (Vec<_>, Vec<_>) = join_all(asked).await.into_iter().partition(Result::is_ok);
        if let (true, Some(keeper)) = (views.is_empty(), keeper) {
            return Err(SpawnFailure::new(FailReason::Interrupted, SpawnError::DataAway(keeper.to_owned())));
        }
        if views.is_empty()
            && let Some(error) = silent.into_iter().find_map(Result::err)
        {
            return Err(SpawnFailure::new(FailReason::Interrupted, SpawnError::NodeUnavailable(Some(error))));
        }
        Ok(views.into_iter().filter_map(Result::ok).collect())
    }

    async fn until_ready(
        &self,
        node: &dyn Node,
        id: RunId,
        mut sandbox: Sandbox,
        deadline: Instant,
    ) -> Result<RunRecord, SpawnFailure> {
        let mut shown = None;
        loop {
            let lacks = match sandbox.phase {
                Phase::Ready => return self.see(id, Event::Ready, &sandbox).await,
                Phase::Failed { reason } => return Err(SpawnFailure::of(reason)),
                Phase::Stopping => return Err(SpawnFailure::of(FailReason::Lost)),
                Phase::Waiting { lacks, .. } => Some(lacks),
                Phase::Booting | Phase::Backoff { .. } => None,
            };
            if shown != lacks {
                self.see(id, lacks.map_or(Event::Booting, Event::Waiting), &sandbox).await?;
                shown = lacks;
            }
            sandbox = match (self.ask_until(node, id, deadline).await, lacks) {
                // Whoever asked for it is not kept waiting for what may take days.
                (Err(SpawnFailure { error: SpawnError::Timeout { .. }, .. }), Some(lacks)) => {
                    return Err(SpawnFailure::new(FailReason::NodeRefused, SpawnError::NodeLacks(lacks)));
                }
                (asked, _) => asked?,
            };
        }
    }

    /// What the node says next; patient with one that does not answer, for its
    /// guests outlive its daemon.
    async fn ask_until(&self, node: &dyn Node, id: RunId, deadline: Instant) -> Result<Sandbox, SpawnFailure> {
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                let after_ms = self.config.spawn_timeout_ms;
                return Err(SpawnFailure::new(FailReason::BootTimeout, SpawnError::Timeout { after_ms }));
            }
            let wait = rest.min(WAIT);
            let limit = wait + self.config.node_timeout();
            match within("wait for the sandbox", limit, node.wait_ready(id, wait)).await {
                Ok(Some(sandbox)) => return Ok(sandbox),
                Ok(None) => return Err(SpawnFailure::of(FailReason::Lost)),
                Err(error) => {
                    tracing::debug!(agent = %id, node = node.name(), %error, "the node does not say how a sandbox is");
                    tokio::time::sleep(ASK_AGAIN.min(rest)).await;
                }
            }
        }
    }

    async fn see(&self, id: RunId, event: Event, sandbox: &Sandbox) -> Result<RunRecord, SpawnFailure> {
        let seen = NodeObservation { runtime: sandbox.runtime.as_str().to_owned(), restarts: sandbox.restarts };
        Ok(self.store.settle(id, event, seen, self.clock.now()).await?.record)
    }

    /// Ends what did not come to be. The first end stands: an agent that was
    /// stopped meanwhile was stopped, whatever failure that made here.
    async fn give_up(self: &Arc<Self>, id: RunId, failure: SpawnFailure) -> SpawnError {
        let end = match self.store.advance(id, Event::Fail(failure.reason), self.clock.now()).await {
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

fn no_room(why: PlacementError) -> SpawnFailure {
    let reason = match why {
        PlacementError::TooLarge { .. } => FailReason::ExceedsCapacity,
        PlacementError::NoNodes | PlacementError::Full => FailReason::NoCapacity,
    };
    SpawnFailure::new(reason, SpawnError::NoCapacity(why))
}

const fn label(error: &SpawnError) -> &'static str {
    match error {
        SpawnError::NoCapacity(_) | SpawnError::TooMany(_) => "no_capacity",
        SpawnError::NoImage(_) => "no_image",
        SpawnError::NodeUnavailable(_) | SpawnError::DataAway(_) => "node_unavailable",
        SpawnError::NoData(_) => "no_data",
        SpawnError::Timeout { .. } => "timeout",
        SpawnError::NodeLacks(_) => "node_lacks",
        SpawnError::Failed(_) => "failed",
        SpawnError::Stopped(_) => "stopped",
        SpawnError::ShuttingDown => "shutting_down",
        SpawnError::Store(_) => "store",
        SpawnError::CutOff => "cut_off",
    }
}
