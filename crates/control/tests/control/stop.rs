use std::time::Duration;

use domain::{EndReason, State, StopReason};
use palatine_control::fake::{CallOutcome, Chaos, FakeNodeSpec};
use palatine_control::{SpawnError, StopError};
use store::StoreError;

use crate::cluster::{ClusterSetup, id, pod};

const REQUESTED: StopReason = StopReason::Requested;

#[tokio::test]
async fn a_stop_takes_the_agent_down_and_its_bill_is_exact_at_once() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.spawned(1).await;
    cluster.pass(Duration::from_secs(7)).await;
    let record = cluster.finish(cluster.control.stop(id(1), REQUESTED)).await.unwrap();
    assert_eq!(record.state, State::Stopped(REQUESTED));
    assert!(cluster.node().running().is_empty());
    let marks = cluster.node().history();
    let truth = marks[2].mark.at.since(marks[1].mark.at);
    assert_eq!(record.meter.uptime_ms(cluster.now()), truth);
    assert_eq!(cluster.uptime(1).await, truth);
    assert!(truth >= 7_000);
}

#[tokio::test]
async fn stopping_again_says_how_it_ended_and_an_unknown_agent_is_an_error() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.spawned(1).await;
    let first = cluster.finish(cluster.control.stop(id(1), REQUESTED)).await.unwrap();
    let again = cluster.finish(cluster.control.stop(id(1), StopReason::Operator)).await.unwrap();
    assert_eq!(first, again);
    let unknown = cluster.finish(cluster.control.stop(id(9), REQUESTED)).await.unwrap_err();
    assert!(matches!(unknown, StopError::Store(StoreError::Unknown(who)) if who == id(9)));
}

#[tokio::test]
async fn a_stop_while_the_node_is_silent_holds_the_wallet_until_the_node_confirms() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.spawned(1).await;
    cluster.node().set_down(true);
    let record = cluster.finish(cluster.control.stop(id(1), REQUESTED)).await.unwrap();
    assert_eq!(record.state, State::Stopping(EndReason::Stopped(REQUESTED)));
    cluster.pass(Duration::from_secs(30)).await;
    assert!(!cluster.is_free(1).await);
    cluster.node().set_down(false);
    cluster.until("the wallet is free", async |cluster| cluster.is_free(1).await).await;
    assert!(cluster.node().running().is_empty());
    assert_eq!(cluster.state(1).await, State::Stopped(REQUESTED));
}

#[tokio::test]
async fn a_stop_during_a_spawn_ends_both() {
    let setup = ClusterSetup::booting_for(None);
    let cluster = setup.start();
    let starting = cluster.order(1).await;
    cluster.until("it boots", async |cluster| cluster.state(1).await == State::Booting).await;
    let record = cluster.finish(cluster.control.stop(id(1), REQUESTED)).await.unwrap();
    assert_eq!(record.state, State::Stopped(REQUESTED));
    let refused = cluster.finish(starting.ready()).await.unwrap_err();
    assert!(matches!(refused, SpawnError::Stopped(REQUESTED)), "{refused}");
    assert!(cluster.node().running().is_empty());
}

#[tokio::test]
async fn a_stop_before_a_node_is_told_leaves_nothing_to_spawn() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    // No node has said how it is: the spawn has to ask, and waits for the answer.
    cluster.node().set_chaos(Chaos { slow: Duration::from_secs(2), ..Chaos::default() });
    let starting = cluster.order(1).await;
    let stop = cluster.control.stop(id(1), REQUESTED);
    let (stopped, refused) = cluster.finish(async { tokio::join!(stop, starting.ready()) }).await;
    assert_eq!(stopped.unwrap().state, State::Stopped(REQUESTED));
    let refused = refused.unwrap_err();
    assert!(matches!(refused, SpawnError::Stopped(REQUESTED)), "{refused}");
    assert_eq!(cluster.node().created(), 0);
}

#[tokio::test]
async fn a_stop_that_overtakes_a_creation_waits_for_it() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.node().set_next_creation(CallOutcome::Slow(Duration::from_secs(3)));
    cluster.order(1).await;
    cluster.until("it is placed", async |cluster| cluster.state(1).await == State::Placed).await;
    let control = cluster.control.clone();
    tokio::spawn(async move { control.stop(id(1), REQUESTED).await });
    for _ in 0..80 {
        let free = cluster.is_free(1).await;
        assert!(!free || cluster.node().running().is_empty(), "a free wallet's agent runs");
        cluster.step().await;
    }
    assert_eq!(cluster.state(1).await, State::Stopped(REQUESTED));
    assert_eq!(cluster.node().created(), 1);
}

#[tokio::test]
async fn a_node_that_hangs_holds_up_neither_the_callers_nor_other_nodes() {
    let setup = ClusterSetup {
        nodes: vec![FakeNodeSpec { cores: 2, ..FakeNodeSpec::default() }, FakeNodeSpec::default()],
        ..ClusterSetup::default()
    };
    let cluster = setup.start();
    cluster.spawned(1).await;
    cluster.spawned(2).await;
    assert_eq!((cluster.nodes[0].running(), cluster.nodes[1].running()), (vec![id(1)], vec![id(2)]));
    cluster.nodes[0].set_chaos(Chaos { slow: Duration::from_secs(3_000), ..Chaos::default() });
    let began = cluster.now();
    let record = cluster.finish(cluster.control.stop(id(1), REQUESTED)).await.unwrap();
    assert_eq!(record.state, State::Stopping(EndReason::Stopped(REQUESTED)));
    assert!(cluster.now().since(began) < 20_000);
    cluster.nodes[1].crash(id(2));
    let began = cluster.now();
    cluster
        .until("the other's restart is seen", async |cluster| {
            cluster.store.get(id(2)).await.unwrap().unwrap().restarts == 1
        })
        .await;
    let took = cluster.now().since(began);
    assert!(took < 15_000, "{took}");
    cluster.nodes[0].set_chaos(Chaos::default());
    cluster.until("the wallet is free", async |cluster| cluster.is_free(1).await).await;
    assert!(cluster.nodes[0].running().is_empty());
}

#[tokio::test]
async fn twenty_stops_at_once_are_one() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.spawned(1).await;
    let stops: Vec<_> = (0..20)
        .map(|_| {
            let control = cluster.control.clone();
            tokio::spawn(async move { control.stop(id(1), REQUESTED).await.unwrap().state })
        })
        .collect();
    for stop in stops {
        assert_eq!(cluster.finish(stop).await.unwrap(), State::Stopped(REQUESTED));
    }
    let changes = cluster.store.changes(pod(1), 0).await.unwrap();
    assert_eq!(changes.iter().filter(|change| !change.state.is_live()).count(), 1);
}
