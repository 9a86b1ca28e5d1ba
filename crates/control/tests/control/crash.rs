//! The gateway dies: its runtime goes with everything in it; node and disk stay.

use std::sync::Arc;
use std::time::Duration;

use domain::{Clock, FailReason, State, SteadyInstant};
use palatine_control::Config;
use palatine_control::fake::{FakeNode, FakeNodeSpec};

use crate::cluster::{ClusterSetup, TestCluster, id};

/// A node on a clock that outlives every gateway.
struct WallClock(std::time::Instant);

impl Clock for WallClock {
    fn now(&self) -> domain::UnixMillis {
        palatine_control::fake::TokioClock::START.plus(self.steady().millis)
    }

    fn steady(&self) -> SteadyInstant {
        SteadyInstant { boot: [1; 16], millis: u64::try_from(self.0.elapsed().as_millis()).unwrap() }
    }
}

struct RestartableGateway {
    setup: ClusterSetup,
    clock: Arc<dyn Clock>,
    node: FakeNode,
}

impl RestartableGateway {
    fn new(spec: FakeNodeSpec) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(WallClock(std::time::Instant::now()));
        let node = FakeNode::new("node-1", Arc::clone(&clock), spec, 1);
        // Its patience is on the wall clock here.
        let config = Config { settle_ms: 50, ..Config::default() };
        Self { setup: ClusterSetup { config, ..ClusterSetup::default() }, clock, node }
    }

    /// One gateway's life, which ends wherever it is when `story` returns.
    fn gateway<T>(&self, story: impl AsyncFnOnce(&TestCluster) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let cluster = self.setup.start_over(vec![self.node.clone()], Arc::clone(&self.clock));
            story(&cluster).await
        })
    }
}

#[test]
fn dying_between_reservation_and_creation_frees_the_wallet() {
    let restartable = RestartableGateway::new(FakeNodeSpec::default());
    restartable.gateway(async |cluster| cluster.reserve(1).await);
    restartable.gateway(async |cluster| {
        cluster.until("the wallet is free", async |cluster| cluster.is_free(1).await).await;
        assert_eq!(cluster.state(1).await, State::Failed(FailReason::Interrupted));
        cluster.spawned(2).await;
    });
    assert_eq!(restartable.node.created(), 1);
}

#[test]
fn dying_after_placement_and_before_creation_frees_the_wallet() {
    let restartable = RestartableGateway::new(FakeNodeSpec::default());
    restartable.gateway(async |cluster| {
        cluster.reserve(1).await;
        cluster.store.place(id(1), "node-1", cluster.now()).await.unwrap();
    });
    restartable.gateway(async |cluster| {
        cluster.until("the wallet is free", async |cluster| cluster.is_free(1).await).await;
        assert_eq!(cluster.state(1).await, State::Failed(FailReason::Interrupted));
    });
}

#[test]
fn dying_between_creation_and_readiness_gives_a_ready_agent_under_its_id() {
    let restartable = RestartableGateway::new(FakeNodeSpec { boot: None, ..FakeNodeSpec::default() });
    restartable.gateway(async |cluster| {
        cluster.order(1).await;
        cluster.until("it boots", async |cluster| cluster.state(1).await == State::Booting).await;
    });
    restartable.node.make_ready(id(1));
    restartable.gateway(async |cluster| {
        cluster.until("it is ready", async |cluster| cluster.state(1).await == State::Ready).await;
        assert_eq!(cluster.store.get(id(1)).await.unwrap().unwrap().runtime.as_deref(), Some("qemu-tcg"));
    });
    assert_eq!((restartable.node.created(), restartable.node.running()), (1, vec![id(1)]));
}

#[test]
fn dying_at_any_step_of_a_spawn_leaves_a_ready_agent_or_a_free_wallet_and_no_orphan() {
    for steps in 0..20 {
        let restartable =
            RestartableGateway::new(FakeNodeSpec { boot: Some(Duration::ZERO), ..FakeNodeSpec::default() });
        restartable.gateway(async |cluster| {
            cluster.order(1).await;
            // The writer's thread is on real time: so is this death.
            let dies = std::time::Instant::now() + Duration::from_micros(500) * steps;
            while std::time::Instant::now() < dies {
                tokio::task::yield_now().await;
            }
        });
        restartable.gateway(async |cluster| {
            cluster
                .until("it is ready or free", async |cluster| {
                    cluster.state(1).await == State::Ready || cluster.is_free(1).await
                })
                .await;
            let ready = cluster.state(1).await == State::Ready;
            let wanted = if ready { vec![id(1)] } else { vec![] };
            cluster.until("the node runs what is owned", async |cluster| cluster.node().running() == wanted).await;
        });
    }
}

#[test]
fn dying_during_a_stop_finishes_it() {
    let restartable = RestartableGateway::new(FakeNodeSpec::default());
    restartable.gateway(async |cluster| {
        cluster.spawned(1).await;
        let stop = domain::Event::Stop(domain::StopReason::Requested);
        cluster.store.advance(id(1), stop, cluster.now()).await.unwrap();
    });
    restartable.gateway(async |cluster| {
        cluster.until("the wallet is free", async |cluster| cluster.is_free(1).await).await;
    });
    assert!(restartable.node.running().is_empty());
}

#[test]
fn usage_is_exact_over_deaths() {
    let restartable = RestartableGateway::new(FakeNodeSpec { page: 2, ..FakeNodeSpec::default() });
    for n in 1..=4 {
        restartable.gateway(async |cluster| {
            cluster.spawned(n).await;
            restartable.node.crash(id(n));
        });
        restartable.node.crash(id(n));
    }
    restartable.gateway(async |cluster| {
        for n in 1..=4 {
            cluster.finish(cluster.control.stop(id(n), domain::StopReason::Requested)).await.unwrap();
        }
        for n in 1..=4 {
            let marks = cluster.node().history();
            let of_it = marks.iter().filter(|mark| mark.agent == id(n));
            let truth = of_it.fold(domain::Meter::default(), |meter, mark| meter.count(mark.mark));
            assert_eq!(cluster.uptime(n).await, truth.uptime_ms(cluster.now()), "agent {n}");
        }
    });
}
