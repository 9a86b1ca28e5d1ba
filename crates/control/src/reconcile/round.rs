//! A round: look at the nodes and the store, plan, and do what is due.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use domain::{Event, FailReason, PodId, RunId};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use store::{AgentObservation, GatewayEpoch, RunRecord, StoreError};
use tokio::time::Instant;
use wire::v1::node::DataPolicy;

use crate::context::Context;
use crate::fleet::node::{Node, within};
use crate::reconcile::plan::{GracePeriods, NodeReport, Snapshot, Step, plan};

/// Steps taken at once.
const AT_ONCE: usize = 32;
/// How long a reservation may wait for the task that spawns it.
const RESERVE_MS: u64 = 5_000;
/// The least pause between two rounds, whoever asks for one.
const LEAST_PAUSE: Duration = Duration::from_millis(100);
/// A round is followed by a pause of this many times its length at least: with
/// many agents, reconciling takes a fifth of a core and no more.
const REST: u32 = 4;

impl Context {
    /// Rounds for ever: on a timer, and when somebody asks.
    pub(crate) async fn reconcile_for_ever(self: &Arc<Self>) {
        loop {
            let took = self.reconcile().await;
            metrics::histogram!("palatine_reconcile_seconds").record(took.as_secs_f64());
            tokio::time::sleep(LEAST_PAUSE.max(took * REST)).await;
            let pause = Duration::from_millis(self.config.reconcile_ms);
            // A pause that ends is as good a reason as a signal.
            let _ = tokio::time::timeout(pause, self.signal.notified()).await;
        }
    }

    /// One round. Safe to repeat, and to cut off anywhere. Says how long it was at
    /// work itself, once the nodes had answered.
    async fn reconcile(self: &Arc<Self>) -> Duration {
        self.spawning.begin_round();
        let nodes = join_all(self.fleet.nodes().map(|node| self.list(node.as_ref()))).await;
        let began = Instant::now();
        // Only now: see `plan`.
        let (live, others) = match self.wanted().await {
            Ok(wanted) => wanted,
            Err(error) => {
                tracing::error!(%error, "the live agents cannot be listed");
                return began.elapsed();
            }
        };
        let counted_ms = self.counted(&live).await;
        let steps = self.plan(&nodes, &live, &others, counted_ms);
        stream::iter(steps).for_each_concurrent(AT_ONCE, |step| self.take(step)).await;
        began.elapsed()
    }

    async fn list(&self, node: &dyn Node) -> NodeReport {
        let list = within("list the sandboxes", self.config.look(), node.list()).await;
        metrics::gauge!("palatine_node_up", "node" => node.name().to_owned()).set(f64::from(u8::from(list.is_ok())));
        if let Err(error) = &list {
            tracing::warn!(node = node.name(), %error, "a node does not answer");
            self.fleet.silent(node.name());
        }
        let listed = list.ok();
        let quarantined = listed.iter().flat_map(|listed| &listed.quarantined).map(|held| held.id).collect();
        NodeReport { name: node.name().to_owned(), sandboxes: listed.map(|listed| listed.sandboxes), quarantined }
    }

    /// The live runs, and the other gateways that are there.
    async fn wanted(&self) -> Result<(Vec<RunRecord>, BTreeSet<GatewayEpoch>), StoreError> {
        let mut epochs = self.store.live_epochs().await?;
        epochs.remove(&self.store.epoch());
        Ok((self.store.live().await?, epochs))
    }

    fn plan(
        &self,
        nodes: &[NodeReport],
        live: &[RunRecord],
        others: &BTreeSet<GatewayEpoch>,
        counted_ms: Option<u64>,
    ) -> Vec<Step> {
        let grace = GracePeriods {
            reserve_ms: RESERVE_MS,
            settle_ms: self.config.settle_ms,
            boot_ms: self.config.spawn_timeout_ms,
            lost_ms: self.config.lost_after_ms,
        };
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = Snapshot {
            nodes,
            live,
            inflight: &self.spawning.touched(),
            missing: &missing,
            waiting: &waiting,
            epoch: self.store.epoch(),
            others,
            started_at: self.started_at,
            counted_ms,
            now: self.clock.now(),
        };
        let plan = plan(&snapshot, grace);
        (*missing, *waiting) = (plan.missing, plan.waiting);
        metrics::gauge!("palatine_live_agents").set(u32::try_from(live.len()).map_or(f64::INFINITY, f64::from));
        plan.steps
    }

    /// Writes down what is due; what waits for a node is left to tasks, so that one
    /// node that hangs holds up nobody else.
    async fn take(self: &Arc<Self>, step: Step) {
        let (name, id) = match &step {
            Step::Remove { id, .. } => ("remove", *id),
            Step::TearDown { id } => ("tear_down", *id),
            Step::Fail { id, .. } => ("fail", *id),
            Step::Expire { id, .. } => ("expire", *id),
            Step::Observe { id, .. } => ("see", *id),
        };
        metrics::counter!("palatine_reconcile_steps_total", "step" => name).increment(1);
        let done = match step {
            Step::Remove { node, id, pod } => {
                self.later(id, |inner| async move { inner.remove_orphan(&node, id, pod).await });
                Ok(())
            }
            Step::TearDown { id } => {
                self.tear_down_later(id);
                Ok(())
            }
            Step::Fail { id, reason } => self.fail(id, reason).await,
            Step::Expire { id, counted_ms } => self.expire(id, counted_ms).await,
            Step::Observe { id, event, seen } => self.observed(id, event, seen).await,
        };
        match done {
            // The agent went on meanwhile; the next round sees how it is then.
            Ok(()) | Err(StoreError::Refused(_)) => {}
            Err(error) => tracing::error!(agent = %id, step = name, %error, "a step of reconciliation failed"),
        }
    }

    /// Removes a sandbox that has outlived its run. Nobody has said that its POD's data
    /// may go: it is set aside.
    async fn remove_orphan(&self, node: &str, id: RunId, pod: PodId) {
        let _guard = self.locks.lock(id).await;
        let record = match self.store.get(id).await {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(agent = %id, %error, "whether a sandbox is owned cannot be read");
                return;
            }
        };
        let owned = record.is_some_and(|record| record.state.is_live() && record.node.as_deref() == Some(node));
        if owned || self.spawning.has(id) {
            return;
        }
        if let Some(node) = self.fleet.node(node)
            && self.delete(node.as_ref(), id, pod, DataPolicy::Keep).await.is_some()
        {
            tracing::warn!(agent = %id, node = node.name(), "a sandbox that nobody owned was removed");
        }
    }

    async fn fail(self: &Arc<Self>, id: RunId, reason: FailReason) -> Result<(), StoreError> {
        self.store.advance(id, Event::Fail(reason), self.clock.now()).await?;
        tracing::warn!(agent = %id, ?reason, "an agent cannot go on");
        self.tear_down_later(id);
        Ok(())
    }

    async fn observed(&self, id: RunId, event: Option<Event>, seen: AgentObservation) -> Result<(), StoreError> {
        match event {
            Some(event) => self.store.settle(id, event, seen, self.clock.now()).await.map(drop),
            None => self.store.observe(id, seen).await.map(drop),
        }
    }
}
