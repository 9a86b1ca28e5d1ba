use std::time::Duration;

use domain::{EndReason, State, StopReason};
use palatine_control::fake::{Build, Chaos, Fate};
use palatine_control::{SpawnError, StopError};
use store::StoreError;
use wire::Environment;

use crate::house::{Ground, id, pod};

const REQUESTED: StopReason = StopReason::Requested;

#[tokio::test]
async fn a_stop_takes_the_agent_down_and_its_bill_is_exact_at_once() {
    let ground = Ground::default();
    let house = ground.house();
    house.spawned(1).await;
    house.pass(Duration::from_secs(7)).await;
    let record = house.finish(house.control.stop(id(1), REQUESTED)).await.unwrap();
    assert_eq!(record.state, State::Stopped(REQUESTED));
    assert!(house.node().running().is_empty());
    let marks = house.node().history();
    let truth = marks[2].mark.at.since(marks[1].mark.at);
    assert_eq!(record.meter.uptime_ms(house.now()), truth);
    assert_eq!(house.uptime(1).await, truth);
    assert!(truth >= 7_000);
}

#[tokio::test]
async fn stopping_again_says_how_it_ended_and_an_unknown_agent_is_an_error() {
    let ground = Ground::default();
    let house = ground.house();
    house.spawned(1).await;
    let first = house.finish(house.control.stop(id(1), REQUESTED)).await.unwrap();
    let again = house.finish(house.control.stop(id(1), StopReason::Operator)).await.unwrap();
    assert_eq!(first, again);
    let unknown = house.finish(house.control.stop(id(9), REQUESTED)).await.unwrap_err();
    assert!(matches!(unknown, StopError::Store(StoreError::Unknown(who)) if who == id(9)));
}

#[tokio::test]
async fn a_stop_while_the_node_is_silent_holds_the_wallet_until_the_node_confirms() {
    let ground = Ground::default();
    let house = ground.house();
    house.spawned(1).await;
    house.node().set_down(true);
    let record = house.finish(house.control.stop(id(1), REQUESTED)).await.unwrap();
    assert_eq!(record.state, State::Stopping(EndReason::Stopped(REQUESTED)));
    house.pass(Duration::from_secs(30)).await;
    assert!(!house.is_free(1).await);
    house.node().set_down(false);
    house.until("the wallet is free", async |house| house.is_free(1).await).await;
    assert!(house.node().running().is_empty());
    assert_eq!(house.state(1).await, State::Stopped(REQUESTED));
}

#[tokio::test]
async fn a_stop_during_a_spawn_ends_both() {
    let ground = Ground::booting_for(None);
    let house = ground.house();
    let record = house.reserve(1).await;
    let spawning = tokio::spawn({
        let control = house.control.clone();
        async move { control.spawn(record, Environment::default(), None).await }
    });
    house.until("it boots", async |house| house.state(1).await == State::Booting).await;
    let record = house.finish(house.control.stop(id(1), REQUESTED)).await.unwrap();
    assert_eq!(record.state, State::Stopped(REQUESTED));
    let refused = house.finish(spawning).await.unwrap().unwrap_err();
    assert!(matches!(refused, SpawnError::Stopped(REQUESTED)), "{refused}");
    assert!(house.node().running().is_empty());
}

#[tokio::test]
async fn a_stop_before_the_spawn_has_begun_leaves_nothing_to_spawn() {
    let ground = Ground::default();
    let house = ground.house();
    let record = house.reserve(1).await;
    let stopped = house.finish(house.control.stop(id(1), REQUESTED)).await.unwrap();
    assert_eq!(stopped.state, State::Stopped(REQUESTED));
    let refused = house.finish(house.control.spawn(record, Environment::default(), None)).await.unwrap_err();
    assert!(matches!(refused, SpawnError::Stopped(REQUESTED)), "{refused}");
    assert_eq!(house.node().created(), 0);
}

#[tokio::test]
async fn a_stop_that_overtakes_a_creation_waits_for_it() {
    let ground = Ground::default();
    let house = ground.house();
    house.node().set_next_creation(Fate::Slow(Duration::from_secs(3)));
    let record = house.reserve(1).await;
    house.control.spawn_detached(record, Environment::default(), None);
    house.until("it is placed", async |house| house.state(1).await == State::Placed).await;
    let control = house.control.clone();
    tokio::spawn(async move { control.stop(id(1), REQUESTED).await });
    for _ in 0..80 {
        let free = house.is_free(1).await;
        assert!(!free || house.node().running().is_empty(), "a free wallet's agent runs");
        house.step().await;
    }
    assert_eq!(house.state(1).await, State::Stopped(REQUESTED));
    assert_eq!(house.node().created(), 1);
}

#[tokio::test]
async fn a_node_that_hangs_holds_up_neither_the_callers_nor_other_nodes() {
    let ground = Ground { builds: vec![Build { cores: 2, ..Build::default() }, Build::default()], ..Ground::default() };
    let house = ground.house();
    house.spawned(1).await;
    house.spawned(2).await;
    assert_eq!((house.nodes[0].running(), house.nodes[1].running()), (vec![id(1)], vec![id(2)]));
    house.nodes[0].set_chaos(Chaos { slow: Duration::from_secs(3_000), ..Chaos::default() });
    let began = house.now();
    let record = house.finish(house.control.stop(id(1), REQUESTED)).await.unwrap();
    assert_eq!(record.state, State::Stopping(EndReason::Stopped(REQUESTED)));
    assert!(house.now().since(began) < 20_000);
    house.nodes[1].crash(id(2));
    let began = house.now();
    house
        .until("the other's restart is seen", async |house| {
            house.store.get(id(2)).await.unwrap().unwrap().restarts == 1
        })
        .await;
    let took = house.now().since(began);
    assert!(took < 15_000, "{took}");
    house.nodes[0].set_chaos(Chaos::default());
    house.until("the wallet is free", async |house| house.is_free(1).await).await;
    assert!(house.nodes[0].running().is_empty());
}

#[tokio::test]
async fn twenty_stops_at_once_are_one() {
    let ground = Ground::default();
    let house = ground.house();
    house.spawned(1).await;
    let stops: Vec<_> = (0..20)
        .map(|_| {
            let control = house.control.clone();
            tokio::spawn(async move { control.stop(id(1), REQUESTED).await.unwrap().state })
        })
        .collect();
    for stop in stops {
        assert_eq!(house.finish(stop).await.unwrap(), State::Stopped(REQUESTED));
    }
    let changes = house.store.changes(pod(1), 0).await.unwrap();
    assert_eq!(changes.iter().filter(|change| !change.state.is_live()).count(), 1);
}
