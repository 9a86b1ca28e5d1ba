//! What the node lacks, and what becomes of disks.

use std::time::Duration;

use domain::{Clock, FailReason, Mark, MarkKind, NodeShortage, SystemClock, UnixMillis};
use fixtures::until_holds;
use sandbox::{DiskRetention, DiskUsage, DriverRefusal, GuestSpec, Runtime, RuntimeOperation, Slot};
use serde_json::Value;
use wire::v1::node::{AgentMark, DataDisk, DataPolicy, KeptCause, Retention, RuntimeName, Sandbox, SandboxPhase};

use super::node::{TestNode, id};
use super::pod::PodBehavior;
use crate::policy::KeptDiskAges;
use crate::{retention, upkeep};

const GRACE: Duration = Duration::from_millis(500);

fn full() -> DriverRefusal {
    DriverRefusal::DiskFull { path: "/".into(), free_mib: 1, least_mib: 2 }
}

fn waits_for(wait_reason: NodeShortage) -> impl Fn(&Sandbox) -> bool {
    move |sandbox| matches!(sandbox.phase, SandboxPhase::Waiting { lacks, .. } if lacks == wait_reason)
}

#[tokio::test]
async fn fault_1_1_what_the_node_lacks_is_waited_for_and_is_no_death_of_the_agent() {
    for (trouble, wait_reason) in
        [(full(), NodeShortage::Disk), (DriverRefusal::NoBase("/gone".into()), NodeShortage::Image)]
    {
        let host = TestNode::new(PodBehavior::Good);
        let daemon = host.daemon().await;
        daemon.create(id(1)).await;
        daemon.ready(id(1)).await;
        host.machine.fail(Some(trouble));
        host.machine.crash(id(1));
        let waiting = daemon.until(id(1), waits_for(wait_reason)).await;
        assert!(waiting.cause.is_some_and(|cause| !cause.is_empty()));
        // Far more often than an agent may die.
        let tries = host.config.restarts + 8;
        until_holds("many tries", || host.machine.refused() > tries).await;
        assert!(waits_for(wait_reason)(&daemon.sandbox(id(1)).unwrap()));
        assert_eq!(daemon.sandbox(id(1)).unwrap().restarts, 1);
        host.machine.fail(None);
        let ready = daemon.ready(id(1)).await;
        assert_eq!((ready.restarts, ready.cause), (1, None));
        assert_eq!(host.machine.disks()[&id(1)], 2, "its disks are those of before");
        let kinds = [MarkKind::Booting, MarkKind::Ready, MarkKind::Unready, MarkKind::Booting, MarkKind::Ready];
        assert_eq!(daemon.kinds(id(1)).await, kinds, "nothing was billed meanwhile");
    }
}

#[tokio::test]
async fn fault_1_1_a_daemon_that_comes_back_to_a_full_disk_waits_and_erases_nothing() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    daemon.kill().await;
    host.machine.fail(Some(full()));
    host.machine.crash(id(1));
    for round in 1..=3 {
        let next = host.daemon().await;
        next.until(id(1), waits_for(NodeShortage::Disk)).await;
        until_holds("many tries", || host.machine.refused() > round * 8).await;
        assert!(waits_for(NodeShortage::Disk)(&next.sandbox(id(1)).unwrap()));
        next.kill().await;
    }
    host.machine.fail(None);
    host.daemon().await.ready(id(1)).await;
    assert_eq!(host.machine.disks()[&id(1)], 2);
}

#[tokio::test]
async fn fault_1_1_an_agent_that_waits_can_be_stopped() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    host.machine.fail(Some(full()));
    daemon.create(id(1)).await;
    daemon.until(id(1), waits_for(NodeShortage::Disk)).await;
    daemon.node.delete(id(1), None, GRACE, DataPolicy::Keep).await.unwrap();
    assert!(daemon.sandbox(id(1)).is_none());
    assert!(host.machine.kept().is_empty(), "a guest that never ran has left nothing");
}

#[tokio::test]
async fn fault_1_1_deaths_that_nobody_saw_are_no_crash_loop() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    daemon.kill().await;
    for _ in 0..host.config.restarts + 3 {
        host.machine.crash(id(1));
        let next = host.daemon().await;
        next.ready(id(1)).await;
        next.kill().await;
    }
}

#[tokio::test]
async fn fault_1_1_an_agent_that_failed_keeps_its_disks_until_its_owner_has_them_erased() {
    let host = TestNode::new(PodBehavior::Hopeless);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    let failed = SandboxPhase::Failed { reason: FailReason::CrashLoop };
    daemon.until(id(1), |sandbox| sandbox.phase == failed).await;
    let gone = daemon.node.delete(id(1), None, GRACE, DataPolicy::Keep).await.unwrap();
    assert!(daemon.sandbox(id(1)).is_none());
    let kept = host.machine.kept();
    assert_eq!(kept.len(), 1);
    let retention = kept[0].retention.unwrap();
    let until = gone.kept.and_then(|kept| kept.until);
    assert_eq!((until, retention.cause), (Some(retention.until), KeptCause::Deleted));
    assert_eq!(retention.until.since(retention.since), 30 * 86_400_000);
    // Whoever asks again hears the same, and a sweep of the next daemon takes nothing.
    assert_eq!(daemon.node.delete(id(1), None, GRACE, DataPolicy::Keep).await.unwrap(), gone);
    daemon.kill().await;
    let next = host.daemon().await;
    assert_eq!(next.node.disks().await.unwrap().kept, kept);
    assert_eq!(next.node.delete(id(1), None, GRACE, DataPolicy::Erase).await.unwrap().kept, None);
    assert!(host.machine.kept().is_empty());
}

#[tokio::test]
async fn fault_1_1_a_deletion_without_the_owners_word_that_was_cut_off_keeps_the_disks() {
    let host = TestNode::new(PodBehavior::Good);
    host.leaves(id(1), |record| record["wanted"] = "gone_kept".into()).await;
    let next = host.daemon().await;
    until_holds("gone", || next.sandbox(id(1)).is_none()).await;
    assert!(host.machine.running().is_empty() && host.machine.disks().is_empty());
    assert_eq!(host.machine.kept().len(), 1);
}

#[tokio::test]
async fn fault_1_1_kept_disks_are_erased_when_their_retention_is_over_and_not_before() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    let now = SystemClock.now();
    let driver = host.machine.driver();
    for (bits, since) in [(1, UnixMillis(0)), (2, now)] {
        let slot = Slot { run: id(bits), number: 0 };
        let (pod, data, base) = (id(bits).into(), DataDisk::KeptOrEmpty, "/dev/null".into());
        let (cores, memory_mib, state_dir, volumes) = (1, 128, "/data".to_owned(), Vec::new());
        let spec =
            GuestSpec { slot, pod, data, cores, memory_mib, runtime: None, base, volumes, state_dir, ran: false };
        driver.create(&spec).await.unwrap();
        let until = since.plus(host.config.retention_ms());
        let retention = Retention { since, until, cause: KeptCause::Deleted };
        driver.stop(slot, DiskRetention::KeepAll(retention)).await.unwrap();
    }
    let shared = &daemon.node.shared;
    let left = || host.machine.kept().iter().map(|disk| disk.pod).collect::<Vec<_>>();
    let (mut ages, month) = (KeptDiskAges::default(), Duration::from_millis(host.config.retention_ms()));
    retention::expire(shared, &mut ages, month).await.unwrap();
    assert_eq!(left(), [id(1).into(), id(2).into()], "a clock that was set has not kept them");
    // The next daemon goes on from there.
    let path = host.state().join("kept.ages");
    retention::write_ages(path.clone(), ages).await.unwrap();
    let mut ages = retention::read_ages(&path);
    retention::expire(shared, &mut ages, month / 2).await.unwrap();
    assert_eq!(left(), [id(1).into(), id(2).into()]);
    retention::expire(shared, &mut ages, month / 2).await.unwrap();
    assert_eq!(left(), [id(2).into()], "the clock says that the other's time is not over");
}

#[tokio::test]
async fn fault_1_1_a_vmm_that_ends_at_once_is_waited_for_and_costs_the_agent_nothing() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    for _ in 0..host.config.restarts + 8 {
        host.machine.fail_call(RuntimeOperation::Create);
    }
    daemon.create(id(1)).await;
    daemon.until(id(1), waits_for(NodeShortage::Vmm)).await;
    let ready = daemon.ready(id(1)).await;
    assert_eq!((ready.restarts, host.machine.failing()), (0, 0));
    assert_eq!(daemon.kinds(id(1)).await, [MarkKind::Booting, MarkKind::Ready]);
}

#[tokio::test]
async fn fault_1_1_a_vmm_that_cannot_be_reached_is_not_billed_and_is_adopted_when_it_can() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    let before = daemon.ready(id(1)).await;
    daemon.kill().await;
    for _ in 0..host.config.restarts + 8 {
        host.machine.fail_call(RuntimeOperation::Adopt);
    }
    let next = host.daemon().await;
    next.until(id(1), waits_for(NodeShortage::Vmm)).await;
    assert_eq!(next.kinds(id(1)).await.last(), Some(&MarkKind::Unready));
    let after = next.ready(id(1)).await;
    assert_eq!((after.pid, after.restarts, host.machine.failing()), (before.pid, 0, 0));
}

#[tokio::test]
async fn fault_1_1_what_a_guest_wrote_that_no_record_knows_is_kept() {
    let host = TestNode::new(PodBehavior::Good);
    // Its first start was cut off after the guest ran, and then it was to be gone.
    let change = |record: &mut Value| {
        (record["ran"], record["facts"], record["wanted"]) = (false.into(), Value::Null, "gone_kept".into());
    };
    host.leaves(id(1), change).await;
    let next = host.daemon().await;
    until_holds("gone", || next.sandbox(id(1)).is_none()).await;
    assert_eq!((host.machine.running().len(), host.machine.kept().len()), (0, 1));
}

#[tokio::test]
async fn fault_1_6_a_guest_that_its_vmm_stops_is_billed_until_it_was_last_seen_alive() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    host.machine.pause(id(1), Some(NodeShortage::Disk));
    let paused = SystemClock.now();
    daemon.until(id(1), waits_for(NodeShortage::Disk)).await;
    let marks = daemon.marks(id(1)).await;
    let Some(AgentMark { mark: Mark { kind: MarkKind::Unready, at, .. }, .. }) = marks.last() else {
        panic!("{marks:?}")
    };
    // A second goes by before the node knows that nobody answers.
    assert!(at.since(paused) < 500, "{} ms are billed", at.since(paused));
}

#[tokio::test]
async fn fault_1_6_a_guest_that_a_full_disk_has_stopped_waits_and_goes_on_where_it_was() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    let before = daemon.ready(id(1)).await;
    host.machine.set_disk_usage(DiskUsage { size: 1 << 30, free: 0, guests: 0 });
    host.machine.pause(id(1), Some(NodeShortage::Disk));
    daemon.until(id(1), waits_for(NodeShortage::Disk)).await;
    assert_eq!(daemon.kinds(id(1)).await.last(), Some(&MarkKind::Unready), "nobody pays for it");
    // The next daemon finds it so too.
    daemon.kill().await;
    let next = host.daemon().await;
    next.until(id(1), waits_for(NodeShortage::Disk)).await;
    host.machine.pause(id(1), None);
    host.machine.set_disk_usage(DiskUsage { size: 1 << 30, free: 1 << 30, guests: 0 });
    let after = next.ready(id(1)).await;
    assert_eq!((after.pid, after.restarts), (before.pid, 0));
}

#[tokio::test]
async fn a_container_on_a_full_disk_is_stopped_although_its_pod_answers_and_goes_on_where_it_was() {
    for behavior in [PodBehavior::Good, PodBehavior::Slow] {
        let host = TestNode::new(behavior);
        host.machine.set_runtime(RuntimeName::ContainerRunc);
        let daemon = host.daemon().await;
        daemon.create(id(1)).await;
        let begun = if behavior == PodBehavior::Good { SandboxPhase::Ready } else { SandboxPhase::Booting };
        let before = daemon.until(id(1), |sandbox| sandbox.phase == begun && sandbox.pid.is_some()).await;
        host.machine.set_disk_usage(DiskUsage { size: 1 << 30, free: 0, guests: 0 });
        host.machine.pause_when_seen(id(1), NodeShortage::Disk);
        daemon.until(id(1), waits_for(NodeShortage::Disk)).await;
        assert_ne!(daemon.kinds(id(1)).await.last(), Some(&MarkKind::Ready), "nobody pays for it");
        host.guests.behave(PodBehavior::Good);
        host.guests.with(id(1), |guest| guest.phase = Some(wire::v1::pod::PodPhase::Ready));
        host.machine.pause(id(1), None);
        host.machine.set_disk_usage(DiskUsage { size: 1 << 30, free: 1 << 30, guests: 0 });
        let after = daemon.ready(id(1)).await;
        assert_eq!((after.pid, after.restarts), (before.pid, 0));
    }
}

#[tokio::test]
async fn fault_1_6_a_stopped_guest_can_be_deleted() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    host.machine.pause(id(1), Some(NodeShortage::Disk));
    daemon.until(id(1), waits_for(NodeShortage::Disk)).await;
    daemon.node.delete(id(1), None, GRACE, DataPolicy::Erase).await.unwrap();
    assert!(host.machine.running().is_empty() && host.machine.disks().is_empty());
}

#[tokio::test]
async fn fault_1_6_a_node_promises_its_disk_once() {
    let mut host = TestNode::new(PodBehavior::Good);
    (host.config.layer_mib, host.config.data_mib, host.config.disk_percent) = (40_000, 60_000, 200);
    host.machine.set_disk_usage(DiskUsage { size: 10 << 30, free: 10 << 30, guests: 0 });
    let daemon = host.daemon().await;
    let refused = daemon.offer(id(1), &super::node::spec()).await;
    assert!(matches!(refused, Err(crate::node::CreateError::NoRoom(domain::PlacementError::Full))), "100 GB on 10 GB");
    host.machine.set_disk_usage(DiskUsage { size: 120 << 30, free: 120 << 30, guests: 0 });
    daemon.create(id(1)).await;
    daemon.create(id(2)).await;
    let disk = daemon.node.info().await.unwrap().disk.unwrap();
    assert_eq!((disk.promised_mib, disk.sandbox_mib, disk.overcommit_percent), (200_000, 100_000, 200));
    assert!(daemon.offer(id(3), &super::node::spec()).await.is_err());
    daemon.node.delete(id(1), None, GRACE, DataPolicy::Erase).await.unwrap();
    daemon.create(id(3)).await;
}

#[tokio::test(start_paused = true)]
async fn fault_1_5_a_look_at_the_machine_that_fails_is_not_the_last() {
    let host = TestNode::new(PodBehavior::Good);
    let driver = host.machine.driver();
    let looking = tokio::spawn(async move { upkeep::keep_network(&driver).await });
    until_holds("looks", || host.machine.reconciled() > 2).await;
    assert!(!looking.is_finished());
    looking.abort();
}
