use std::time::Duration;

use domain::{FailReason, PlacementError, State};
use palatine_control::SpawnError;
use palatine_control::fake::{Build, Fate};
use wire::Environment;
use wire::fault::Code;

use crate::house::{Ground, House, id, pod};

async fn spawn(house: &House, n: u64) -> Result<store::RunRecord, SpawnError> {
    let record = house.reserve(n).await;
    house.finish(house.control.spawn(record, Environment::default(), None)).await
}

#[tokio::test]
async fn a_spawn_answers_when_the_agent_is_ready() {
    let ground = Ground::booting_for(Some(Duration::from_secs(3)));
    let house = ground.house();
    let began = house.now();
    let record = spawn(&house, 1).await.unwrap();
    assert!(house.now().since(began) >= 3_000);
    assert_eq!(record.state, State::Ready);
    assert_eq!((record.node.as_deref(), record.runtime.as_deref()), (Some("node-1"), Some("qemu-tcg")));
    assert_eq!(house.node().running(), [id(1)]);
    let story: Vec<_> = house.store.changes(pod(1), 0).await.unwrap().iter().map(|change| change.state).collect();
    assert_eq!(story, [State::Reserved, State::Placed, State::Booting, State::Ready]);
    assert_eq!(house.control.node_of(&record).unwrap().name(), "node-1");
}

#[tokio::test]
async fn without_room_there_is_no_agent_and_the_wallet_is_free() {
    let ground =
        Ground { builds: vec![Build { memory_mib: 3_000, cores: 8, ..Build::default() }], ..Ground::default() };
    let house = ground.house();
    spawn(&house, 1).await.unwrap();
    let refused = spawn(&house, 2).await.unwrap_err();
    assert!(matches!(refused, SpawnError::NoCapacity(PlacementError::Full)), "{refused}");
    assert_eq!(house.state(2).await, State::Failed(FailReason::NoCapacity));
    assert_eq!(house.node().running(), [id(1)]);
}

#[tokio::test]
async fn a_node_that_is_full_after_all_leaves_it_to_the_next() {
    let fuller = Build { memory_mib: 4_096, ..Build::default() };
    let ground = Ground { builds: vec![fuller, Build::default()], ..Ground::default() };
    let house = ground.house();
    house.nodes[0].set_refusal(Some(Code::NoCapacity));
    let record = spawn(&house, 1).await.unwrap();
    assert_eq!(record.node.as_deref(), Some("node-2"));
    assert!(house.nodes[0].running().is_empty());
}

#[tokio::test]
async fn fault_1_10_a_node_without_the_image_leaves_it_to_the_next() {
    let fuller = Build { memory_mib: 4_096, ..Build::default() };
    let ground = Ground { builds: vec![fuller, Build::default()], ..Ground::default() };
    let house = ground.house();
    house.nodes[0].set_refusal(Some(Code::NoImage));
    let record = spawn(&house, 1).await.unwrap();
    assert_eq!(record.node.as_deref(), Some("node-2"));
    // Which of two that both will not take it was asked last changes nothing.
    for (n, first, second) in [(2, Code::NoImage, Code::NoCapacity), (4, Code::NoCapacity, Code::NoImage)] {
        house.nodes[0].set_refusal(Some(first));
        house.nodes[1].set_refusal(Some(second));
        let refused = spawn(&house, n).await.unwrap_err();
        assert!(matches!(refused, SpawnError::NoCapacity(PlacementError::Full)), "{refused}");
    }
    house.nodes[0].set_refusal(Some(Code::NoImage));
    house.nodes[1].set_refusal(Some(Code::NoImage));
    let refused = spawn(&house, 3).await.unwrap_err();
    assert!(matches!(refused, SpawnError::NoImage(_)), "{refused}");
    assert!(house.is_free(3).await);
}

#[tokio::test]
async fn a_node_that_refuses_fails_the_spawn_and_frees_the_wallet() {
    let ground = Ground::default();
    let house = ground.house();
    house.node().set_refusal(Some(Code::InvalidRequest));
    let refused = spawn(&house, 1).await.unwrap_err();
    assert!(matches!(refused, SpawnError::Failed(FailReason::NodeRefused)), "{refused}");
    assert!(house.is_free(1).await);
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_said_so_and_the_wallet_is_free() {
    let ground = Ground::default();
    let house = ground.house();
    house.node().set_down(true);
    let refused = spawn(&house, 1).await.unwrap_err();
    assert!(matches!(refused, SpawnError::NodeUnavailable(Some(_))), "{refused}");
    assert!(house.is_free(1).await);
    assert_eq!(house.node().created(), 0);
}

#[tokio::test]
async fn a_guest_that_never_gets_ready_is_taken_down_in_time() {
    let ground = Ground::booting_for(None);
    let house = ground.house();
    let began = house.now();
    let refused = spawn(&house, 1).await.unwrap_err();
    assert!(matches!(refused, SpawnError::Timeout { after_ms: 60_000 }), "{refused}");
    let took = house.now().since(began);
    assert!((60_000..70_000).contains(&took), "{took}");
    assert_eq!(house.state(1).await, State::Failed(FailReason::BootTimeout));
    assert!(house.node().running().is_empty());
}

#[tokio::test]
async fn a_guest_that_fails_while_booting_fails_the_spawn_with_its_reason() {
    let ground = Ground::booting_for(None);
    let house = ground.house();
    let record = house.reserve(1).await;
    let spawning = tokio::spawn({
        let control = house.control.clone();
        async move { control.spawn(record, Environment::default(), None).await }
    });
    house.until("it boots", async |house| house.state(1).await == State::Booting).await;
    house.node().fail(id(1), FailReason::CrashLoop);
    let refused = house.finish(spawning).await.unwrap().unwrap_err();
    assert!(matches!(refused, SpawnError::Failed(FailReason::CrashLoop)), "{refused}");
    assert_eq!(house.state(1).await, State::Failed(FailReason::CrashLoop));
    assert!(house.node().running().is_empty());
}

#[tokio::test]
async fn a_daemon_that_goes_away_while_the_guest_boots_is_waited_for() {
    let ground = Ground::booting_for(Some(Duration::from_secs(5)));
    let house = ground.house();
    let record = house.reserve(1).await;
    house.control.spawn_detached(record, Environment::default(), None);
    house.until("it boots", async |house| house.state(1).await == State::Booting).await;
    house.node().set_down(true);
    house.pass(Duration::from_secs(10)).await;
    assert_eq!(house.state(1).await, State::Booting);
    house.node().set_down(false);
    house.until("it is ready", async |house| house.state(1).await == State::Ready).await;
    assert_eq!(house.node().created(), 1);
}

#[tokio::test]
async fn a_spawn_goes_on_when_its_caller_goes_away() {
    let ground = Ground::booting_for(Some(Duration::from_secs(3)));
    let house = ground.house();
    let record = house.reserve(1).await;
    let spawning = house.control.spawn(record, Environment::default(), None);
    let given_up = tokio::time::timeout(Duration::from_secs(1), spawning);
    assert!(house.finish(given_up).await.is_err());
    house.until("it is ready", async |house| house.state(1).await == State::Ready).await;
}

/// Whatever became of the creation: the wallet is free only when nothing runs,
/// and nothing comes later.
async fn undone_before_the_wallet_is_free(fate: Fate) {
    let ground = Ground::default();
    let house = ground.house();
    house.node().set_next_creation(fate);
    let record = house.reserve(1).await;
    house.control.spawn_detached(record, Environment::default(), None);
    for _ in 0..80 {
        let free = house.is_free(1).await;
        assert!(!free || house.node().running().is_empty(), "a free wallet's agent runs");
        house.step().await;
    }
    assert_eq!(house.state(1).await, State::Failed(FailReason::Interrupted));
    assert_eq!(house.node().created(), u64::from(fate != Fate::QuestionLost));
}

#[tokio::test]
async fn a_creation_that_is_lost_frees_the_wallet() {
    undone_before_the_wallet_is_free(Fate::QuestionLost).await;
}

#[tokio::test]
async fn a_creation_whose_answer_is_lost_is_undone_before_the_wallet_is_free() {
    undone_before_the_wallet_is_free(Fate::AnswerLost).await;
}

#[tokio::test]
async fn a_creation_that_arrives_late_is_undone_before_the_wallet_is_free() {
    undone_before_the_wallet_is_free(Fate::Late(Duration::from_millis(1_500))).await;
}

#[tokio::test]
async fn whoever_waits_for_a_creation_without_an_answer_is_told_of_the_node() {
    let ground = Ground::default();
    let house = ground.house();
    house.node().set_next_creation(Fate::AnswerLost);
    let refused = spawn(&house, 1).await.unwrap_err();
    assert!(matches!(refused, SpawnError::NodeUnavailable(Some(_))), "{refused}");
}

#[tokio::test]
async fn going_down_refuses_new_spawns_and_waits_for_those_under_way() {
    let ground = Ground::booting_for(Some(Duration::from_secs(3)));
    let house = ground.house();
    let record = house.reserve(1).await;
    house.control.spawn_detached(record, Environment::default(), None);
    house.until("it boots", async |house| house.state(1).await == State::Booting).await;
    house.stopping.cancel();
    let late = house.reserve(2).await;
    let refused = house.finish(house.control.spawn(late, Environment::default(), None)).await.unwrap_err();
    assert!(matches!(refused, SpawnError::ShuttingDown), "{refused}");
    assert!(house.is_free(2).await);
    house.finish(house.control.closed()).await;
    assert_eq!(house.state(1).await, State::Ready);
}
