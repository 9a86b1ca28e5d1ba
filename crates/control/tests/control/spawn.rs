use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::{FailReason, PlacementError, State};
use palatine_control::fake::{CallOutcome, FakeNodeSpec};
use palatine_control::{Config, SpawnError, SpawnOrder};
use store::{Admission, IdempotencyKey, RunReservation};
use wire::Environment;
use wire::fault::Code;

use crate::cluster::{ClusterSetup, TestCluster, id, pod, reservation};

#[tokio::test]
async fn a_spawn_answers_when_the_agent_is_ready() {
    let setup = ClusterSetup::booting_for(Some(Duration::from_secs(3)));
    let cluster = setup.start();
    let began = cluster.now();
    let record = cluster.spawn(1).await.unwrap();
    assert!(cluster.now().since(began) >= 3_000);
    assert_eq!(record.state, State::Ready);
    assert_eq!((record.node.as_deref(), record.runtime.as_deref()), (Some("node-1"), Some("qemu-tcg")));
    assert_eq!(cluster.node().running(), [id(1)]);
    let story: Vec<_> = cluster.store.changes(pod(1), 0).await.unwrap().iter().map(|change| change.state).collect();
    assert_eq!(story, [State::Reserved, State::Placed, State::Booting, State::Ready]);
    assert_eq!(cluster.control.node_of(&record).unwrap().name(), "node-1");
}

#[tokio::test]
async fn without_room_there_is_no_agent_and_the_wallet_is_free() {
    let setup = ClusterSetup {
        nodes: vec![FakeNodeSpec { memory_mib: 3_000, cores: 8, ..FakeNodeSpec::default() }],
        ..ClusterSetup::default()
    };
    let cluster = setup.start();
    cluster.spawn(1).await.unwrap();
    let refused = cluster.spawn(2).await.unwrap_err();
    assert!(matches!(refused, SpawnError::NoCapacity(PlacementError::Full)), "{refused}");
    assert_eq!(cluster.state(2).await, State::Failed(FailReason::NoCapacity));
    assert_eq!(cluster.node().running(), [id(1)]);
}

#[tokio::test]
async fn a_node_that_is_full_after_all_leaves_it_to_the_next() {
    let fuller = FakeNodeSpec { memory_mib: 4_096, ..FakeNodeSpec::default() };
    let setup = ClusterSetup { nodes: vec![fuller, FakeNodeSpec::default()], ..ClusterSetup::default() };
    let cluster = setup.start();
    cluster.nodes[0].set_refusal(Some(Code::NoCapacity));
    let record = cluster.spawn(1).await.unwrap();
    assert_eq!(record.node.as_deref(), Some("node-2"));
    assert!(cluster.nodes[0].running().is_empty());
}

#[tokio::test]
async fn fault_1_10_a_node_without_the_image_leaves_it_to_the_next() {
    let fuller = FakeNodeSpec { memory_mib: 4_096, ..FakeNodeSpec::default() };
    let setup = ClusterSetup { nodes: vec![fuller, FakeNodeSpec::default()], ..ClusterSetup::default() };
    let cluster = setup.start();
    cluster.nodes[0].set_refusal(Some(Code::NoImage));
    let record = cluster.spawn(1).await.unwrap();
    assert_eq!(record.node.as_deref(), Some("node-2"));
    // Which of two that both will not take it was asked last changes nothing.
    for (n, first, second) in [(2, Code::NoImage, Code::NoCapacity), (4, Code::NoCapacity, Code::NoImage)] {
        cluster.nodes[0].set_refusal(Some(first));
        cluster.nodes[1].set_refusal(Some(second));
        let refused = cluster.spawn(n).await.unwrap_err();
        assert!(matches!(refused, SpawnError::NoCapacity(PlacementError::Full)), "{refused}");
    }
    cluster.nodes[0].set_refusal(Some(Code::NoImage));
    cluster.nodes[1].set_refusal(Some(Code::NoImage));
    let refused = cluster.spawn(3).await.unwrap_err();
    assert!(matches!(refused, SpawnError::NoImage(_)), "{refused}");
    assert!(cluster.is_free(3).await);
}

#[tokio::test]
async fn a_node_that_refuses_fails_the_spawn_and_frees_the_wallet() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.node().set_refusal(Some(Code::InvalidRequest));
    let refused = cluster.spawn(1).await.unwrap_err();
    assert!(matches!(refused, SpawnError::Failed { reason: FailReason::NodeRefused, .. }), "{refused}");
    assert!(cluster.is_free(1).await);
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_said_so_and_the_wallet_is_free() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.node().set_down(true);
    let refused = cluster.spawn(1).await.unwrap_err();
    assert!(matches!(refused, SpawnError::NodeUnavailable(Some(_))), "{refused}");
    assert!(cluster.is_free(1).await);
    assert_eq!(cluster.node().created(), 0);
}

#[tokio::test]
async fn a_guest_that_never_gets_ready_is_taken_down_in_time() {
    let setup = ClusterSetup::booting_for(None);
    let cluster = setup.start();
    let began = cluster.now();
    let refused = cluster.spawn(1).await.unwrap_err();
    assert!(matches!(refused, SpawnError::Timeout { after_ms: 60_000, .. }), "{refused}");
    let took = cluster.now().since(began);
    assert!((60_000..70_000).contains(&took), "{took}");
    assert_eq!(cluster.state(1).await, State::Failed(FailReason::BootTimeout));
    assert!(cluster.node().running().is_empty());
}

#[tokio::test]
async fn a_guest_that_fails_while_booting_fails_the_spawn_with_its_reason() {
    let setup = ClusterSetup::booting_for(None);
    let cluster = setup.start();
    let starting = cluster.order(1).await;
    cluster.until("it boots", async |cluster| cluster.state(1).await == State::Booting).await;
    cluster.node().fail(id(1), FailReason::CrashLoop);
    let refused = cluster.finish(starting.ready()).await.unwrap_err();
    assert!(matches!(refused, SpawnError::Failed { reason: FailReason::CrashLoop, .. }), "{refused}");
    assert_eq!(cluster.state(1).await, State::Failed(FailReason::CrashLoop));
    assert!(cluster.node().running().is_empty());
}

#[tokio::test]
async fn a_daemon_that_goes_away_while_the_guest_boots_is_waited_for() {
    let setup = ClusterSetup::booting_for(Some(Duration::from_secs(5)));
    let cluster = setup.start();
    cluster.order(1).await;
    cluster.until("it boots", async |cluster| cluster.state(1).await == State::Booting).await;
    cluster.node().set_down(true);
    cluster.pass(Duration::from_secs(10)).await;
    assert_eq!(cluster.state(1).await, State::Booting);
    cluster.node().set_down(false);
    cluster.until("it is ready", async |cluster| cluster.state(1).await == State::Ready).await;
    assert_eq!(cluster.node().created(), 1);
}

#[tokio::test]
async fn a_spawn_goes_on_when_its_caller_goes_away() {
    let setup = ClusterSetup::booting_for(Some(Duration::from_secs(3)));
    let cluster = setup.start();
    let starting = cluster.order(1).await;
    let given_up = tokio::time::timeout(Duration::from_secs(1), starting.ready());
    assert!(cluster.finish(given_up).await.is_err());
    cluster.until("it is ready", async |cluster| cluster.state(1).await == State::Ready).await;
}

/// Whatever became of the creation: the wallet is free only when nothing runs,
/// and nothing comes later.
async fn undone_before_the_wallet_is_free(outcome: CallOutcome) {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.node().set_next_creation(outcome);
    cluster.order(1).await;
    for _ in 0..80 {
        let free = cluster.is_free(1).await;
        assert!(!free || cluster.node().running().is_empty(), "a free wallet's agent runs");
        cluster.step().await;
    }
    assert_eq!(cluster.state(1).await, State::Failed(FailReason::Interrupted));
    assert_eq!(cluster.node().created(), u64::from(outcome != CallOutcome::QuestionLost));
}

#[tokio::test]
async fn a_creation_that_is_lost_frees_the_wallet() {
    undone_before_the_wallet_is_free(CallOutcome::QuestionLost).await;
}

#[tokio::test]
async fn a_creation_whose_answer_is_lost_is_undone_before_the_wallet_is_free() {
    undone_before_the_wallet_is_free(CallOutcome::AnswerLost).await;
}

#[tokio::test]
async fn a_creation_that_arrives_late_is_undone_before_the_wallet_is_free() {
    undone_before_the_wallet_is_free(CallOutcome::Late(Duration::from_millis(1_500))).await;
}

#[tokio::test]
async fn whoever_waits_for_a_creation_without_an_answer_is_told_of_the_node() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.node().set_next_creation(CallOutcome::AnswerLost);
    let refused = cluster.spawn(1).await.unwrap_err();
    assert!(matches!(refused, SpawnError::NodeUnavailable(Some(_))), "{refused}");
}

#[tokio::test]
async fn going_down_refuses_new_spawns_and_waits_for_those_under_way() {
    let setup = ClusterSetup::booting_for(Some(Duration::from_secs(3)));
    let cluster = setup.start();
    cluster.order(1).await;
    cluster.until("it boots", async |cluster| cluster.state(1).await == State::Booting).await;
    cluster.stopping.cancel();
    let refused = cluster.spawn(2).await.unwrap_err();
    assert!(matches!(refused, SpawnError::ShuttingDown), "{refused}");
    assert!(cluster.is_free(2).await);
    cluster.finish(cluster.control.closed()).await;
    assert_eq!(cluster.state(1).await, State::Ready);
}

/// Orders a run with an `Idempotency-Key`.
async fn keyed(cluster: &TestCluster, holder: u64, n: u64, key: &str) -> Admission {
    let idempotency = Some(IdempotencyKey { key: key.to_owned(), request: [7; 32] });
    let reservation = RunReservation { idempotency, ..reservation(holder, n, cluster.now()) };
    let runtimes = wire::v1::node::RuntimeName::ALL.to_vec();
    let order = SpawnOrder { reservation, env: Environment::default(), runtimes, traceparent: None };
    cluster.finish(cluster.control.spawn(order, |_| {})).await.unwrap().0
}

#[tokio::test]
async fn however_many_start_a_retry_has_its_answer_and_only_what_is_new_is_refused() {
    let config = Config { spawns_at_once: 2, ..Config::default() };
    let setup = ClusterSetup { config, ..ClusterSetup::booting_for(None) };
    let cluster = setup.start();
    assert!(matches!(keyed(&cluster, 1, 1, "a").await, Admission::Reserved(_)));
    // Whatever the first holder asks for more takes nobody's place.
    for n in 2..=9 {
        assert_eq!(keyed(&cluster, 1, n, "b").await, Admission::Busy(pod(1)));
    }
    assert!(matches!(keyed(&cluster, 2, 10, "a").await, Admission::Reserved(_)));
    assert_eq!(keyed(&cluster, 3, 11, "a").await, Admission::Overloaded);
    assert!(cluster.is_free(3).await);
    for (holder, n, run) in [(1, 12, 1), (2, 13, 10)] {
        let again = keyed(&cluster, holder, n, "a").await;
        assert!(matches!(&again, Admission::Repeated(record) if record.id == id(run)), "{again:?}");
    }
    // What was refused stands for nothing: with its key it may be asked for anew.
    cluster.node().make_ready(id(1));
    cluster.until("one is ready", async |cluster| cluster.state(1).await == State::Ready).await;
    cluster
        .until("there is room again", async |cluster| {
            static NEXT: AtomicU64 = AtomicU64::new(14);
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            matches!(keyed(cluster, 3, n, "a").await, Admission::Reserved(_))
        })
        .await;
}
