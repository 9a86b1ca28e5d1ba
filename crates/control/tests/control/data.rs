//! What a node lacks, what it cannot read, and what becomes of an agent's data.

use std::time::Duration;

use domain::{EndReason, FailReason, NodeShortage, State, StopReason};
use palatine_control::fake::{Chaos, FakeNodeSpec};
use palatine_control::{Node, SpawnError, StopError};
use store::{RunPod, RunRecord, RunReservation};

use crate::cluster::{ClusterSetup, TestCluster, id, pod, reservation};

const DAY: Duration = Duration::from_secs(86_400);

async fn record(cluster: &TestCluster, n: u64) -> RunRecord {
    cluster.store.get(id(n)).await.unwrap().unwrap()
}

#[tokio::test]
async fn fault_1_1_an_agent_whose_node_lacks_something_waits_for_days_unbilled_and_comes_back() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.spawned(1).await;
    cluster.pass(Duration::from_secs(5)).await;
    cluster.node().lack(id(1), Some(NodeShortage::Disk));
    cluster.until("it waits", async |cluster| cluster.state(1).await == State::Waiting(NodeShortage::Disk)).await;
    let paid = cluster.uptime(1).await;
    cluster.pass(Duration::from_secs(1_800)).await;
    assert_eq!(cluster.state(1).await, State::Waiting(NodeShortage::Disk));
    assert_eq!(cluster.uptime(1).await, paid);
    assert_eq!(cluster.node().running(), [id(1)]);
    cluster.node().lack(id(1), None);
    cluster.node().make_ready(id(1));
    cluster.until("it is ready", async |cluster| cluster.state(1).await == State::Ready).await;
    assert_eq!(record(&cluster, 1).await.restarts, 0);
}

#[tokio::test]
async fn fault_1_1_a_pod_whose_run_failed_keeps_its_data_until_its_holder_removes_it() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.spawned(1).await;
    cluster.node().fail(id(1), FailReason::CrashLoop);
    cluster.until("the wallet is free", async |cluster| cluster.is_free(1).await).await;
    assert_eq!(cluster.node().kept(), [pod(1)]);
    let failed = record(&cluster, 1).await;
    assert_eq!(failed.state, State::Failed(FailReason::CrashLoop));
    let kept_for = failed.data.unwrap().until.unwrap().since(failed.ended_at.unwrap());
    assert!(u128::from(kept_for) > 29 * DAY.as_millis(), "{kept_for}");
    // The operator's word is not the holder's, and to stop is not to remove.
    for reason in [StopReason::Operator, StopReason::Requested] {
        cluster.finish(cluster.control.stop(id(1), reason)).await.unwrap();
    }
    assert_eq!(cluster.node().kept(), [pod(1)]);
    // A node that does not answer has erased nothing, and nobody says so.
    cluster.node().set_down(true);
    let silent = cluster.finish(cluster.control.remove(pod(1))).await;
    assert!(matches!(silent, Err(StopError::NodeUnavailable)));
    assert!(record(&cluster, 1).await.data.is_some());
    cluster.node().set_down(false);
    let removed = cluster.finish(cluster.control.remove(pod(1))).await.unwrap();
    assert_eq!((removed.state, removed.data), (failed.state, None));
    assert!(cluster.node().kept().is_empty());
    assert_eq!(cluster.store.last_run(pod(1)).await.unwrap(), None);
}

#[tokio::test]
async fn fault_1_1_only_a_removal_erases() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    let ends = [
        (1, StopReason::Removed, false),
        (2, StopReason::Balance, true),
        (3, StopReason::Operator, true),
        (4, StopReason::Requested, true),
    ];
    for (n, reason, kept) in ends {
        cluster.spawned(n).await;
        let stopped = cluster.finish(cluster.control.stop(id(n), reason)).await.unwrap();
        assert_eq!(stopped.state, State::Stopped(reason));
        assert_eq!(stopped.data.is_some(), kept, "{reason:?}");
        assert_eq!(cluster.node().kept().contains(&pod(n)), kept, "{reason:?}");
    }
}

#[tokio::test]
async fn fault_1_1_an_orphans_disks_are_set_aside() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.finish(cluster.node().create(id(7), &crate::guests::spec(), None)).await.unwrap();
    cluster.until("the orphan is gone", async |cluster| cluster.node().running().is_empty()).await;
    assert_eq!(cluster.node().kept(), [pod(7)]);
}

#[tokio::test]
async fn fault_1_2_an_agent_that_its_node_cannot_read_is_not_lost() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.spawned(1).await;
    cluster.node().quarantine(id(1), true);
    cluster.pass(Duration::from_secs(600)).await;
    assert_eq!(cluster.state(1).await, State::Waiting(NodeShortage::Ledger), "and whoever asks is told so");
    assert!(cluster.node().kept().is_empty());
    cluster.node().quarantine(id(1), false);
    cluster.pass(Duration::from_secs(30)).await;
    assert_eq!(cluster.state(1).await, State::Ready);
}

/// An agent fails, and its holder removes it while its node, which may fall silent,
/// takes it down.
async fn removed_while_failing(falls_silent: bool) {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.spawned(1).await;
    cluster.node().fail(id(1), FailReason::CrashLoop);
    cluster.node().set_chaos(Chaos { slow: Duration::from_secs(3), ..Chaos::default() });
    let failing = State::Stopping(EndReason::Failed(FailReason::CrashLoop));
    cluster.until("it is being taken down", async |cluster| cluster.state(1).await == failing).await;
    cluster.node().set_down(falls_silent);
    let told = cluster.finish(cluster.control.remove(pod(1))).await.unwrap();
    assert!(told.state.end().is_some_and(EndReason::erases_data), "{told:?}");
    assert!(told.state.is_live() || !falls_silent, "{told:?}");
    cluster.node().set_down(false);
    cluster.until("the wallet is free", async |cluster| cluster.is_free(1).await).await;
    assert_eq!(cluster.store.last_run(pod(1)).await.unwrap(), None);
    assert!(cluster.node().kept().is_empty(), "its holder has said that it goes");
}

#[tokio::test]
async fn fault_1_1_a_removal_erases_while_another_end_is_under_way() {
    removed_while_failing(false).await;
}

#[tokio::test]
async fn fault_1_1_a_removal_erases_though_its_node_answers_nobody_in_time() {
    removed_while_failing(true).await;
}

/// Starts a run of a POD that is there.
async fn start(cluster: &TestCluster, n: u64, of: u64) -> Result<RunRecord, SpawnError> {
    let asked = RunReservation { pod: RunPod::Existing(pod(of)), ..reservation(of, n, cluster.now()) };
    let starting = cluster.order_run(asked).await.expect("it is reserved");
    cluster.finish(starting.ready()).await
}

#[tokio::test]
async fn a_pod_is_started_again_where_its_data_is_and_nowhere_else() {
    let setup = ClusterSetup { nodes: vec![FakeNodeSpec::default(); 2], ..ClusterSetup::default() };
    let cluster = setup.start();
    let first = cluster.spawned(1).await;
    let home = first.node.clone().unwrap();
    let keeper = cluster.nodes.iter().find(|node| node.name() == home).unwrap();
    cluster.finish(cluster.control.stop(id(1), StopReason::Requested)).await.unwrap();
    assert_eq!(keeper.kept(), [pod(1)]);
    keeper.set_down(true);
    let away = start(&cluster, 2, 1).await.unwrap_err();
    assert!(matches!(&away, SpawnError::DataAway(node) if *node == home), "{away:?}");
    // The failed start has cost neither the wallet's slot nor the data.
    cluster.until("the wallet is free", async |cluster| cluster.is_free(1).await).await;
    keeper.set_down(false);
    let again = start(&cluster, 3, 1).await.unwrap();
    assert_eq!((again.state, again.node, again.pod), (State::Ready, Some(home.clone()), first.pod));
    assert!(keeper.kept().is_empty(), "it is in use");
    cluster.finish(cluster.control.stop(id(3), StopReason::Requested)).await.unwrap();
    // A node that has lost it says so, and no empty disk takes its place.
    cluster.finish(keeper.erase(pod(1))).await.unwrap();
    let lost = start(&cluster, 4, 1).await.unwrap_err();
    assert!(matches!(&lost, SpawnError::NoData(node) if *node == home), "{lost:?}");
    assert!(cluster.nodes.iter().all(|node| node.running().is_empty()));
}

#[tokio::test]
async fn a_pod_that_runs_is_removed_with_all_that_is_of_it_and_its_usage_stays() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.spawned(1).await;
    cluster.pass(Duration::from_secs(7)).await;
    let removed = cluster.finish(cluster.control.remove(pod(1))).await.unwrap();
    assert_eq!(removed.state, State::Stopped(StopReason::Removed));
    assert!(cluster.node().running().is_empty() && cluster.node().kept().is_empty());
    assert!(cluster.uptime(1).await >= 7_000);
    let unknown = cluster.finish(cluster.control.remove(pod(1))).await.unwrap_err();
    assert!(matches!(unknown, StopError::Store(store::StoreError::NoPod(gone)) if gone == pod(1)));
}
