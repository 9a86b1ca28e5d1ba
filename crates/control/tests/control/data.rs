//! What a node lacks, what it cannot read, and what becomes of an agent's data.

use std::time::Duration;

use domain::{EndReason, FailReason, State, StopReason, WaitReason};
use palatine_control::fake::{Build, Chaos};
use palatine_control::{Node, SpawnError, StopError};
use store::{Admission, PodChoice, Reservation, RunRecord};
use wire::Environment;

use crate::house::{Ground, House, id, pod, wish};

const DAY: Duration = Duration::from_secs(86_400);

async fn record(house: &House, n: u64) -> RunRecord {
    house.store.get(id(n)).await.unwrap().unwrap()
}

#[tokio::test]
async fn fault_1_1_an_agent_whose_node_lacks_something_waits_for_days_unbilled_and_comes_back() {
    let ground = Ground::default();
    let house = ground.house();
    house.spawned(1).await;
    house.pass(Duration::from_secs(5)).await;
    house.node().lack(id(1), Some(WaitReason::Disk));
    house.until("it waits", async |house| house.state(1).await == State::Waiting(WaitReason::Disk)).await;
    let paid = house.uptime(1).await;
    house.pass(Duration::from_secs(1_800)).await;
    assert_eq!(house.state(1).await, State::Waiting(WaitReason::Disk));
    assert_eq!(house.uptime(1).await, paid);
    assert_eq!(house.node().running(), [id(1)]);
    house.node().lack(id(1), None);
    house.node().make_ready(id(1));
    house.until("it is ready", async |house| house.state(1).await == State::Ready).await;
    assert_eq!(record(&house, 1).await.restarts, 0);
}

#[tokio::test]
async fn fault_1_1_a_pod_whose_run_failed_keeps_its_data_until_its_holder_removes_it() {
    let ground = Ground::default();
    let house = ground.house();
    house.spawned(1).await;
    house.node().fail(id(1), FailReason::CrashLoop);
    house.until("the wallet is free", async |house| house.is_free(1).await).await;
    assert_eq!(house.node().kept(), [pod(1)]);
    let failed = record(&house, 1).await;
    assert_eq!(failed.state, State::Failed(FailReason::CrashLoop));
    let kept_for = failed.data.unwrap().until.unwrap().since(failed.ended_at.unwrap());
    assert!(u128::from(kept_for) > 29 * DAY.as_millis(), "{kept_for}");
    // The operator's word is not the holder's, and to stop is not to remove.
    for reason in [StopReason::Operator, StopReason::Requested] {
        house.finish(house.control.stop(id(1), reason)).await.unwrap();
    }
    assert_eq!(house.node().kept(), [pod(1)]);
    // A node that does not answer has erased nothing, and nobody says so.
    house.node().set_down(true);
    let silent = house.finish(house.control.remove(pod(1))).await;
    assert!(matches!(silent, Err(StopError::NodeUnavailable)));
    assert!(record(&house, 1).await.data.is_some());
    house.node().set_down(false);
    let removed = house.finish(house.control.remove(pod(1))).await.unwrap();
    assert_eq!((removed.state, removed.data), (failed.state, None));
    assert!(house.node().kept().is_empty());
    assert_eq!(house.store.last_run(pod(1)).await.unwrap(), None);
}

#[tokio::test]
async fn fault_1_1_only_a_removal_erases() {
    let ground = Ground::default();
    let house = ground.house();
    let ends = [
        (1, StopReason::Removed, false),
        (2, StopReason::Balance, true),
        (3, StopReason::Operator, true),
        (4, StopReason::Requested, true),
    ];
    for (n, reason, kept) in ends {
        house.spawned(n).await;
        let stopped = house.finish(house.control.stop(id(n), reason)).await.unwrap();
        assert_eq!(stopped.state, State::Stopped(reason));
        assert_eq!(stopped.data.is_some(), kept, "{reason:?}");
        assert_eq!(house.node().kept().contains(&pod(n)), kept, "{reason:?}");
    }
}

#[tokio::test]
async fn fault_1_1_an_orphans_disks_are_set_aside() {
    let ground = Ground::default();
    let house = ground.house();
    house.finish(house.node().create(id(7), &crate::guests::spec(), None)).await.unwrap();
    house.until("the orphan is gone", async |house| house.node().running().is_empty()).await;
    assert_eq!(house.node().kept(), [pod(7)]);
}

#[tokio::test]
async fn fault_1_2_an_agent_that_its_node_cannot_read_is_not_lost() {
    let ground = Ground::default();
    let house = ground.house();
    house.spawned(1).await;
    house.node().quarantine(id(1), true);
    house.pass(Duration::from_secs(600)).await;
    assert_eq!(house.state(1).await, State::Waiting(WaitReason::Ledger), "and whoever asks is told so");
    assert!(house.node().kept().is_empty());
    house.node().quarantine(id(1), false);
    house.pass(Duration::from_secs(30)).await;
    assert_eq!(house.state(1).await, State::Ready);
}

/// An agent fails, and its holder removes it while its node, which may fall silent,
/// takes it down.
async fn removed_while_failing(falls_silent: bool) {
    let ground = Ground::default();
    let house = ground.house();
    house.spawned(1).await;
    house.node().fail(id(1), FailReason::CrashLoop);
    house.node().set_chaos(Chaos { slow: Duration::from_secs(3), ..Chaos::default() });
    let failing = State::Stopping(EndReason::Failed(FailReason::CrashLoop));
    house.until("it is being taken down", async |house| house.state(1).await == failing).await;
    house.node().set_down(falls_silent);
    let told = house.finish(house.control.remove(pod(1))).await.unwrap();
    assert!(told.state.end().is_some_and(EndReason::erases_data), "{told:?}");
    assert!(told.state.is_live() || !falls_silent, "{told:?}");
    house.node().set_down(false);
    house.until("the wallet is free", async |house| house.is_free(1).await).await;
    assert_eq!(house.store.last_run(pod(1)).await.unwrap(), None);
    assert!(house.node().kept().is_empty(), "its holder has said that it goes");
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
async fn start(house: &House, n: u64, of: u64) -> Result<RunRecord, SpawnError> {
    let asked = Reservation { pod: PodChoice::Existing(pod(of)), ..wish(of, n, house.now()) };
    let Admission::Reserved(record) = house.store.reserve(asked).await.unwrap() else { panic!("it is refused") };
    house.finish(house.control.spawn(record, Environment::default(), None)).await
}

#[tokio::test]
async fn a_pod_is_started_again_where_its_data_is_and_nowhere_else() {
    let ground = Ground { builds: vec![Build::default(); 2], ..Ground::default() };
    let house = ground.house();
    let first = house.spawned(1).await;
    let home = first.node.clone().unwrap();
    let keeper = house.nodes.iter().find(|node| node.name() == home).unwrap();
    house.finish(house.control.stop(id(1), StopReason::Requested)).await.unwrap();
    assert_eq!(keeper.kept(), [pod(1)]);
    keeper.set_down(true);
    let away = start(&house, 2, 1).await.unwrap_err();
    assert!(matches!(&away, SpawnError::DataAway(node) if *node == home), "{away:?}");
    // The failed start has cost neither the wallet's slot nor the data.
    house.until("the wallet is free", async |house| house.is_free(1).await).await;
    keeper.set_down(false);
    let again = start(&house, 3, 1).await.unwrap();
    assert_eq!((again.state, again.node, again.pod), (State::Ready, Some(home.clone()), first.pod));
    assert!(keeper.kept().is_empty(), "it is in use");
    house.finish(house.control.stop(id(3), StopReason::Requested)).await.unwrap();
    // A node that has lost it says so, and no empty disk takes its place.
    house.finish(keeper.erase(pod(1))).await.unwrap();
    let lost = start(&house, 4, 1).await.unwrap_err();
    assert!(matches!(&lost, SpawnError::NoData(node) if *node == home), "{lost:?}");
    assert!(house.nodes.iter().all(|node| node.running().is_empty()));
}

#[tokio::test]
async fn a_pod_that_runs_is_removed_with_all_that_is_of_it_and_its_usage_stays() {
    let ground = Ground::default();
    let house = ground.house();
    house.spawned(1).await;
    house.pass(Duration::from_secs(7)).await;
    let removed = house.finish(house.control.remove(pod(1))).await.unwrap();
    assert_eq!(removed.state, State::Stopped(StopReason::Removed));
    assert!(house.node().running().is_empty() && house.node().kept().is_empty());
    assert!(house.uptime(1).await >= 7_000);
    let unknown = house.finish(house.control.remove(pod(1))).await.unwrap_err();
    assert!(matches!(unknown, StopError::Store(store::StoreError::NoPod(gone)) if gone == pod(1)));
}
