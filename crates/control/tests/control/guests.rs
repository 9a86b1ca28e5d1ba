use std::time::Duration;

use domain::{FailReason, State};
use palatine_control::Node;
use wire::Environment;
use wire::node::{DataDisk, SandboxSpec};

use crate::house::{Ground, House, id, pod};

pub(crate) fn spec() -> SandboxSpec {
    SandboxSpec {
        pod: pod(7),
        data: DataDisk::KeptOrEmpty,
        generation: domain::Generation::FIRST,
        image: domain::ImageDigest([1; 32]),
        cores: 1,
        memory_mib: 128,
        env: Environment::default(),
    }
}

/// What the node's own marks make of the agent's bill.
fn truth(house: &House, n: u64) -> u64 {
    let marks = house.node().history();
    let of_it = marks.iter().filter(|mark| mark.agent == id(n));
    of_it.fold(domain::Meter::default(), |meter, mark| meter.count(mark.mark)).uptime_ms(house.now())
}

#[tokio::test]
async fn a_sandbox_that_nobody_owns_is_removed() {
    let ground = Ground::default();
    let house = ground.house();
    house.finish(house.node().create(id(7), &spec(), None)).await.unwrap();
    house.until("the orphan is gone", async |house| house.node().running().is_empty()).await;
}

#[tokio::test]
async fn a_guest_that_dies_is_seen_booting_and_ready_again_under_its_id_and_the_gap_is_free() {
    let ground = Ground::default();
    let house = ground.house();
    house.spawned(1).await;
    house.pass(Duration::from_secs(5)).await;
    house.node().set_boot(Some(Duration::from_secs(4)));
    house.node().crash(id(1));
    house.until("it boots", async |house| house.state(1).await == State::Booting).await;
    house.until("it is ready", async |house| house.state(1).await == State::Ready).await;
    assert_eq!(house.store.get(id(1)).await.unwrap().unwrap().restarts, 1);
    house.pass(Duration::from_secs(5)).await;
    assert_eq!(house.uptime(1).await, truth(&house, 1));
    assert!(house.now().since(palatine_control::fake::TokioClock::START) >= house.uptime(1).await + 4_000);
}

#[tokio::test]
async fn a_guest_that_failed_for_good_is_deleted_and_its_agent_fails_with_the_reason() {
    let ground = Ground::default();
    let house = ground.house();
    house.spawned(1).await;
    house.node().fail(id(1), FailReason::CrashLoop);
    house.until("the wallet is free", async |house| house.is_free(1).await).await;
    assert_eq!(house.state(1).await, State::Failed(FailReason::CrashLoop));
    assert!(house.node().running().is_empty());
    assert_eq!(house.uptime(1).await, truth(&house, 1));
}

#[tokio::test]
async fn a_node_that_lost_its_disk_loses_its_agents_and_they_pay_until_it_was_last_heard() {
    let ground = Ground::default();
    let house = ground.house();
    house.spawned(1).await;
    house.pass(Duration::from_secs(60)).await;
    house.node().set_down(true);
    let silent_from = house.now();
    house.pass(Duration::from_secs(60)).await;
    house.node().lose_disk();
    house.node().set_down(false);
    house.until("the wallet is free", async |house| house.is_free(1).await).await;
    assert_eq!(house.state(1).await, State::Failed(FailReason::Lost));
    let ready_at = house.node().history()[1].mark.at;
    let paid = house.uptime(1).await;
    let most = silent_from.since(ready_at);
    assert!(paid <= most && paid + 25_000 >= most, "paid {paid} of {most}");
    // The new journal counts from its beginning.
    house.spawned(2).await;
    house.pass(Duration::from_secs(3)).await;
    house.until("its marks are counted", async |house| house.uptime(2).await >= 3_000).await;
}

#[tokio::test]
async fn a_daemon_that_restarts_changes_nothing() {
    let ground = Ground::default();
    let house = ground.house();
    let before = house.spawned(1).await;
    for _ in 0..3 {
        house.node().set_down(true);
        house.pass(Duration::from_secs(20)).await;
        house.node().set_down(false);
        house.pass(Duration::from_secs(5)).await;
    }
    let after = house.store.get(id(1)).await.unwrap().unwrap();
    assert_eq!((after.state, after.changes, after.restarts), (State::Ready, before.changes, 0));
    house.until("its marks are counted", async |house| house.uptime(1).await == truth(house, 1)).await;
    assert_eq!(house.node().created(), 1);
}
