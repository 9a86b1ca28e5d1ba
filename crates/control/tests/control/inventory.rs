//! What the control plane knows of its nodes without asking them, and when it asks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::{FailReason, ImageDigest, PlacementError, State, StopReason};
use palatine_control::fake::{CallOutcome, Chaos, FakeNode, FakeNodeSpec};
use palatine_control::{AdmitError, Config, ImageAsk, Node, SpawnAsk, SpawnError, UnmetNeed};
use wire::v1::node::ImageNeeds;

use crate::cluster::{ClusterSetup, TestCluster, id, wallet};

/// Room for one agent.
fn small() -> FakeNodeSpec {
    FakeNodeSpec { memory_mib: 3_000, cores: 8, ..FakeNodeSpec::default() }
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
        ClusterSetup { config: seldom(), nodes: vec![small(), FakeNodeSpec::default()], ..ClusterSetup::default() };
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
    let setup = ClusterSetup { config: seldom(), nodes: vec![small(); 3], ..ClusterSetup::default() };
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
    let setup = ClusterSetup { config: seldom(), nodes: vec![small()], ..ClusterSetup::default() };
    let cluster = setup.start();
    cluster.spawned(1).await;
    let full = cluster.spawn(2).await.unwrap_err();
    assert!(matches!(full, SpawnError::NoCapacity(PlacementError::Full)), "{full}");
    assert_eq!(cluster.state(2).await, State::Failed(FailReason::NoCapacity));
    // Its room is free again, and the inventory may still say that it is not.
    cluster.finish(cluster.control.stop(id(1), StopReason::Requested)).await.unwrap();
    cluster.spawned(3).await;
}

/// Two nodes, of which placement prefers the first one; both have just said how they are.
async fn two_nodes(cluster: &TestCluster) {
    let asked: Vec<_> = cluster.nodes.iter().map(FakeNode::infos).collect();
    cluster
        .until("both nodes have just said how they are", async |cluster| {
            cluster.nodes.iter().zip(&asked).all(|(node, asked)| node.infos() > *asked)
        })
        .await;
}

fn of_two_nodes() -> ClusterSetup {
    let fuller = FakeNodeSpec { memory_mib: 8_192, cores: 64, ..FakeNodeSpec::default() };
    ClusterSetup { nodes: vec![fuller, FakeNodeSpec::default()], ..ClusterSetup::default() }
}

/// Whatever is asked of the node from now on, it accepts and never answers.
fn hang(node: &FakeNode) {
    node.set_chaos(Chaos { slow: Duration::from_secs(3_000), ..Chaos::default() });
}

#[tokio::test]
async fn a_node_that_is_not_there_leaves_a_run_to_the_next_at_once_and_has_to_answer_before_it_is_placed_on() {
    let setup = of_two_nodes();
    let cluster = setup.start();
    two_nodes(&cluster).await;
    cluster.nodes[0].set_next_creation(CallOutcome::NotConnected);
    cluster.nodes[0].set_mute(true);
    for n in [1, 2] {
        let (spawned, took) = timed(&cluster, n).await;
        assert_eq!(spawned.unwrap().node.as_deref(), Some("node-2"));
        assert!(took < 1_000, "it waited for {took} ms");
    }
    assert_eq!(cluster.nodes[0].created(), 0);
}

#[tokio::test]
async fn a_run_that_no_node_could_be_told_of_leaves_its_wallet_free_though_none_answers() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.until("the node has said how it is", async |cluster| cluster.control.fleet().images().is_some()).await;
    cluster.node().set_next_creation(CallOutcome::NotConnected);
    cluster.node().set_chaos(Chaos { lose_question: 1_000, ..Chaos::default() });
    let away = cluster.spawn(1).await.unwrap_err();
    assert!(matches!(away, SpawnError::NodeUnavailable(Some(_))), "{away}");
    assert_eq!(cluster.state(1).await, State::Failed(FailReason::Interrupted));
}

#[tokio::test]
async fn a_node_that_hangs_is_not_placed_on_once_it_is_late_to_say_how_it_is() {
    let setup = of_two_nodes();
    let cluster = setup.start();
    two_nodes(&cluster).await;
    hang(&cluster.nodes[0]);
    // Until it is asked again, and a second.
    cluster.pass(Duration::from_millis(3_200)).await;
    let (spawned, took) = timed(&cluster, 1).await;
    assert_eq!(spawned.unwrap().node.as_deref(), Some("node-2"));
    assert!(took < 1_000, "it waited for {took} ms");
}

#[tokio::test]
async fn a_slow_node_is_placed_on_all_the_same() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.node().set_chaos(Chaos { slow: Duration::from_secs(4), ..Chaos::default() });
    // At whatever moment of its being asked.
    for n in 1..=8 {
        cluster.pass(Duration::from_millis(700)).await;
        cluster.spawned(n).await;
    }
}

#[tokio::test]
async fn a_slow_node_is_placed_on_while_another_one_hangs() {
    let setup = of_two_nodes();
    let cluster = setup.start();
    hang(&cluster.nodes[0]);
    cluster.nodes[1].set_chaos(Chaos { slow: Duration::from_secs(3), ..Chaos::default() });
    for n in 1..=4 {
        let (spawned, took) = timed(&cluster, n).await;
        assert_eq!(spawned.unwrap().node.as_deref(), Some("node-2"));
        // Two answers to how it is at most, the creation and the look whether it is ready.
        assert!(took < 14_000, "it waited for {took} ms");
    }
}

#[tokio::test]
async fn nothing_is_placed_on_a_node_that_hangs_because_no_other_has_room() {
    let setup = ClusterSetup { nodes: vec![FakeNodeSpec::default(), small()], ..ClusterSetup::default() };
    let cluster = setup.start();
    cluster.spawned(1).await;
    two_nodes(&cluster).await;
    hang(&cluster.nodes[0]);
    cluster.pass(Duration::from_millis(3_200)).await;
    let (refused, took) = timed(&cluster, 2).await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, SpawnError::NoCapacity(PlacementError::Full)), "{refused}");
    assert!(took < 12_000, "it waited for {took} ms");
    assert!(cluster.is_free(2).await, "no node was told of it");
}

#[tokio::test]
async fn an_image_that_cannot_work_is_refused_before_anything_is_written_with_the_names_of_those_that_would() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    let [coding, fast, nano] = [1, 2, 3].map(|n| ImageDigest([n; 32]));
    let images = [("coding", coding), ("fast", fast), ("nano", nano)].map(|(name, digest)| (name.to_owned(), digest));
    cluster.node().set_images(images.into());
    cluster.node().set_image_needs(BTreeMap::from([
        ("coding".to_owned(), ImageNeeds { min_memory_mib: Some(1_536), ..ImageNeeds::default() }),
        ("fast".to_owned(), ImageNeeds { runtimes: vec!["qemu-kvm".to_owned()], ..ImageNeeds::default() }),
    ]));
    cluster.pass(Duration::from_secs(5)).await;
    let none = BTreeSet::new();
    let admit = async |name: &str, memory_mib| {
        let ask = SpawnAsk {
            holder: wallet(1),
            image: ImageAsk::Named(name),
            cores: None,
            memory_mib,
            before: None,
            may_bring: &none,
            runtime: None,
            data_of_machine: false,
            has_volumes: false,
        };
        cluster.finish(cluster.control.admit(&ask)).await
    };
    assert_eq!(admit("coding", None).await.unwrap().image, coding);
    let too_little = admit("coding", Some(1_024)).await.unwrap_err();
    let AdmitError::Unmet { unmet: UnmetNeed::Memory { needs: 1_536, gets: 1_024, .. }, working } = too_little else {
        panic!("{too_little}")
    };
    assert_eq!(working, ["nano"]);
    // No node has the runtime that it works in.
    let elsewhere = admit("fast", None).await.unwrap_err();
    assert!(matches!(&elsewhere, AdmitError::Unmet { unmet: UnmetNeed::Runtime { .. }, .. }), "{elsewhere}");
    assert!(cluster.is_free(1).await);
}
