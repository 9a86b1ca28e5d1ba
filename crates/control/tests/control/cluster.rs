//! A control plane on paused time.
//!
//! The store's threads know no paused time, so it is never left to run by
//! itself: [`TestCluster::until`] moves it on by small steps, and lets everybody's
//! reads and writes through between two of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chain::fake::FakeBalances;
use domain::{Clock, State, Tiers, UnixMillis};
use fixtures::PATIENCE;
pub(crate) use fixtures::{pod, run as id, wallet};
use palatine_control::fake::{FakeNode, FakeNodeSpec, TokioClock};
use palatine_control::{Config, Control, Node, SpawnError, SpawnHandle, SpawnOrder};
use store::{Admission, ReplayKey, RunRecord, RunReservation, Sqlite, Store};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use wire::Environment;
use wire::v1::node::RuntimeName;

/// How far time moves in one step.
pub(crate) const STEP: Duration = Duration::from_millis(100);
/// For how long a signed message is accepted.
const ACCEPTED_MS: u64 = 330_000;

/// A gateway's inside, its nodes and its chain.
pub(crate) struct TestCluster {
    pub(crate) store: Store,
    pub(crate) control: Control,
    pub(crate) nodes: Vec<FakeNode>,
    pub(crate) balances: Arc<FakeBalances>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stopping: CancellationToken,
    spinner: tokio::task::JoinHandle<()>,
}

/// What a cluster is built of; outlives it.
pub(crate) struct ClusterSetup {
    pub(crate) dir: TempDir,
    pub(crate) config: Config,
    pub(crate) nodes: Vec<FakeNodeSpec>,
}

impl Default for ClusterSetup {
    fn default() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), config: Config::default(), nodes: vec![FakeNodeSpec::default()] }
    }
}

impl ClusterSetup {
    pub(crate) fn booting_for(boot: Option<Duration>) -> Self {
        Self { nodes: vec![FakeNodeSpec { boot, ..FakeNodeSpec::default() }], ..Self::default() }
    }

    pub(crate) fn store(&self) -> Store {
        // Paused time jumps; the store's deadline is on it too.
        let config = store::Config { timeout_ms: 3_600_000, ..fixtures::store_config(&self.dir) };
        Sqlite::open(&config).unwrap().into()
    }

    pub(crate) fn nodes(&self, clock: &Arc<dyn Clock>) -> Vec<FakeNode> {
        let node = |(n, spec): (u64, &FakeNodeSpec)| FakeNode::new(&format!("node-{n}"), Arc::clone(clock), *spec, n);
        (1..).zip(&self.nodes).map(node).collect()
    }

    /// Opens a cluster with nodes of its own. Time stands still from here on.
    pub(crate) fn start(&self) -> TestCluster {
        tokio::time::pause();
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
        let nodes = self.nodes(&clock);
        self.start_over(nodes, clock)
    }

    /// Opens a cluster over nodes that are there already.
    pub(crate) fn start_over(&self, nodes: Vec<FakeNode>, clock: Arc<dyn Clock>) -> TestCluster {
        // Time that nobody moves does not move: somebody is always awake.
        let spinner = tokio::spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
        let store = self.store();
        let balances = Arc::new(FakeBalances::with_default_balance(10_000_000));
        let stopping = CancellationToken::new();
        let control = Control::start(
            self.config.clone(),
            store.clone(),
            nodes.iter().cloned().map(|node| Arc::new(node) as Arc<dyn Node>).collect(),
            Arc::clone(&balances) as Arc<dyn chain::Balances>,
            Tiers::romulus(),
            Arc::clone(&clock),
            stopping.clone(),
        );
        TestCluster { store, control, nodes, balances, clock, stopping, spinner }
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.spinner.abort();
    }
}

/// Run `n` of wallet `holder`, asked for now.
pub(crate) fn reservation(holder: u64, n: u64, now: UnixMillis) -> RunReservation {
    let replay_key = Some(ReplayKey { expires_at: now.plus(ACCEPTED_MS), ..fixtures::replay_key(n) });
    RunReservation { replay_key, now, ..fixtures::reservation(holder, n) }
}

impl TestCluster {
    pub(crate) fn node(&self) -> &FakeNode {
        &self.nodes[0]
    }

    pub(crate) fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    pub(crate) async fn reserve(&self, n: u64) -> RunRecord {
        match self.store.reserve(reservation(n, n, self.now())).await.unwrap() {
            Admission::Reserved(record) => record,
            other => panic!("not reserved: {other:?}"),
        }
    }

    pub(crate) async fn state(&self, n: u64) -> State {
        self.store.get(id(n)).await.unwrap().unwrap().state
    }

    pub(crate) async fn is_free(&self, n: u64) -> bool {
        self.store.live_of(wallet(n)).await.unwrap().is_empty()
    }

    /// What wallet `n` used, in milliseconds.
    pub(crate) async fn uptime(&self, n: u64) -> u64 {
        self.store.usage(wallet(n), self.now()).await.unwrap().0.uptime_ms
    }

    /// One step of time, with everybody's reads and writes around it.
    pub(crate) async fn step(&self) {
        self.settle().await;
        tokio::time::advance(STEP).await;
        self.settle().await;
    }

    /// Lets everybody who can go on go on, the store's threads included.
    async fn settle(&self) {
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
        // Answered behind whatever was asked before.
        let nobody = id(0);
        let _ = tokio::join!(self.store.note_balance(nobody, store::BelowTier::default()), self.store.get(nobody));
    }

    /// Moves time until the future has come to its end.
    pub(crate) async fn finish<T>(&self, work: impl Future<Output = T>) -> T {
        let began = Instant::now();
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.step() => assert!(began.elapsed() < PATIENCE, "the work never ends"),
            }
        }
    }

    /// Moves time until it is so.
    pub(crate) async fn until(&self, what: &str, is_so: impl AsyncFn(&Self) -> bool) {
        let began = Instant::now();
        while !is_so(self).await {
            assert!(began.elapsed() < PATIENCE, "never so: {what}");
            self.step().await;
        }
    }

    /// Moves time on by this much.
    pub(crate) async fn pass(&self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < end {
            self.step().await;
        }
    }

    /// Orders agent `n` of wallet `n`, which must be reserved. It is brought up whether
    /// what this returns is kept or not.
    pub(crate) async fn order(&self, n: u64) -> SpawnHandle {
        self.order_run(reservation(n, n, self.now())).await.expect("it is reserved")
    }

    /// Orders a run. `None`: something stands in its way.
    pub(crate) async fn order_run(&self, reservation: RunReservation) -> Option<SpawnHandle> {
        self.order_run_in(&RuntimeName::ALL, reservation).await
    }

    /// The same, in one of these runtimes.
    pub(crate) async fn order_run_in(
        &self,
        runtimes: &[RuntimeName],
        reservation: RunReservation,
    ) -> Option<SpawnHandle> {
        let runtimes = runtimes.to_vec();
        let order = SpawnOrder { reservation, env: Environment::default(), runtimes, traceparent: None };
        let (admission, starting) = self.control.spawn(order, |_| {}).await.unwrap();
        matches!(admission, Admission::Reserved(_)).then_some(starting)
    }

    /// Spawns agent `n` of wallet `n`.
    pub(crate) async fn spawn(&self, n: u64) -> Result<RunRecord, SpawnError> {
        let starting = self.order(n).await;
        self.finish(starting.ready()).await
    }

    /// Spawns, and must get a ready agent.
    pub(crate) async fn spawned(&self, n: u64) -> RunRecord {
        self.spawn(n).await.unwrap()
    }
}
