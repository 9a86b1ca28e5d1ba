//! [`Control`]: what the gateway calls, and the loops behind it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chain::Balances;
use domain::{PodId, RunId, StopReason, Tiers, UnixMillis};
use store::{RunRecord, Store};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use wire::Environment;

use crate::busy::{Busy, Turned};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::error::{SpawnError, StopError};
use crate::locks::{Locks, Unsettled};
use crate::marks::Journal;
use crate::node::Node;
use crate::plan::{Missing, Waited};
use crate::spawn::RunOrder;

/// Agents being spawned at once at most.
const MAX_SPAWNS: usize = 16_384;
/// The first pause after a journal could not be read.
const MARKS_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause after a journal could not be read, again and again.
const MARKS_PAUSE_MAX: Duration = Duration::from_secs(5);

/// The control plane: a handle that is cheap to clone.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) nodes: Vec<Arc<dyn Node>>,
    pub(crate) journals: Vec<Journal>,
    pub(crate) balances: Arc<dyn Balances>,
    pub(crate) tiers: Tiers,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) started_at: UnixMillis,
    /// Being spawned.
    pub(crate) busy: Busy,
    /// Being taken down on reconciliation's behalf.
    pub(crate) leaving: Busy,
    pub(crate) locks: Locks,
    pub(crate) unsettled: Unsettled,
    pub(crate) missing: Mutex<Missing>,
    pub(crate) waited: Mutex<Waited>,
    pub(crate) signal: Notify,
    pub(crate) stopping: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Inner {
    /// The node of this name.
    pub(crate) fn node(&self, name: &str) -> Option<&Arc<dyn Node>> {
        self.nodes.iter().find(|node| node.name() == name)
    }
}

impl Control {
    /// Starts the loops. They end when `stopping` is cancelled; what is being
    /// spawned or stopped then still comes to its end (see [`Control::closed`]).
    #[must_use]
    pub fn start(
        config: Config,
        store: Store,
        nodes: Vec<Arc<dyn Node>>,
        balances: Arc<dyn Balances>,
        tiers: Tiers,
        stopping: CancellationToken,
    ) -> Self {
        Self::start_at(config, store, nodes, balances, tiers, stopping, Arc::new(SystemClock))
    }

    /// The same with another clock.
    #[must_use]
    pub fn start_at(
        config: Config,
        store: Store,
        nodes: Vec<Arc<dyn Node>>,
        balances: Arc<dyn Balances>,
        tiers: Tiers,
        stopping: CancellationToken,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let journal = |node: &Arc<dyn Node>| {
            Journal::new(Arc::clone(node), store.clone(), Arc::clone(&clock), config.node_timeout())
        };
        let inner = Arc::new(Inner {
            journals: nodes.iter().map(journal).collect(),
            started_at: clock.now(),
            config,
            store,
            nodes,
            balances,
            tiers,
            clock,
            busy: Busy::default(),
            leaving: Busy::default(),
            locks: Locks::default(),
            unsettled: Unsettled::default(),
            missing: Mutex::default(),
            waited: Mutex::default(),
            signal: Notify::new(),
            stopping,
            tasks: TaskTracker::new(),
        });
        let control = Self { inner };
        control.start_loops();
        control
    }

    fn start_loops(&self) {
        let inner = &self.inner;
        self.run(inner.clone(), |inner| async move { inner.reconcile_for_ever().await });
        for at in 0..inner.journals.len() {
            self.run(inner.clone(), move |inner| async move { inner.carry_marks(at).await });
        }
        self.run(inner.clone(), |inner| async move { inner.recheck_for_ever().await });
        self.run(inner.clone(), |inner| async move { inner.prune_for_ever().await });
    }

    /// Runs a loop until the control plane goes down.
    fn run<F: Future<Output = ()> + Send + 'static>(&self, inner: Arc<Inner>, work: impl FnOnce(Arc<Inner>) -> F) {
        let stopping = inner.stopping.clone();
        let work = work(inner);
        self.inner.tasks.spawn(async move {
            stopping.run_until_cancelled(work).await;
        });
    }

    /// Spawns a reserved agent: returns when it is ready, or when what was begun
    /// is taken down. Runs to that end even if the caller goes away.
    ///
    /// # Errors
    /// [`SpawnError`] says what the caller can be told.
    pub async fn spawn(
        &self,
        record: RunRecord,
        env: Environment,
        traceparent: Option<String>,
    ) -> Result<RunRecord, SpawnError> {
        self.begin(record, env, traceparent).await.unwrap_or(Err(SpawnError::CutOff))
    }

    /// Spawns a reserved agent for a caller that does not wait.
    pub fn spawn_detached(&self, record: RunRecord, env: Environment, traceparent: Option<String>) {
        drop(self.begin(record, env, traceparent));
    }

    fn begin(
        &self,
        record: RunRecord,
        env: Environment,
        traceparent: Option<String>,
    ) -> tokio::task::JoinHandle<Result<RunRecord, SpawnError>> {
        let inner = Arc::clone(&self.inner);
        // Entered before the task runs: from here on no look takes it for lost.
        let working = inner.busy.enter(record.id, MAX_SPAWNS);
        let order = RunOrder { record, env, traceparent };
        let work = async move {
            match working {
                Ok(working) => inner.run_spawn(working, order).await,
                Err(Turned::TooMany) => inner.turn_away(order.record.id, MAX_SPAWNS).await,
                Err(Turned::Already) => Err(SpawnError::CutOff),
            }
        };
        self.inner.tasks.spawn(work.in_current_span())
    }

    /// Stops a run: that it is to stop is durable first, then the node is told. The
    /// record is still `stopping` when its node did not answer in time; it will end. Its
    /// POD's data is kept, unless the reason says that the POD is removed.
    /// Runs to its end even if the caller goes away.
    ///
    /// # Errors
    /// [`StopError::Store`] for an unknown run or a fault of the store.
    pub async fn stop(&self, id: RunId, reason: StopReason) -> Result<RunRecord, StopError> {
        let inner = Arc::clone(&self.inner);
        let work = async move { inner.stop(id, reason).await };
        let done = self.inner.tasks.spawn(work.in_current_span()).await;
        done.map_err(|_| StopError::CutOff)?
    }

    /// Removes a POD, whether it runs or not: nothing of it stays but what its wallet
    /// used, and that its id was its holder's. The record is still `stopping` when its
    /// node did not answer in time; it will end. Runs to its end even if the caller goes
    /// away.
    ///
    /// # Errors
    /// [`StopError::Store`] for an unknown POD or a fault of the store;
    /// [`StopError::NodeUnavailable`] when data that is kept cannot be erased yet.
    pub async fn remove(&self, pod: PodId) -> Result<RunRecord, StopError> {
        let inner = Arc::clone(&self.inner);
        let work = async move { inner.remove(pod).await };
        let done = self.inner.tasks.spawn(work.in_current_span()).await;
        done.map_err(|_| StopError::CutOff)?
    }

    /// The node that runs an agent, if it was placed on one that is configured.
    #[must_use]
    pub fn node_of(&self, record: &RunRecord) -> Option<Arc<dyn Node>> {
        self.inner.node(record.node.as_deref()?).cloned()
    }

    /// Asks for a round of reconciliation now.
    pub fn look(&self) {
        self.inner.signal.notify_one();
    }

    /// After the token given to [`Control::start`] is cancelled: returns when
    /// the loops have ended, and every spawn and stop that was under way.
    pub async fn closed(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

impl Inner {
    /// Carries one node's marks for ever; whatever they tell is worth a look.
    async fn carry_marks(&self, at: usize) {
        let Some(journal) = self.journals.get(at) else { return };
        let wait = Duration::from_millis(self.config.marks_wait_ms);
        let mut pause = MARKS_PAUSE;
        loop {
            match journal.pull(wait).await {
                Ok(pulled) => {
                    pause = MARKS_PAUSE;
                    if pulled.counted.new > 0 {
                        self.signal.notify_one();
                    } else if pulled.new_numbers == 0 {
                        // A node that answers at once must not be asked in a frenzy.
                        tokio::time::sleep(MARKS_PAUSE).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(node = journal.name(), %error, "marks are not counted for now");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MARKS_PAUSE_MAX);
                }
            }
        }
    }
}
