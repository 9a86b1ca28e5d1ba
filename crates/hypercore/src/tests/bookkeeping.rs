//! The node's own records: a record that cannot be written, a journal whose disk takes
//! nothing.

use std::path::PathBuf;
use std::time::Duration;

use domain::{Clock, FailReason, MarkKind, NodeShortage, SystemClock};
use fixtures::until_holds;
use sandbox::RuntimeOperation;
use tokio::time::timeout;
use wire::v1::node::{DataPolicy, Sandbox, SandboxPhase};
use wire::v1::pod::PodPhase;

use super::node::{Daemon, SOON, TestNode, id};
use super::pod::PodBehavior;

const FAILED: SandboxPhase = SandboxPhase::Failed { reason: FailReason::CrashLoop };

fn file(host: &TestNode, name: &str) -> PathBuf {
    host.state().join("sandboxes").join(id(1).to_string()).join(name)
}

/// From now on its record cannot be written, until what this gives is removed.
fn no_record(host: &TestNode) -> PathBuf {
    let draft = file(host, "record.half");
    std::fs::create_dir(&draft).unwrap();
    draft
}

fn waits_for_the_records(sandbox: &Sandbox) -> bool {
    matches!(sandbox.phase, SandboxPhase::Waiting { lacks: NodeShortage::Ledger, .. })
}

async fn one_ready(host: &TestNode) -> Daemon {
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    daemon
}

/// Deletes it; the time that takes is bounded.
async fn delete(daemon: &Daemon, data: DataPolicy) -> bool {
    timeout(SOON, daemon.node.delete(id(1), None, Duration::ZERO, data)).await.unwrap().is_ok()
}

#[tokio::test]
async fn fault_1_1_an_agent_that_was_given_up_is_not_started_again_whatever_the_disk_takes() {
    let mut host = TestNode::new(PodBehavior::Good);
    host.config.restarts = 0;
    let daemon = one_ready(&host).await;
    let draft = no_record(&host);
    host.machine.crash(id(1));
    daemon.until(id(1), |sandbox| sandbox.phase == FAILED).await;
    std::fs::remove_dir(draft).unwrap();
    let written = || std::fs::read_to_string(file(&host, "record.json")).unwrap().contains("crash_loop");
    until_holds("the failure is written down", written).await;
    assert_eq!((host.machine.running().len(), host.machine.disks()[&id(1)]), (0, 1));
    assert_eq!(daemon.kinds(id(1)).await, [MarkKind::Booting, MarkKind::Ready, MarkKind::Unready]);
    // The next daemon shows it from the start, and needs no secrets for that.
    daemon.kill().await;
    std::fs::remove_file(file(&host, "secrets")).unwrap();
    let next = host.daemon().await;
    assert_eq!(next.sandbox(id(1)).unwrap().phase, FAILED);
    assert!(delete(&next, DataPolicy::Keep).await);
    assert_eq!((host.machine.kept().len(), host.machine.disks().len()), (1, 0));
}

#[tokio::test]
async fn fault_1_1_a_guest_that_was_given_up_and_cannot_be_stopped_is_stopped_later() {
    let mut host = TestNode::new(PodBehavior::Hopeless);
    host.config.restarts = 0;
    for _ in 0..3 {
        host.machine.fail_call(RuntimeOperation::Stop);
    }
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    daemon.until(id(1), |sandbox| sandbox.phase == FAILED).await;
    assert_eq!((host.machine.running().len(), host.machine.failing()), (0, 0));
    assert_eq!(host.machine.disks()[&id(1)], 1, "it was never started again");
}

#[tokio::test]
async fn fault_1_6_a_sandbox_is_removed_although_its_end_cannot_be_written_down() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = one_ready(&host).await;
    let _draft = no_record(&host);
    host.machine.fail_call(RuntimeOperation::Stop);
    assert!(!delete(&daemon, DataPolicy::Erase).await, "it could not be stopped");
    until_holds("gone", || daemon.sandbox(id(1)).is_none()).await;
    assert!(host.machine.running().is_empty() && host.machine.disks().is_empty());
    assert_eq!(daemon.kinds(id(1)).await.last(), Some(&MarkKind::Gone));
}

#[tokio::test]
async fn fault_1_6_an_end_is_in_the_ledger_before_its_mark_is_waited_for() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = one_ready(&host).await;
    let (draft, held) = (no_record(&host), daemon.node.shared.journal.hold());
    let asked = delete(&daemon, DataPolicy::Erase);
    let room = async {
        until_holds("its disks are gone", || host.machine.disks().is_empty()).await;
        std::fs::remove_dir(draft).unwrap();
    };
    let (ended, ()) = tokio::join!(asked, room);
    assert!(!ended, "its end is in no journal");
    let written = || std::fs::read_to_string(file(&host, "record.json")).unwrap().contains("\"wanted\": \"gone\"");
    until_holds("the end is written down", written).await;
    drop(held);
    until_holds("gone", || daemon.sandbox(id(1)).is_none()).await;
}

#[tokio::test]
async fn fault_1_6_a_guest_that_dies_while_the_journal_takes_nothing_can_be_deleted() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = one_ready(&host).await;
    let held = daemon.node.shared.journal.hold();
    host.machine.crash(id(1));
    daemon.until(id(1), waits_for_the_records).await;
    assert!(!delete(&daemon, DataPolicy::Erase).await, "its end is in no journal");
    assert!(host.machine.disks().is_empty(), "that has made room");
    drop(held);
    until_holds("gone", || daemon.sandbox(id(1)).is_none()).await;
    assert_eq!(daemon.kinds(id(1)).await.last(), Some(&MarkKind::Gone));
}

#[tokio::test]
async fn fault_1_6_a_readiness_that_the_journal_does_not_take_is_neither_shown_nor_billed() {
    let host = TestNode::new(PodBehavior::Slow);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    daemon.until(id(1), |sandbox| sandbox.pid.is_some()).await;
    let held = daemon.node.shared.journal.hold();
    until_holds("an identity", || host.guests.with(id(1), |guest| !guest.identities.is_empty())).await;
    host.guests.with(id(1), |guest| guest.phase = Some(PodPhase::Ready));
    daemon.until(id(1), waits_for_the_records).await;
    let released = SystemClock.now();
    drop(held);
    daemon.ready(id(1)).await;
    let marks = daemon.marks(id(1)).await;
    let [_, first, unready, ready] = marks.as_slice() else { panic!("{marks:?}") };
    assert_eq!(first.mark.at, unready.mark.at, "nobody was let in");
    assert!(ready.mark.kind == MarkKind::Ready && ready.mark.at >= released, "{marks:?}");
}

#[tokio::test]
async fn fault_1_6_a_node_starts_although_the_journal_takes_nothing() {
    let host = TestNode::new(PodBehavior::Good);
    one_ready(&host).await.kill().await;
    std::fs::write(file(&host, "record.json"), "noise").unwrap();
    std::fs::create_dir_all(host.state().join("sandboxes").join(id(2).to_string())).unwrap();
    let mut held = None;
    let next = timeout(SOON, host.daemon_with(|journal| held = Some(journal.hold()))).await.unwrap();
    assert_eq!(next.node.shared.registry.quarantine.list().len(), 1);
    assert!(!delete(&next, DataPolicy::Keep).await, "its end is in no journal");
    assert_eq!((host.machine.running().len(), host.machine.kept().len()), (0, 1), "that has made room");
    drop(held);
    assert!(delete(&next, DataPolicy::Keep).await);
    assert!(next.node.shared.registry.quarantine.list().is_empty());
}

#[tokio::test]
async fn fault_1_1_who_asks_a_daemon_that_ends_is_not_told_that_the_sandbox_is_gone() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = one_ready(&host).await;
    let handle = daemon.node.shared.registry.get(id(1)).unwrap();
    daemon.node.leave().await;
    assert!(daemon.node.shared.registry.delete(&handle, Duration::ZERO, DataPolicy::Erase).await.is_err());
    assert!(!delete(&daemon, DataPolicy::Erase).await);
    assert_eq!(host.machine.running().len(), 1, "the next daemon adopts it");
    let next = host.daemon().await;
    assert!(delete(&next, DataPolicy::Erase).await);
    assert!(host.machine.running().is_empty());
}

#[tokio::test]
async fn fault_1_1_an_order_that_a_task_leaves_unanswered_is_no_success() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = one_ready(&host).await;
    // It waits for its journal, and the daemon ends meanwhile.
    let held = daemon.node.shared.journal.hold();
    let (ended, ()) = tokio::join!(daemon.node.delete(id(1), None, Duration::ZERO, DataPolicy::Erase), async {
        until_holds("it ends", || daemon.sandbox(id(1)).is_some_and(|sandbox| sandbox.phase == SandboxPhase::Stopping))
            .await;
        daemon.node.leave().await;
    });
    assert!(ended.is_err());
    drop(held);
}
