//! A sandbox's life on one daemon.

use std::time::Duration;

use domain::{FailReason, Generation, MarkKind, PlacementError};
use fixtures::until_holds;
use sandbox::DriverRefusal;
use tokio::time::timeout;
use wire::v1::node::{DataPolicy, SandboxPhase};
use wire::v1::pod::PodPhase;

use super::node::{SOON, TestNode, id, spec};
use super::pod::PodBehavior;
use crate::node::{CreateError, CreateOutcome};
use crate::policy::ReadinessHistory;

const GRACE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_spawn_becomes_ready_and_a_delete_leaves_nothing() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    assert_eq!(daemon.create(id(1)).await.phase, SandboxPhase::Booting);
    let ready = daemon.ready(id(1)).await;
    assert!(ready.ready_after_ms.is_some() && ready.pid.is_some());
    daemon.node.delete(id(1), None, GRACE, DataPolicy::Erase).await.unwrap();
    assert!(daemon.sandbox(id(1)).is_none());
    assert!(host.machine.running().is_empty() && host.machine.disks().is_empty());
    assert_eq!(std::fs::read_dir(host.state().join("sandboxes")).unwrap().count(), 0);
    assert_eq!(daemon.kinds(id(1)).await, [MarkKind::Booting, MarkKind::Ready, MarkKind::Unready, MarkKind::Gone]);
}

#[tokio::test]
async fn the_guest_is_told_its_secrets_once_and_the_disk_never_holds_them() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    host.guests.with(id(1), |guest| {
        assert_eq!(guest.identities.len(), 1);
        assert_eq!(guest.identities[0].env.0["API_KEY"].expose(), "hush-hush");
        assert_eq!(guest.identities[0].resolvers, ["9.9.9.9"]);
    });
    let canary = b"hush-hush";
    let mut folders = vec![host.state().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                assert!(!bytes.windows(canary.len()).any(|word| word == canary), "{}", path.display());
            }
        }
    }
    assert!(!format!("{:?}", daemon.sandbox(id(1))).contains("hush-hush"));
}

#[tokio::test]
async fn the_same_spec_again_changes_nothing_and_another_is_refused() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    assert!(matches!(daemon.offer(id(1), &spec()).await, Ok(CreateOutcome::Existing(_))));
    let mut other = spec();
    other.env.0.insert("API_KEY".to_owned(), "another".to_owned().into());
    assert!(matches!(daemon.offer(id(1), &other).await, Err(CreateError::Stale)));
    for generation in [0, 2] {
        let other = wire::v1::node::SandboxSpec { generation: Generation(generation), ..spec() };
        assert!(matches!(daemon.offer(id(1), &other).await, Err(CreateError::Stale)));
    }
    daemon.ready(id(1)).await;
    assert_eq!(host.machine.running().len(), 1);
}

#[tokio::test]
async fn twenty_at_once_for_one_agent_make_one_guest() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    let spec = spec();
    let offers = (0..20).map(|_| daemon.offer(id(1), &spec));
    let made = futures_util::future::join_all(offers).await;
    let new = made.iter().filter(|made| matches!(made, Ok(CreateOutcome::New(_)))).count();
    assert_eq!(new, 1);
    daemon.ready(id(1)).await;
    assert_eq!(host.machine.running().len(), 1);
}

#[tokio::test]
async fn a_guest_that_dies_is_started_again_under_its_id_and_not_billed_between() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    let first = daemon.ready(id(1)).await;
    host.machine.crash(id(1));
    let again = daemon.until(id(1), |sandbox| sandbox.phase == SandboxPhase::Ready && sandbox.restarts == 1).await;
    assert_ne!(again.pid, first.pid);
    assert_eq!(again.ready_after_ms, first.ready_after_ms);
    let kinds = [MarkKind::Booting, MarkKind::Ready, MarkKind::Unready, MarkKind::Booting, MarkKind::Ready];
    assert_eq!(daemon.kinds(id(1)).await, kinds);
    host.guests.with(id(1), |guest| {
        assert_eq!(guest.identities[0].token.expose(), guest.identities[1].token.expose());
    });
}

#[tokio::test]
async fn a_guest_that_dies_too_often_has_failed_and_keeps_its_place_until_it_is_deleted() {
    let host = TestNode::new(PodBehavior::Hopeless);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    let failed = SandboxPhase::Failed { reason: FailReason::CrashLoop };
    let sandbox = daemon.until(id(1), |sandbox| sandbox.phase == failed).await;
    assert_eq!(sandbox.restarts, host.config.restarts);
    assert!(host.machine.running().is_empty());
    daemon.node.delete(id(1), None, GRACE, DataPolicy::Erase).await.unwrap();
    assert!(daemon.sandbox(id(1)).is_none());
    assert_eq!(daemon.kinds(id(1)).await, [MarkKind::Booting, MarkKind::Gone]);
}

#[tokio::test]
async fn a_guest_that_never_gets_ready_is_given_up_for_that_reason() {
    for behavior in [PodBehavior::Mute, PodBehavior::Slow, PodBehavior::Hostile] {
        let mut host = TestNode::new(behavior);
        host.config.restarts = 0;
        host.config.boot_deadline_ms = 200;
        let daemon = host.daemon().await;
        daemon.create(id(1)).await;
        let settled = daemon.until(id(1), |sandbox| matches!(sandbox.phase, SandboxPhase::Failed { .. })).await;
        let allowed = [FailReason::BootTimeout, FailReason::CrashLoop].map(|reason| SandboxPhase::Failed { reason });
        assert!(allowed.contains(&settled.phase), "{behavior:?}: {:?}", settled.phase);
        assert!(!daemon.kinds(id(1)).await.contains(&MarkKind::Ready));
    }
}

#[tokio::test]
async fn a_guest_that_hangs_before_its_pod_speaks_is_started_again_before_a_boots_time_is_over() {
    let mut host = TestNode::new(PodBehavior::Mute);
    host.config.boot_deadline_ms = 3_000;
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    daemon.until(id(1), |sandbox| sandbox.phase == SandboxPhase::Booting).await;
    let hangs = std::time::Instant::now();
    daemon.until(id(1), |sandbox| sandbox.restarts == 1).await;
    assert!(hangs.elapsed() < Duration::from_millis(2_900), "it was waited for to the end: {:?}", hangs.elapsed());
    host.guests.behave(PodBehavior::Good);
    assert_eq!(daemon.ready(id(1)).await.restarts, 1);
}

#[tokio::test]
async fn a_guest_that_cannot_be_made_is_tried_again_and_that_is_no_restart() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    host.machine.fail_next(DriverRefusal::NoBase("/gone".into()));
    daemon.create(id(1)).await;
    assert_eq!(daemon.ready(id(1)).await.restarts, 0);
}

#[tokio::test]
async fn an_agent_that_dies_inside_its_guest_is_not_billed_until_pod_has_it_back() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    let first = daemon.ready(id(1)).await;
    host.guests.with(id(1), |guest| guest.phase = Some(PodPhase::Backoff));
    daemon.until(id(1), |sandbox| sandbox.phase == SandboxPhase::Booting).await;
    host.guests.with(id(1), |guest| guest.phase = Some(PodPhase::Ready));
    let again = daemon.ready(id(1)).await;
    assert_eq!((again.restarts, again.pid), (0, first.pid));
    assert_eq!(daemon.kinds(id(1)).await, [MarkKind::Booting, MarkKind::Ready, MarkKind::Unready, MarkKind::Ready]);
}

#[tokio::test]
async fn fault_1_9_a_guest_that_flaps_has_failed_after_its_share_of_boots_and_marks() {
    let host = TestNode::new(PodBehavior::Flapping);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    let failed = SandboxPhase::Failed { reason: FailReason::CrashLoop };
    let sandbox = daemon.until(id(1), |sandbox| sandbox.phase == failed).await;
    assert_eq!(sandbox.restarts, host.config.restarts);
    assert!(host.machine.running().is_empty());
    let kinds = daemon.kinds(id(1)).await;
    assert_eq!(kinds.len(), (1 + 2 * ReadinessHistory::MOST) * (1 + host.config.restarts as usize));
    assert_eq!(kinds.last(), Some(&MarkKind::Unready));
}

#[tokio::test]
async fn fault_1_9_a_guest_may_be_unready_within_one_boot_for_no_longer_than_a_boot_may_take() {
    let mut host = TestNode::new(PodBehavior::Good);
    (host.config.restarts, host.config.boot_deadline_ms) = (0, 600);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    for _ in 0..4 {
        host.guests.with(id(1), |guest| guest.phase = Some(PodPhase::Backoff));
        let down = daemon.until(id(1), |sandbox| sandbox.phase != SandboxPhase::Ready).await;
        if matches!(down.phase, SandboxPhase::Failed { .. }) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
        host.guests.with(id(1), |guest| guest.phase = Some(PodPhase::Ready));
        daemon.until(id(1), |sandbox| sandbox.phase != SandboxPhase::Booting).await;
    }
    let failed = SandboxPhase::Failed { reason: FailReason::BootTimeout };
    assert_eq!(daemon.sandbox(id(1)).unwrap().phase, failed, "three times 250 ms are more than 600 ms");
}

#[tokio::test]
async fn fault_1_9_a_guest_that_is_started_again_is_believed_at_once_however_often() {
    let mut host = TestNode::new(PodBehavior::Good);
    host.config.restarts = 50;
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    for restarts in 1..=u32::try_from(ReadinessHistory::MOST).unwrap() + 2 {
        host.machine.crash(id(1));
        daemon.until(id(1), |sandbox| sandbox.restarts == restarts && sandbox.phase == SandboxPhase::Ready).await;
    }
}

#[tokio::test]
async fn a_pod_that_falls_silent_costs_its_guest() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    // Every connection from now on gets an endless answer.
    host.guests.behave(PodBehavior::Hostile);
    host.guests.with(id(1), |guest| guest.identities.clear());
    daemon.until(id(1), |sandbox| matches!(sandbox.phase, SandboxPhase::Backoff { .. })).await;
    host.guests.behave(PodBehavior::Good);
    assert!(daemon.ready(id(1)).await.restarts > 0);
}

#[tokio::test]
async fn a_delete_in_the_middle_of_a_boot_works_at_once() {
    let mut host = TestNode::new(PodBehavior::Mute);
    host.config.boot_deadline_ms = 60_000;
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    until_holds("a guest", || !host.machine.running().is_empty()).await;
    timeout(Duration::from_secs(2), daemon.node.delete(id(1), None, Duration::from_secs(30), DataPolicy::Erase))
        .await
        .unwrap()
        .unwrap();
    assert!(host.machine.running().is_empty());
}

#[tokio::test]
async fn deletes_at_the_same_time_all_hear_of_the_end() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    let deletes = (0..8).map(|_| daemon.node.delete(id(1), None, GRACE, DataPolicy::Erase));
    let ended = timeout(SOON, futures_util::future::join_all(deletes)).await.unwrap();
    assert!(ended.iter().all(Result::is_ok));
    assert!(daemon.sandbox(id(1)).is_none());
    daemon.node.delete(id(99), None, GRACE, DataPolicy::Erase).await.unwrap();
}

#[tokio::test]
async fn what_the_machine_cannot_hold_is_refused_and_a_delete_makes_room() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    let large = wire::v1::node::SandboxSpec { memory_mib: 2_000, ..spec() };
    assert!(daemon.offer(id(1), &large).await.is_ok());
    assert!(daemon.offer(id(2), &large).await.is_ok());
    let refused = daemon.offer(id(3), &large).await;
    assert!(matches!(refused, Err(CreateError::NoRoom(PlacementError::Full))));
    daemon.node.delete(id(1), None, Duration::ZERO, DataPolicy::Erase).await.unwrap();
    assert!(daemon.offer(id(3), &large).await.is_ok());
    let wide = wire::v1::node::SandboxSpec { cores: 4, ..spec() };
    assert!(matches!(daemon.offer(id(4), &wide).await, Err(CreateError::NoRoom(PlacementError::TooLarge { .. }))));
    let unknown = wire::v1::node::SandboxSpec { image: domain::ImageDigest([1; 32]), ..spec() };
    assert!(matches!(daemon.offer(id(5), &unknown).await, Err(CreateError::NoImage(_))));
}

#[tokio::test]
async fn a_node_whose_marks_nobody_fetches_takes_no_more() {
    let mut host = TestNode::new(PodBehavior::Good);
    host.config.marks = 2;
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    assert!(matches!(daemon.offer(id(2), &spec()).await, Err(CreateError::MarksFull)));
    daemon.node.shared.journal.after(2, Duration::ZERO).await;
    until_holds("the marks are forgotten", || !daemon.node.shared.journal.is_full()).await;
    daemon.create(id(2)).await;
}
