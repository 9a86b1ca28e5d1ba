//! A time to live: by which clock, and what comes after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::{Clock, State, SteadyInstant, StopReason, UnixMillis};
use palatine_control::fake::TokioClock;
use palatine_control::{LifetimeError, SpawnError};
use store::{RunPod, RunReservation};

use crate::cluster::{ClusterSetup, TestCluster, id, pod, reservation, wallet};

const EXPIRED: State = State::Stopped(StopReason::Expired);

/// A clock that is set to the wrong time, on a machine that may start anew.
struct LyingClock {
    inner: TokioClock,
    lie_ms: AtomicU64,
    boot: AtomicU64,
}

impl LyingClock {
    fn new() -> Arc<Self> {
        Arc::new(Self { inner: TokioClock::default(), lie_ms: AtomicU64::new(0), boot: AtomicU64::new(0) })
    }
}

impl Clock for LyingClock {
    fn now(&self) -> UnixMillis {
        self.inner.now().plus(self.lie_ms.load(Ordering::SeqCst))
    }

    fn steady(&self) -> SteadyInstant {
        let mut boot = [0; 16];
        boot[..8].copy_from_slice(&self.boot.load(Ordering::SeqCst).to_be_bytes());
        SteadyInstant { boot, ..self.inner.steady() }
    }
}

/// Spawns run 1 of wallet 1, with so many seconds to live.
async fn spawn(cluster: &TestCluster, seconds: u64, ephemeral: bool) {
    let expiry = Some(cluster.finish(cluster.control.expiry(seconds)).await.unwrap());
    let pod = RunPod::New { name: None, ephemeral };
    let order = RunReservation { expiry, pod, ..reservation(1, 1, cluster.now()) };
    let starting = cluster.order_run(order).await.unwrap();
    cluster.finish(starting.ready()).await.unwrap();
}

async fn is_free(cluster: &TestCluster) -> bool {
    cluster.is_free(1).await
}

#[tokio::test]
async fn an_agent_whose_time_to_live_is_over_is_stopped_and_its_data_is_kept() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    spawn(&cluster, 60, false).await;
    let record = cluster.store.get(id(1)).await.unwrap().unwrap();
    assert_eq!(record.expiry.unwrap().at, record.spawned_at.plus(60_000));
    cluster.pass(Duration::from_secs(55)).await;
    assert_eq!(cluster.state(1).await, State::Ready);
    cluster.until("it is stopped", is_free).await;
    let ended = cluster.store.get(id(1)).await.unwrap().unwrap();
    assert_eq!(ended.state, EXPIRED);
    assert!(ended.data.is_some() && cluster.node().running().is_empty());
    let lived_ms = ended.ended_at.unwrap().since(ended.spawned_at);
    assert!((60_000..66_000).contains(&lived_ms), "{lived_ms}");
}

#[tokio::test]
async fn an_ephemeral_agent_whose_time_to_live_is_over_leaves_nothing() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    spawn(&cluster, 5, true).await;
    cluster.until("it is removed", is_free).await;
    assert!(cluster.store.last_run(pod(1)).await.unwrap().is_none());
    assert!(cluster.node().running().is_empty());
}

#[tokio::test]
async fn a_time_to_live_is_set_anew_or_taken_away_while_the_agent_runs_and_no_more_when_it_ends() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    spawn(&cluster, 10, false).await;
    cluster.pass(Duration::from_secs(7)).await;
    let given = cluster.finish(cluster.control.set_lifetime(id(1), Some(30))).await.unwrap().unwrap();
    let left = given.expiry.unwrap().at.since(cluster.now());
    assert!((29_000..=30_000).contains(&left), "{left}");
    cluster.pass(Duration::from_secs(25)).await;
    assert_eq!(cluster.state(1).await, State::Ready);
    let endless = cluster.finish(cluster.control.set_lifetime(id(1), None)).await.unwrap().unwrap();
    assert_eq!(endless.expiry, None);
    cluster.pass(Duration::from_secs(120)).await;
    assert_eq!(cluster.state(1).await, State::Ready);
    cluster.finish(cluster.control.set_lifetime(id(1), Some(1))).await.unwrap().unwrap();
    cluster.until("it is stopped", is_free).await;
    assert_eq!(cluster.state(1).await, EXPIRED);
    assert_eq!(cluster.finish(cluster.control.set_lifetime(id(1), Some(60))).await.unwrap(), None);
}

#[tokio::test]
async fn a_time_to_live_that_is_none_or_more_than_the_operator_allows_is_refused() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    spawn(&cluster, 2_592_000, false).await;
    for seconds in [0, 2_592_001, u64::MAX] {
        let refused = cluster.finish(cluster.control.set_lifetime(id(1), Some(seconds))).await.unwrap_err();
        assert!(
            matches!(refused, LifetimeError::OutOfBounds { most: 2_592_000, asked } if asked == seconds),
            "{refused}"
        );
    }
    assert!(cluster.store.get(id(1)).await.unwrap().unwrap().expiry.is_some());
}

#[tokio::test]
async fn a_clock_that_is_set_ends_no_agent_early_and_keeps_none_for_longer() {
    let setup = ClusterSetup::default();
    tokio::time::pause();
    let clock = LyingClock::new();
    let shared: Arc<dyn Clock> = clock.clone();
    let cluster = setup.start_over(setup.nodes(&shared), shared);
    spawn(&cluster, 60, false).await;
    clock.lie_ms.store(20 * 365 * 86_400_000, Ordering::SeqCst);
    cluster.pass(Duration::from_secs(50)).await;
    assert_eq!(cluster.state(1).await, State::Ready, "the clock went ahead by twenty years");
    clock.lie_ms.store(0, Ordering::SeqCst);
    cluster.pass(Duration::from_secs(15)).await;
    cluster.until("it is stopped", is_free).await;
    assert_eq!(cluster.state(1).await, EXPIRED);
}

#[tokio::test]
async fn a_gateway_that_was_away_counts_on_and_a_machine_that_starts_anew_from_where_it_was() {
    let setup = ClusterSetup::default();
    tokio::time::pause();
    let clock = LyingClock::new();
    let shared: Arc<dyn Clock> = clock.clone();
    let nodes = setup.nodes(&shared);
    let cluster = setup.start_over(nodes.clone(), Arc::clone(&shared));
    spawn(&cluster, 60, false).await;
    cluster.pass(Duration::from_secs(20)).await;
    close(cluster).await;
    // 30 seconds without a gateway, and the machine starts anew: those are not counted.
    tokio::time::advance(Duration::from_secs(30)).await;
    clock.boot.store(1, Ordering::SeqCst);
    let cluster = setup.start_over(nodes.clone(), Arc::clone(&shared));
    cluster.pass(Duration::from_secs(30)).await;
    assert_eq!(cluster.state(1).await, State::Ready);
    close(cluster).await;
    // As many while the machine goes on: they are.
    tokio::time::advance(Duration::from_secs(30)).await;
    let cluster = setup.start_over(nodes, shared);
    cluster.until("it is stopped", is_free).await;
    assert_eq!(cluster.state(1).await, EXPIRED);
}

/// Ends a gateway, and lets go of its store.
async fn close(cluster: TestCluster) {
    cluster.stopping.cancel();
    cluster.finish(cluster.control.closed()).await;
    drop(cluster);
    tokio::task::yield_now().await;
}

#[tokio::test]
async fn an_agent_whose_time_is_over_while_it_starts_is_no_more_brought_up() {
    let setup = ClusterSetup::booting_for(None);
    let cluster = setup.start();
    let expiry = Some(cluster.finish(cluster.control.expiry(3)).await.unwrap());
    let starting = cluster.order_run(RunReservation { expiry, ..reservation(1, 1, cluster.now()) }).await.unwrap();
    let refused = cluster.finish(starting.ready()).await.unwrap_err();
    assert!(matches!(refused, SpawnError::Stopped(StopReason::Expired)), "{refused}");
    assert!(cluster.store.live_of(wallet(1)).await.unwrap().is_empty());
    assert!(cluster.node().running().is_empty());
}
