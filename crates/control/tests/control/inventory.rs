//! What the control plane knows of its nodes without asking them, and when it asks.

use std::time::Duration;

use domain::{FailReason, PlacementError, State, StopReason};
use palatine_control::fake::{Chaos, NodeBuild};
use palatine_control::{Config, Node, SpawnError};

use crate::cluster::{ClusterSetup, TestCluster, id};

/// Room for one agent.
fn small() -> NodeBuild {
    NodeBuild { memory_mib: 3_000, cores: 8, ..NodeBuild::default() }
}

/// A node that is asked so seldom that only a spawn asks it in the time of a test.
fn seldom() -> Config {
    Config { inventory_ms: 60_000, ..Config::default() }
}

/// Spawns, and says how long that took.
async fn timed(cluster: &TestCluster, n: u64) -> (Result<store::RunRecord, SpawnError>, u64) {
    let began = cluster.now();
    let outcome = cluster.spawn(n).await;
    (outcome, cluster.now().since(began))
}

#[tokio::test]
async fn a_spawn_asks_no_node_how_it_is_while_the_inventory_is_fresh() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.until("the node has said how it is", async |cluster| cluster.control.fleet().images().is_some()).await;
    // Whoever asks now has no answer for as long as a look may take.
    cluster.node().set_mute(true);
    let (spawned, took) = timed(&cluster, 1).await;
    assert_eq!(spawned.unwrap().state, State::Ready);
    assert!(took < 1_000, "it waited for {took} ms");
}

#[tokio::test]
async fn a_spawn_asks_where_nothing_is_known_or_what_is_known_is_old() {
    let setup = ClusterSetup { config: seldom(), ..ClusterSetup::default() };
    let cluster = setup.start();
    cluster.spawned(1).await;
    cluster.node().set_mute(true);
    // The question of the first minute has no answer; the answer of the first moment is old.
    cluster.pass(Duration::from_secs(121)).await;
    let silent = cluster.spawn(2).await.unwrap_err();
    assert!(matches!(silent, SpawnError::NodeUnavailable(Some(_))), "{silent}");
    assert!(cluster.is_free(2).await, "no node was told of it");
    cluster.node().set_mute(false);
    cluster.pass(Duration::from_secs(15)).await;
    let (spawned, took) = timed(&cluster, 3).await;
    assert_eq!(spawned.unwrap().state, State::Ready);
    assert!(took < 1_000, "it waited for {took} ms");
}

#[tokio::test]
async fn a_node_that_came_back_is_seen() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.spawned(1).await;
    cluster.node().set_down(true);
    cluster.pass(Duration::from_secs(30)).await;
    let away = cluster.spawn(2).await.unwrap_err();
    assert!(matches!(away, SpawnError::NodeUnavailable(Some(_))), "{away}");
    assert!(cluster.is_free(2).await, "a node that is known to be away is not told of anything");
    cluster.node().set_down(false);
    let (back, took) = timed(&cluster, 3).await;
    assert_eq!(back.unwrap().state, State::Ready);
    assert!(took < 1_000, "it waited for {took} ms");
}

#[tokio::test]
async fn a_refusal_for_want_of_room_moves_on_and_the_refusing_node_is_asked_again() {
    let setup =
        ClusterSetup { config: seldom(), builds: vec![small(), NodeBuild::default()], ..ClusterSetup::default() };
    let cluster = setup.start();
    cluster
        .until("the nodes have said how they are", async |cluster| {
            cluster.nodes.iter().all(|node| node.infos() > 0) && cluster.control.fleet().images().is_some()
        })
        .await;
    // Somebody else has filled the node that would be chosen: the inventory is wrong.
    let filled = wire::v1::node::SandboxSpec { memory_mib: 2_999, ..crate::guests::spec() };
    cluster.finish(cluster.nodes[0].create(id(99), &filled, None)).await.unwrap();
    let asked = cluster.nodes[0].infos();
    let record = cluster.spawn(1).await.unwrap();
    assert_eq!(record.node.as_deref(), Some("node-2"));
    cluster.until("the first node is asked again", async |cluster| cluster.nodes[0].infos() > asked).await;
}

#[tokio::test]
async fn spawns_at_once_share_the_room_that_is_known_and_the_last_is_refused_by_none() {
    let setup = ClusterSetup { config: seldom(), builds: vec![small(); 3], ..ClusterSetup::default() };
    let cluster = setup.start();
    cluster
        .until("the nodes have said how they are", async |cluster| {
            cluster.nodes.iter().all(|node| node.infos() > 0) && cluster.control.fleet().images().is_some()
        })
        .await;
    // A creation takes long enough that all three are under way before one is counted.
    for node in &cluster.nodes {
        node.set_chaos(Chaos { slow: Duration::from_secs(1), ..Chaos::default() });
    }
    let began = cluster.now();
    let starting = [cluster.order(1).await, cluster.order(2).await, cluster.order(3).await];
    let all = futures_util::future::join_all(starting.map(|starting| starting.ready()));
    let records: Vec<_> = cluster.finish(all).await.into_iter().map(Result::unwrap).collect();
    let took = cluster.now().since(began);
    let mut nodes: Vec<_> = records.iter().filter_map(|record| record.node.clone()).collect();
    nodes.sort();
    assert_eq!(nodes, ["node-1", "node-2", "node-3"]);
    // Each was created at its first try: a refusal costs a call of a second more.
    assert!(took < 1_900, "{took}");
}

#[tokio::test]
async fn where_the_inventory_knows_of_no_room_the_nodes_word_counts() {
    let setup = ClusterSetup { config: seldom(), builds: vec![small()], ..ClusterSetup::default() };
    let cluster = setup.start();
    cluster.spawned(1).await;
    let full = cluster.spawn(2).await.unwrap_err();
    assert!(matches!(full, SpawnError::NoCapacity(PlacementError::Full)), "{full}");
    assert_eq!(cluster.state(2).await, State::Failed(FailReason::NoCapacity));
    // Its room is free again, and the inventory may still say that it is not.
    cluster.finish(cluster.control.stop(id(1), StopReason::Requested)).await.unwrap();
    cluster.spawned(3).await;
}
