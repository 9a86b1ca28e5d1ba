//! What a node lacks, what it cannot read, and what becomes of an agent's data.

use std::time::Duration;

use domain::{End, FailReason, Lack, State, StopReason};
use palatine_control::fake::Chaos;
use palatine_control::{Node, StopError};
use store::Record;

use crate::house::{Ground, House, id};

const DAY: Duration = Duration::from_secs(86_400);

async fn record(house: &House, n: u64) -> Record {
    house.store.get(id(n)).await.unwrap().unwrap()
}

#[tokio::test]
async fn fault_1_1_an_agent_whose_node_lacks_something_waits_for_days_unbilled_and_comes_back() {
    let ground = Ground::default();
    let house = ground.house();
    house.spawned(1).await;
    house.pass(Duration::from_secs(5)).await;
    house.node().lack(id(1), Some(Lack::Disk));
    house.until("it waits", async |house| house.state(1).await == State::Waiting(Lack::Disk)).await;
    let paid = house.uptime(1).await;
    house.pass(Duration::from_secs(1_800)).await;
    assert_eq!(house.state(1).await, State::Waiting(Lack::Disk));
    assert_eq!(house.uptime(1).await, paid);
    assert_eq!(house.node().running(), [id(1)]);
    house.node().lack(id(1), None);
    house.node().make_ready(id(1));
    house.until("it is ready", async |house| house.state(1).await == State::Ready).await;
    assert_eq!(record(&house, 1).await.restarts, 0);
}

#[tokio::test]
async fn fault_1_1_an_agent_that_failed_keeps_its_data_until_its_owner_stops_it() {
    let ground = Ground::default();
    let house = ground.house();
    house.spawned(1).await;
    house.node().fail(id(1), FailReason::CrashLoop);
    house.until("the wallet is free", async |house| house.is_free(1).await).await;
    assert_eq!(house.node().kept(), [id(1)]);
    let failed = record(&house, 1).await;
    assert_eq!(failed.state, State::Failed(FailReason::CrashLoop));
    let kept_for = failed.data_kept_until.unwrap().since(failed.ended_at.unwrap());
    assert!(u128::from(kept_for) > 29 * DAY.as_millis(), "{kept_for}");
    // The operator's word is not the owner's.
    house.finish(house.control.stop(id(1), StopReason::Operator)).await.unwrap();
    assert_eq!(house.node().kept(), [id(1)]);
    // A node that does not answer has erased nothing, and nobody says so.
    house.node().set_down(true);
    let silent = house.finish(house.control.stop(id(1), StopReason::Requested)).await;
    assert!(matches!(silent, Err(StopError::NodeUnavailable)));
    assert!(record(&house, 1).await.data_kept_until.is_some());
    house.node().set_down(false);
    let stopped = house.finish(house.control.stop(id(1), StopReason::Requested)).await.unwrap();
    assert_eq!((stopped.state, stopped.data_kept_until), (failed.state, None));
    assert!(house.node().kept().is_empty());
    assert_eq!(record(&house, 1).await.data_kept_until, None);
}

#[tokio::test]
async fn fault_1_1_only_the_owners_stop_erases() {
    let ground = Ground::default();
    let house = ground.house();
    let ends = [(1, StopReason::Requested, false), (2, StopReason::Balance, true), (3, StopReason::Operator, true)];
    for (n, reason, kept) in ends {
        house.spawned(n).await;
        let stopped = house.finish(house.control.stop(id(n), reason)).await.unwrap();
        assert_eq!(stopped.state, State::Stopped(reason));
        assert_eq!(stopped.data_kept_until.is_some(), kept, "{reason:?}");
        assert_eq!(house.node().kept().contains(&id(n)), kept, "{reason:?}");
    }
}

#[tokio::test]
async fn fault_1_1_an_orphans_disks_are_set_aside() {
    let ground = Ground::default();
    let house = ground.house();
    house.finish(house.node().create(id(7), &crate::guests::spec(), None)).await.unwrap();
    house.until("the orphan is gone", async |house| house.node().running().is_empty()).await;
    assert_eq!(house.node().kept(), [id(7)]);
}

#[tokio::test]
async fn fault_1_2_an_agent_that_its_node_cannot_read_is_not_lost() {
    let ground = Ground::default();
    let house = ground.house();
    house.spawned(1).await;
    house.node().quarantine(id(1), true);
    house.pass(Duration::from_secs(600)).await;
    assert_eq!(house.state(1).await, State::Waiting(Lack::Ledger), "and whoever asks is told so");
    assert!(house.node().kept().is_empty());
    house.node().quarantine(id(1), false);
    house.pass(Duration::from_secs(30)).await;
    assert_eq!(house.state(1).await, State::Ready);
}

/// An agent fails, and its owner stops it while its node, which may fall silent,
/// takes it down.
async fn stopped_while_failing(falls_silent: bool) {
    let ground = Ground::default();
    let house = ground.house();
    house.spawned(1).await;
    house.node().fail(id(1), FailReason::CrashLoop);
    house.node().set_chaos(Chaos { slow: Duration::from_secs(3), ..Chaos::default() });
    let failing = State::Stopping(End::Failed(FailReason::CrashLoop));
    house.until("it is being taken down", async |house| house.state(1).await == failing).await;
    house.node().set_down(falls_silent);
    let told = house.finish(house.control.stop(id(1), StopReason::Requested)).await.unwrap();
    assert!(told.state.end().is_some_and(End::is_owners_word), "{told:?}");
    assert!(told.state.is_live() || !falls_silent, "{told:?}");
    house.node().set_down(false);
    house.until("the wallet is free", async |house| house.is_free(1).await).await;
    assert_eq!(house.state(1).await, State::Stopped(StopReason::Requested));
    assert_eq!(record(&house, 1).await.data_kept_until, None);
    assert!(house.node().kept().is_empty(), "its owner has said that it goes");
}

#[tokio::test]
async fn fault_1_1_an_owners_stop_erases_while_another_end_is_under_way() {
    stopped_while_failing(false).await;
}

#[tokio::test]
async fn fault_1_1_an_owners_stop_erases_though_its_node_answers_nobody_in_time() {
    stopped_while_failing(true).await;
}
