//! The gateway dies: its runtime goes with everything in it; node and disk stay.

use std::sync::Arc;
use std::time::Duration;

use domain::{FailReason, State};
use palatine_control::fake::{Build, FakeNode};
use palatine_control::{Clock, Config};
use wire::Environment;

use crate::house::{Ground, House, id};

/// A node on a clock that outlives every gateway.
struct WallClock(std::time::Instant);

impl Clock for WallClock {
    fn now(&self) -> domain::UnixMillis {
        let past = u64::try_from(self.0.elapsed().as_millis()).unwrap();
        palatine_control::fake::TokioClock::START.plus(past)
    }
}

struct World {
    ground: Ground,
    clock: Arc<dyn Clock>,
    node: FakeNode,
}

impl World {
    fn new(build: Build) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(WallClock(std::time::Instant::now()));
        let node = FakeNode::new("node-1", Arc::clone(&clock), build, 1);
        // Its patience is on the wall clock here.
        let config = Config { settle_ms: 50, ..Config::default() };
        Self { ground: Ground { config, ..Ground::default() }, clock, node }
    }

    /// One gateway's life, which ends wherever it is when `story` returns.
    fn gateway<T>(&self, story: impl AsyncFnOnce(&House) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let house = self.ground.house_over(vec![self.node.clone()], Arc::clone(&self.clock));
            story(&house).await
        })
    }
}

#[test]
fn dying_between_reservation_and_creation_frees_the_wallet() {
    let world = World::new(Build::default());
    world.gateway(async |house| house.reserve(1).await);
    world.gateway(async |house| {
        house.until("the wallet is free", async |house| house.is_free(1).await).await;
        assert_eq!(house.state(1).await, State::Failed(FailReason::Interrupted));
        house.spawned(2).await;
    });
    assert_eq!(world.node.created(), 1);
}

#[test]
fn dying_after_placement_and_before_creation_frees_the_wallet() {
    let world = World::new(Build::default());
    world.gateway(async |house| {
        house.reserve(1).await;
        house.store.place(id(1), "node-1", house.now()).await.unwrap();
    });
    world.gateway(async |house| {
        house.until("the wallet is free", async |house| house.is_free(1).await).await;
        assert_eq!(house.state(1).await, State::Failed(FailReason::Interrupted));
    });
}

#[test]
fn dying_between_creation_and_readiness_gives_a_ready_agent_under_its_id() {
    let world = World::new(Build { boot: None, ..Build::default() });
    world.gateway(async |house| {
        let record = house.reserve(1).await;
        house.control.spawn_detached(record, Environment::default(), None);
        house.until("it boots", async |house| house.state(1).await == State::Booting).await;
    });
    world.node.make_ready(id(1));
    world.gateway(async |house| {
        house.until("it is ready", async |house| house.state(1).await == State::Ready).await;
        assert_eq!(house.store.get(id(1)).await.unwrap().unwrap().runtime.as_deref(), Some("qemu-tcg"));
    });
    assert_eq!((world.node.created(), world.node.running()), (1, vec![id(1)]));
}

#[test]
fn dying_at_any_step_of_a_spawn_leaves_a_ready_agent_or_a_free_wallet_and_no_orphan() {
    for steps in 0..20 {
        let world = World::new(Build { boot: Some(Duration::ZERO), ..Build::default() });
        world.gateway(async |house| {
            let record = house.reserve(1).await;
            house.control.spawn_detached(record, Environment::default(), None);
            // The writer's thread is on real time: so is this death.
            let dies = std::time::Instant::now() + Duration::from_micros(500) * steps;
            while std::time::Instant::now() < dies {
                tokio::task::yield_now().await;
            }
        });
        world.gateway(async |house| {
            house
                .until("it is ready or free", async |house| {
                    house.state(1).await == State::Ready || house.is_free(1).await
                })
                .await;
            let ready = house.state(1).await == State::Ready;
            let wanted = if ready { vec![id(1)] } else { vec![] };
            house.until("the node runs what is owned", async |house| house.node().running() == wanted).await;
        });
    }
}

#[test]
fn dying_during_a_stop_finishes_it() {
    let world = World::new(Build::default());
    world.gateway(async |house| {
        house.spawned(1).await;
        let stop = domain::Event::Stop(domain::StopReason::Requested);
        house.store.advance(id(1), stop, house.now()).await.unwrap();
    });
    world.gateway(async |house| {
        house.until("the wallet is free", async |house| house.is_free(1).await).await;
    });
    assert!(world.node.running().is_empty());
}

#[test]
fn usage_is_exact_over_deaths() {
    let world = World::new(Build { page: 2, ..Build::default() });
    for n in 1..=4 {
        world.gateway(async |house| {
            house.spawned(n).await;
            world.node.crash(id(n));
        });
        world.node.crash(id(n));
    }
    world.gateway(async |house| {
        for n in 1..=4 {
            house.finish(house.control.stop(id(n), domain::StopReason::Requested)).await.unwrap();
        }
        for n in 1..=4 {
            let marks = house.node().history();
            let of_it = marks.iter().filter(|mark| mark.agent == id(n));
            let truth = of_it.fold(domain::Meter::default(), |meter, mark| meter.count(mark.mark));
            assert_eq!(house.uptime(n).await, truth.uptime_ms(house.now()), "agent {n}");
        }
    });
}
