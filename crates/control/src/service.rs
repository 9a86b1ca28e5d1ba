//! [`Control`]: what the gateway calls, and the loops behind it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chain::Balances;
use domain::{Clock, PodId, RunId, SnapshotId, StopReason, Tier, TierName, Tiers, VolumeId, Wallet};
use store::{Admission, RunExpiry, RunRecord, SnapshotRecord, Store, StoreError, VolumeRecord};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use wire::v1::node::GuestReport;

use crate::config::Config;
use crate::context::Context;
use crate::fleet::inventory::Fleet;
use crate::fleet::node::Node;
use crate::pods::admit::{AdmitError, Grant, SpawnAsk};
use crate::pods::error::{SpawnError, StopError};
use crate::pods::inflight::Inflight;
use crate::pods::lifetime::LifetimeError;
use crate::pods::locks::{RunLocks, UnansweredCreations};
use crate::pods::spawn::{SpawnHandle, SpawnOrder};
use crate::pods::status::NoNode;
use crate::pods::volumes::{VolumeError, VolumeGrowthOrder, VolumeOrder};
use crate::reconcile::collector::MarkCollector;

/// The control plane: a handle that is cheap to clone.
#[derive(Clone)]
pub struct Control {
    context: Arc<Context>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
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
        clock: Arc<dyn Clock>,
        stopping: CancellationToken,
    ) -> Self {
        let collector = |node: &Arc<dyn Node>| {
            MarkCollector::new(Arc::clone(node), store.clone(), Arc::clone(&clock), config.node_timeout())
        };
        let context = Arc::new(Context {
            collectors: nodes.iter().map(collector).collect(),
            started_at: clock.now(),
            fleet: Arc::new(Fleet::new(nodes, &config)),
            config,
            store,
            balances,
            tiers,
            clock,
            spawning: Inflight::default(),
            leaving: Inflight::default(),
            locks: RunLocks::default(),
            unanswered: UnansweredCreations::default(),
            missing: Mutex::default(),
            waiting: Mutex::default(),
            signal: Notify::new(),
            stopping,
            tasks: TaskTracker::new(),
        });
        let control = Self { context };
        control.start_loops();
        control
    }

    fn start_loops(&self) {
        for at in 0..self.context.collectors.len() {
            self.run(move |context| async move { context.fleet.watch(at).await });
            self.run(move |context| async move { context.carry_marks(at).await });
        }
        self.run(|context| async move { context.reconcile_for_ever().await });
        self.run(|context| async move { context.recheck_for_ever().await });
        self.run(|context| async move { context.prune_for_ever().await });
        self.run(|context| async move { context.settle_volumes_for_ever().await });
        self.run(|context| async move { context.settle_snapshots_for_ever().await });
    }

    /// Runs a loop until the control plane goes down.
    fn run<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Arc<Context>) -> F) {
        let stopping = self.context.stopping.clone();
        let work = work(Arc::clone(&self.context));
        self.context.tasks.spawn(async move {
            stopping.run_until_cancelled(work).await;
        });
    }

    /// The nodes, and what they said of themselves lately.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.context.fleet
    }

    /// In which time a new agent must be ready.
    #[must_use]
    pub fn spawn_timeout(&self) -> Duration {
        self.context.config.spawn_timeout()
    }

    /// What a holder gets of what it asks for; nothing is written.
    ///
    /// # Errors
    /// [`AdmitError`] says why it gets nothing.
    pub async fn admit(&self, ask: &SpawnAsk<'_>) -> Result<Grant, AdmitError> {
        self.context.admit(ask).await
    }

    /// The highest tier that a holder's balance reaches.
    ///
    /// # Errors
    /// [`AdmitError`] says why it reaches none, or that nobody can tell.
    pub async fn tier_of(&self, holder: &Wallet) -> Result<(TierName, Tier), AdmitError> {
        self.context.tier_of(holder).await
    }

    /// Reserves a run and brings it up, in one task that runs to its end even if the
    /// caller goes away: to a ready agent, or until what was begun is taken down. Returns
    /// when it is reserved, or is not; `on_reserved` is called in between.
    ///
    /// # Errors
    /// Faults of the store: then nothing is reserved.
    pub async fn spawn(
        &self,
        order: SpawnOrder,
        on_reserved: impl FnOnce(&RunRecord) + Send + 'static,
    ) -> Result<(Admission, SpawnHandle), SpawnError> {
        self.context.spawn(order, on_reserved).await
    }

    /// Stops a run: that it is to stop is durable first, then the node is told. The
    /// record is still `stopping` when its node did not answer in time; it will end. Its
    /// POD's data is kept, unless the reason says that the POD is removed.
    /// Runs to its end even if the caller goes away.
    ///
    /// # Errors
    /// [`StopError::Store`] for an unknown run or a fault of the store.
    pub async fn stop(&self, id: RunId, reason: StopReason) -> Result<RunRecord, StopError> {
        let context = Arc::clone(&self.context);
        let work = async move { context.stop(id, reason).await };
        let done = self.context.tasks.spawn(work.in_current_span()).await;
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
        let context = Arc::clone(&self.context);
        let work = async move { context.remove(pod).await };
        let done = self.context.tasks.spawn(work.in_current_span()).await;
        done.map_err(|_| StopError::CutOff)?
    }

    /// Makes a volume. What was cut off is taken up later, and the same order again goes on
    /// with it.
    ///
    /// # Errors
    /// [`VolumeError`] says why there is none.
    pub async fn create_volume(&self, order: VolumeOrder) -> Result<VolumeRecord, VolumeError> {
        self.context.create_volume(order).await
    }

    /// Grows a volume that no live agent has.
    ///
    /// # Errors
    /// [`VolumeError`] says why it stays as it is.
    pub async fn grow_volume(&self, order: VolumeGrowthOrder) -> Result<VolumeRecord, VolumeError> {
        self.context.grow_volume(order).await
    }

    /// Removes a volume that no live agent has.
    ///
    /// # Errors
    /// [`VolumeError`]; with [`VolumeError::NodeUnavailable`] nobody gets it any more, and it
    /// goes when its node answers.
    pub async fn remove_volume(&self, holder: Wallet, id: VolumeId) -> Result<(), VolumeError> {
        self.context.remove_volume(holder, id).await
    }

    /// Has a volume that no live agent has copied; what comes back may still be made.
    ///
    /// # Errors
    /// [`VolumeError`]; with [`VolumeError::NodeUnavailable`] it may be made yet.
    pub async fn create_snapshot(
        &self,
        holder: Wallet,
        volume: VolumeId,
        id: SnapshotId,
    ) -> Result<SnapshotRecord, VolumeError> {
        self.context.create_snapshot(holder, volume, id).await
    }

    /// Has a volume that no live agent has put back to what a snapshot of it holds; what comes
    /// back may still be underway.
    ///
    /// # Errors
    /// As [`Control::create_snapshot`].
    pub async fn restore_volume(
        &self,
        holder: Wallet,
        volume: VolumeId,
        id: SnapshotId,
    ) -> Result<SnapshotRecord, VolumeError> {
        self.context.restore_volume(holder, volume, id).await
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// As [`Control::remove_volume`].
    pub async fn remove_snapshot(&self, holder: Wallet, volume: VolumeId, id: SnapshotId) -> Result<(), VolumeError> {
        self.context.remove_snapshot(holder, volume, id).await
    }

    /// What a volume takes of its node's disk, where the node answers.
    pub async fn volume_bytes(&self, volume: &VolumeRecord) -> Option<u64> {
        self.context.volume_bytes(volume).await
    }

    /// When a time to live of so many seconds, from now on, is over.
    ///
    /// # Errors
    /// [`LifetimeError`] for one that is out of bounds, or a fault of the store.
    pub async fn expiry(&self, seconds: u64) -> Result<RunExpiry, LifetimeError> {
        self.context.expiry(seconds).await
    }

    /// Gives a run so many seconds to live from now on, or no end; `None` of one that is ending
    /// or has ended. When they are over it is stopped as by its holder: its POD's data is kept,
    /// and an ephemeral one is removed.
    ///
    /// # Errors
    /// As [`Control::expiry`], and for an unknown run.
    pub async fn set_lifetime(&self, id: RunId, seconds: Option<u64>) -> Result<Option<RunRecord>, LifetimeError> {
        self.context.set_lifetime(id, seconds).await
    }

    /// The last run of a POD, if it is this holder's.
    ///
    /// # Errors
    /// A fault of the store.
    pub async fn owned(&self, pod: PodId, holder: Wallet) -> Result<Option<RunRecord>, StoreError> {
        self.context.owned(pod, holder).await
    }

    /// The node on which a run is reached.
    ///
    /// # Errors
    /// [`NoNode`] says why on none.
    pub fn node_of(&self, record: &RunRecord) -> Result<Arc<dyn Node>, NoNode> {
        self.context.node_of(record)
    }

    /// What the guest of a run says of its agent: its own word. `None` where it says nothing, or
    /// its node does not answer at once.
    pub async fn guest_report(&self, record: &RunRecord) -> Option<GuestReport> {
        self.context.guest_report(record).await
    }

    /// Asks for a round of reconciliation now.
    pub fn look(&self) {
        self.context.signal.notify_one();
    }

    /// After the token given to [`Control::start`] is cancelled: returns when
    /// the loops have ended, and every spawn and stop that was under way.
    pub async fn closed(&self) {
        self.context.tasks.close();
        self.context.tasks.wait().await;
    }
}
