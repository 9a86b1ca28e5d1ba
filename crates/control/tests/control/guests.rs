use std::time::Duration;

use domain::{FailReason, State};
use palatine_control::Node;
use wire::Environment;
use wire::v1::node::{DataDisk, SandboxSpec};

use crate::cluster::{ClusterSetup, TestCluster, id, pod};

pub(crate) fn spec() -> SandboxSpec {
    SandboxSpec {
        pod: pod(7),
        data: DataDisk::KeptOrEmpty,
        generation: domain::Generation::FIRST,
        image: domain::ImageDigest([1; 32]),
        cores: 1,
        memory_mib: 128,
        volumes: Vec::new(),
        runtime: None,
        env: Environment::default(),
    }
}

/// What the node's own marks make of the agent's bill.
fn truth(cluster: &TestCluster, n: u64) -> u64 {
    let marks = cluster.node().history();
    let of_it = marks.iter().filter(|mark| mark.agent == id(n));
    of_it.fold(domain::Meter::default(), |meter, mark| meter.count(mark.mark)).uptime_ms(cluster.now())
}

#[tokio::test]
async fn a_sandbox_that_nobody_owns_is_removed() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.finish(cluster.node().create(id(7), &spec(), None)).await.unwrap();
    cluster.until("the orphan is gone", async |cluster| cluster.node().running().is_empty()).await;
}

#[tokio::test]
async fn a_guest_that_dies_is_seen_booting_and_ready_again_under_its_id_and_the_gap_is_free() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.spawned(1).await;
    cluster.pass(Duration::from_secs(5)).await;
    cluster.node().set_boot(Some(Duration::from_secs(4)));
    cluster.node().crash(id(1));
    cluster.until("it boots", async |cluster| cluster.state(1).await == State::Booting).await;
    cluster.until("it is ready", async |cluster| cluster.state(1).await == State::Ready).await;
    assert_eq!(cluster.store.get(id(1)).await.unwrap().unwrap().restarts, 1);
    cluster.pass(Duration::from_secs(5)).await;
    assert_eq!(cluster.uptime(1).await, truth(&cluster, 1));
    assert!(cluster.now().since(palatine_control::fake::TokioClock::START) >= cluster.uptime(1).await + 4_000);
}

#[tokio::test]
async fn a_guest_that_failed_for_good_is_deleted_and_its_agent_fails_with_the_reason() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.spawned(1).await;
    cluster.node().fail(id(1), FailReason::CrashLoop);
    cluster.until("the wallet is free", async |cluster| cluster.is_free(1).await).await;
    assert_eq!(cluster.state(1).await, State::Failed(FailReason::CrashLoop));
    assert!(cluster.node().running().is_empty());
    assert_eq!(cluster.uptime(1).await, truth(&cluster, 1));
}

#[tokio::test]
async fn a_node_that_lost_its_disk_loses_its_agents_and_they_pay_until_it_was_last_heard() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.spawned(1).await;
    cluster.pass(Duration::from_secs(60)).await;
    cluster.node().set_down(true);
    let silent_from = cluster.now();
    cluster.pass(Duration::from_secs(60)).await;
    cluster.node().lose_disk();
    cluster.node().set_down(false);
    cluster.until("the wallet is free", async |cluster| cluster.is_free(1).await).await;
    assert_eq!(cluster.state(1).await, State::Failed(FailReason::Lost));
    let ready_at = cluster.node().history()[1].mark.at;
    let paid = cluster.uptime(1).await;
    let most = silent_from.since(ready_at);
    assert!(paid <= most && paid + 25_000 >= most, "paid {paid} of {most}");
    // The new journal counts from its beginning.
    cluster.spawned(2).await;
    cluster.pass(Duration::from_secs(3)).await;
    cluster.until("its marks are counted", async |cluster| cluster.uptime(2).await >= 3_000).await;
}

#[tokio::test]
async fn a_daemon_that_restarts_changes_nothing() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    let before = cluster.spawned(1).await;
    for _ in 0..3 {
        cluster.node().set_down(true);
        cluster.pass(Duration::from_secs(20)).await;
        cluster.node().set_down(false);
        cluster.pass(Duration::from_secs(5)).await;
    }
    let after = cluster.store.get(id(1)).await.unwrap().unwrap();
    assert_eq!((after.state, after.changes, after.restarts), (State::Ready, before.changes, 0));
    cluster.until("its marks are counted", async |cluster| cluster.uptime(1).await == truth(cluster, 1)).await;
    assert_eq!(cluster.node().created(), 1);
}
