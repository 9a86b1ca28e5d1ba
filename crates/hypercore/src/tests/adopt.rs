//! What the next daemon makes of it.

use std::time::Duration;

use domain::{MarkKind, PodId, UnixMillis};
use fixtures::until_holds;
use sandbox::{DiskRetention, Runtime, Slot};
use wire::v1::node::{DataDisk, RuntimeName, SandboxPhase, SandboxSpec};

use super::node::{TestNode, id, spec};
use super::pod::PodBehavior;
use crate::node::{CreateError, CreateOutcome};

#[tokio::test]
async fn three_guests_outlive_their_daemon_and_nothing_is_restarted() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    let mut before = Vec::new();
    for bits in 1..=3 {
        daemon.create(id(bits)).await;
        before.push(daemon.ready(id(bits)).await);
    }
    daemon.kill().await;
    let next = host.daemon().await;
    for (bits, before) in (1..).zip(&before) {
        assert_eq!(&next.ready(id(bits)).await, before);
        assert_eq!(next.kinds(id(bits)).await, [MarkKind::Booting, MarkKind::Ready]);
        host.guests.with(id(bits), |guest| assert_eq!(guest.identities.len(), 1));
    }
    host.machine.crash(id(2));
    assert_eq!(
        next.until(id(2), |sandbox| sandbox.restarts == 1 && sandbox.phase == SandboxPhase::Ready).await.restarts,
        1
    );
}

#[tokio::test]
async fn a_run_that_is_there_is_found_whatever_the_node_offers_by_now() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    let emulated = SandboxSpec { runtime: Some(RuntimeName::QemuTcg), ..spec() };
    daemon.offer(id(1), &emulated).await.unwrap();
    daemon.ready(id(1)).await;
    daemon.kill().await;
    host.machine.set_runtime(RuntimeName::QemuKvm);
    let next = host.daemon().await;
    assert!(matches!(next.offer(id(1), &emulated).await, Ok(CreateOutcome::Existing(_))));
    assert!(matches!(next.offer(id(2), &emulated).await, Err(CreateError::Runtime { .. })));
}

#[tokio::test]
async fn a_guest_that_died_unseen_is_billed_to_the_last_heartbeat_and_started_again() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    daemon.kill().await;
    host.last_alive(UnixMillis(4_242_424_242_424));
    host.machine.crash(id(1));
    let next = host.daemon().await;
    next.until(id(1), |sandbox| sandbox.restarts == 1 && sandbox.phase == SandboxPhase::Ready).await;
    let marks = next.marks(id(1)).await;
    assert_eq!(marks[2].mark.kind, MarkKind::Unready);
    assert_eq!(marks[2].mark.at, UnixMillis(4_242_424_242_424));
}

#[tokio::test]
async fn a_guest_that_was_booting_goes_on_booting() {
    let host = TestNode::new(PodBehavior::Slow);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    until_holds("an identity", || host.guests.with(id(1), |guest| !guest.identities.is_empty())).await;
    let pid = daemon.until(id(1), |sandbox| sandbox.pid.is_some()).await.pid;
    daemon.kill().await;
    host.guests.with(id(1), |guest| guest.phase = Some(wire::v1::pod::PodPhase::Ready));
    let next = host.daemon().await;
    let ready = next.ready(id(1)).await;
    assert_eq!((ready.pid, ready.restarts), (pid, 0));
    host.guests.with(id(1), |guest| assert_eq!(guest.identities.len(), 1));
}

#[tokio::test]
async fn a_deletion_that_was_cut_off_is_finished() {
    let host = TestNode::new(PodBehavior::Good);
    host.leaves(id(1), |record| record["wanted"] = "gone".into()).await;
    let next = host.daemon().await;
    until_holds("gone", || next.sandbox(id(1)).is_none()).await;
    assert!(host.machine.running().is_empty() && host.machine.disks().is_empty());
    let kinds = next.kinds(id(1)).await;
    assert_eq!(kinds.last(), Some(&MarkKind::Gone));
}

#[tokio::test]
async fn what_is_in_no_ledger_is_removed_and_what_has_no_record_too() {
    let host = TestNode::new(PodBehavior::Good);
    let spec = sandbox::GuestSpec {
        slot: Slot { run: id(9), number: 9 },
        pod: PodId::minted(id(9)),
        data: DataDisk::KeptOrEmpty,
        cores: 1,
        memory_mib: 128,
        runtime: None,
        base: "/dev/null".into(),
        volumes: Vec::new(),
        state_dir: "/data".to_owned(),
        ran: false,
    };
    host.machine.driver().create(&spec).await.unwrap();
    std::fs::create_dir_all(host.state().join("sandboxes").join(id(8).to_string())).unwrap();
    let daemon = host.daemon().await;
    assert!(host.machine.running().is_empty());
    assert!(!host.state().join("sandboxes").join(id(8).to_string()).exists());
    assert!(daemon.sandbox(id(8)).is_none());
}

#[tokio::test]
async fn a_start_that_was_cut_off_is_made_anew() {
    let host = TestNode::new(PodBehavior::Good);
    // The VMM ran, and the ledger had not heard of it.
    host.leaves(id(1), |record| record["facts"] = serde_json::Value::Null).await;
    let next = host.daemon().await;
    next.until(id(1), |sandbox| sandbox.restarts == 1 && sandbox.phase == SandboxPhase::Ready).await;
    assert_eq!(host.machine.running().len(), 1);
}

#[tokio::test]
async fn a_node_that_stops_its_guests_starts_them_again_next_time() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    tokio::time::timeout(Duration::from_secs(10), daemon.node.halt()).await.unwrap();
    assert!(host.machine.running().is_empty());
    assert_eq!(host.machine.disks().len(), 1);
    let next = host.daemon().await;
    let again = next.ready(id(1)).await;
    assert_eq!(again.restarts, 1);
    let kinds = [MarkKind::Booting, MarkKind::Ready, MarkKind::Unready, MarkKind::Booting, MarkKind::Ready];
    assert_eq!(next.kinds(id(1)).await, kinds);
    host.machine.driver().stop(Slot { run: id(1), number: 0 }, DiskRetention::Attached).await.unwrap();
}

#[tokio::test]
async fn lines_are_neither_lost_nor_doubled_over_two_daemons() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    let written = || {
        let path = host.state().join("sandboxes").join(id(1).to_string()).join("agent.0.log");
        std::fs::read_to_string(path).unwrap_or_default()
    };
    host.guests.with(id(1), |guest| guest.lines.extend(["one", "two"].map(str::to_owned)));
    until_holds("two lines", || written().ends_with("two\n")).await;
    daemon.kill().await;
    host.guests.with(id(1), |guest| guest.lines.extend(["three", "four"].map(str::to_owned)));
    let _next = host.daemon().await;
    until_holds("four lines", || written().ends_with("four\n")).await;
    assert_eq!(written(), "1 1 one\n1 2 two\n1 3 three\n1 4 four\n");
}

#[tokio::test]
async fn fault_1_2_a_guest_outlives_a_damaged_journal_and_is_billed_by_a_new_one() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    let before = daemon.ready(id(1)).await;
    let name = daemon.node.shared.journal.after(0, Duration::ZERO).await.journal;
    daemon.kill().await;
    let path = host.state().join("marks");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("booting", "b#oting", 1)).unwrap();
    let next = host.daemon().await;
    let after = next.ready(id(1)).await;
    assert_eq!((after.pid, after.restarts), (before.pid, 0));
    let said = next.node.shared.journal.after(0, Duration::ZERO).await;
    assert_ne!(said.journal, name, "marks of that name were counted");
    assert_eq!(next.kinds(id(1)).await, [MarkKind::Booting, MarkKind::Ready]);
}
