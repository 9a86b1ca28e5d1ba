//! The runs of one POD: its data goes from one to the next.

use std::time::Duration;

use domain::{Clock, Generation, NodeShortage, PodId, RunId, SystemClock};
use fixtures::until_holds;
use sandbox::{DriverRefusal, RuntimeOperation};
use wire::v1::node::{DataDisk, DataPolicy, SandboxPhase, SandboxSpec};

use super::node::{Daemon, TestNode, id, spec_of};
use super::pod::PodBehavior;
use crate::node::{CreateError, CreateOutcome};
use crate::policy::KeptDiskAges;
use crate::retention;
use crate::task::DeleteError;

const WRITTEN: &str = "what the agent wrote";

fn pod() -> PodId {
    PodId::chosen("agent-123").unwrap()
}

/// A run that needs the POD's data.
fn must_have_data() -> SandboxSpec {
    SandboxSpec { data: DataDisk::Kept, ..spec_of(pod()) }
}

/// Starts the POD's first run, has it write something, and ends it so that it is kept.
async fn one_run(host: &TestNode, daemon: &Daemon) {
    start(daemon, id(1), &spec_of(pod())).await;
    host.machine.write_data(id(1), WRITTEN);
    end(daemon, id(1), DataPolicy::Keep).await;
}

async fn start(daemon: &Daemon, id: RunId, spec: &SandboxSpec) {
    assert!(matches!(daemon.offer_run(id, spec).await, Ok(CreateOutcome::New(_))));
    assert_eq!(daemon.ready(id).await.pod, spec.pod);
}

async fn end(daemon: &Daemon, id: RunId, data: DataPolicy) -> wire::v1::node::DeleteResponse {
    daemon.node.delete(id, Some(pod()), Duration::ZERO, data).await.unwrap()
}

#[tokio::test]
async fn what_a_run_wrote_is_there_in_the_next_run_of_its_pod_and_in_no_others() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    start(&daemon, id(1), &spec_of(pod())).await;
    host.guests.with(id(1), |guest| {
        assert_eq!((guest.identities[0].pod_id, guest.identities[0].run_id), (pod(), id(1)));
    });
    host.machine.write_data(id(1), WRITTEN);
    let kept = end(&daemon, id(1), DataPolicy::Keep).await.kept.unwrap();
    let now = SystemClock.now();
    assert!(kept.until.is_some_and(|until| until > now) && kept.bytes > 0);
    start(&daemon, id(2), &spec_of(PodId::chosen("agent-124").unwrap())).await;
    assert_eq!(host.machine.data(id(2)).as_deref(), Some(""));
    // Also by the next daemon.
    daemon.kill().await;
    let daemon = host.daemon().await;
    start(&daemon, id(3), &must_have_data()).await;
    assert_eq!(host.machine.data(id(3)).as_deref(), Some(WRITTEN));
    assert!(host.machine.kept().is_empty(), "it is in one place");
    // A guest that dies goes on with it.
    host.machine.crash(id(3));
    daemon.until(id(3), |sandbox| sandbox.phase == SandboxPhase::Ready && sandbox.restarts == 1).await;
    assert_eq!(host.machine.data(id(3)).as_deref(), Some(WRITTEN));
    assert_eq!(end(&daemon, id(3), DataPolicy::Keep).await.kept.map(|kept| kept.bytes), Some(1));
}

#[tokio::test]
async fn a_run_that_needs_data_is_refused_where_none_is_kept_and_nothing_is_made() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    let refused = daemon.offer_run(id(1), &must_have_data()).await;
    assert!(matches!(refused, Err(CreateError::NoData(of)) if of == pod()));
    assert!(daemon.sandbox(id(1)).is_none() && host.machine.disks().is_empty());
    assert_eq!(std::fs::read_dir(host.state().join("sandboxes")).unwrap().count(), 0);
    // What was erased is not kept either.
    one_run(&host, &daemon).await;
    assert_eq!(end(&daemon, id(1), DataPolicy::Erase).await.kept, None);
    assert!(matches!(daemon.offer_run(id(2), &must_have_data()).await, Err(CreateError::NoData(_))));
}

#[tokio::test]
async fn a_pod_has_one_run_at_a_time() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    let (first, spec) = (spec_of(pod()), must_have_data());
    let offers = (1..=20).map(|bits| daemon.offer_run(id(bits), &first));
    let made = futures_util::future::join_all(offers).await;
    assert_eq!(made.iter().filter(|made| matches!(made, Ok(CreateOutcome::New(_)))).count(), 1);
    let refused =
        made.iter().filter(|made| matches!(made, Err(CreateError::PodRunning { pod: of, .. }) if *of == pod()));
    assert_eq!(refused.count(), 19);
    let [run] = daemon.node.shared.registry.all().try_into().map_err(|_| "one").unwrap();
    daemon.ready(run.id()).await;
    // It is said of a run that must have its data too: that data is in use.
    assert!(matches!(daemon.offer_run(id(99), &spec).await, Err(CreateError::PodRunning { .. })));
    end(&daemon, run.id(), DataPolicy::Keep).await;
    start(&daemon, id(99), &spec).await;
}

#[tokio::test]
async fn a_run_that_cannot_be_read_keeps_its_pod_from_another_one() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    start(&daemon, id(1), &spec_of(pod())).await;
    daemon.kill().await;
    std::fs::write(host.state().join("sandboxes").join(id(1).to_string()).join("record.json"), "noise").unwrap();
    let next = host.daemon().await;
    assert!(matches!(next.offer_run(id(2), &spec_of(pod())).await, Err(CreateError::Quarantined(_))));
    assert!(matches!(next.node.erase_data(pod()).await, Err(DeleteError::StillThere(_))));
    assert!(end(&next, id(1), DataPolicy::Keep).await.kept.is_some());
    start(&next, id(2), &must_have_data()).await;
}

#[tokio::test]
async fn a_node_answers_for_the_data_of_a_run_that_it_does_not_know_any_more() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    one_run(&host, &daemon).await;
    let kept = end(&daemon, id(77), DataPolicy::Keep).await.kept;
    assert!(kept.is_some());
    assert_eq!(end(&daemon, id(1), DataPolicy::Keep).await.kept, kept);
    let of_another = daemon.node.delete(id(1), None, Duration::ZERO, DataPolicy::Erase).await.unwrap();
    assert_eq!((of_another.kept, host.machine.kept().len()), (None, 1), "without its name it is another POD's");
    assert_eq!(end(&daemon, id(77), DataPolicy::Erase).await.kept, None);
    assert!(host.machine.kept().is_empty());
}

#[tokio::test]
async fn what_is_kept_is_erased_by_its_owners_word_and_never_while_its_pod_runs() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    one_run(&host, &daemon).await;
    host.machine.fail(Some(DriverRefusal::DiskFull { path: "/".into(), free_mib: 1, least_mib: 2 }));
    daemon.offer_run(id(2), &must_have_data()).await.unwrap();
    // It has not taken its data back yet, and has the right to it.
    daemon
        .until(id(2), |sandbox| matches!(sandbox.phase, SandboxPhase::Waiting { lacks: NodeShortage::Disk, .. }))
        .await;
    for refused in [
        daemon.node.erase_data(pod()).await,
        daemon.node.delete(id(1), Some(pod()), Duration::ZERO, DataPolicy::Erase).await.map(drop),
    ] {
        assert!(matches!(refused, Err(DeleteError::PodRunning { run, .. }) if run == id(2)));
    }
    let (mut ages, month) = (KeptDiskAges::default(), Duration::from_millis(host.config.retention_ms()));
    for _ in 0..3 {
        retention::expire(&daemon.node.shared, &mut ages, month).await.unwrap();
    }
    assert_eq!(host.machine.kept().len(), 1);
    host.machine.fail(None);
    daemon.ready(id(2)).await;
    assert_eq!(host.machine.data(id(2)).as_deref(), Some(WRITTEN));
    end(&daemon, id(2), DataPolicy::Keep).await;
    for _ in 0..2 {
        daemon.node.erase_data(pod()).await.unwrap();
    }
    assert!(host.machine.kept().is_empty());
}

#[tokio::test]
async fn a_run_that_never_ran_gives_the_data_back_that_it_took() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    one_run(&host, &daemon).await;
    for _ in 0..1_000 {
        host.machine.fail_call(RuntimeOperation::Create);
    }
    daemon.offer_run(id(2), &must_have_data()).await.unwrap();
    until_holds("it is taken", || host.machine.data(id(2)).as_deref() == Some(WRITTEN)).await;
    assert!(host.machine.kept().is_empty());
    assert!(end(&daemon, id(2), DataPolicy::Keep).await.kept.is_some());
    assert_eq!((host.machine.kept().len(), host.machine.disks().len()), (1, 0));
    // One that made an empty disk, and no guest for it, leaves nothing.
    daemon.offer(id(3), &spec_of(pod())).await.unwrap();
    until_holds("its disks", || host.machine.disks().contains_key(&id(3))).await;
    let gone = daemon.node.delete(id(3), None, Duration::ZERO, DataPolicy::Keep).await.unwrap();
    assert_eq!((gone.kept, host.machine.kept().len()), (None, 1));
}

#[tokio::test]
async fn the_same_run_again_changes_nothing_and_of_another_pod_it_is_refused() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    let spec = spec_of(pod());
    start(&daemon, id(1), &spec).await;
    assert!(matches!(daemon.offer_run(id(1), &spec).await, Ok(CreateOutcome::Existing(_))));
    let other = SandboxSpec { pod: PodId::chosen("agent-124").unwrap(), ..spec.clone() };
    for other in [other, must_have_data(), SandboxSpec { generation: Generation(2), ..spec }] {
        assert!(matches!(daemon.offer_run(id(1), &other).await, Err(CreateError::Stale)));
    }
}

/// What the last program wrote of a run, before there were PODs.
const BEFORE: &[u8] = include_bytes!("../../tests/formats/record-2-running.json");

#[tokio::test]
async fn a_guest_of_the_last_version_is_adopted_alive_and_its_data_is_its_pods() {
    let host = TestNode::new(PodBehavior::Good);
    let run: RunId = "a1b2c3d4-e5f6-7890".parse().unwrap();
    host.leaves(run, |record| *record = serde_json::from_slice(BEFORE).unwrap()).await;
    host.machine.write_data(run, WRITTEN);
    let next = host.daemon().await;
    let ready = next.ready(run).await;
    assert_eq!((ready.pod, ready.restarts, ready.pid), (PodId::minted(run), 0, Some(1)));
    host.guests.with(run, |guest| assert_eq!(guest.identities.len(), 1, "it was not started again"));
    let pod = PodId::minted(run);
    let gone = next.node.delete(run, None, Duration::ZERO, DataPolicy::Keep).await.unwrap();
    assert!(gone.kept.is_some());
    let spec = SandboxSpec { data: DataDisk::Kept, ..spec_of(pod) };
    start(&next, id(2), &spec).await;
    assert_eq!(host.machine.data(id(2)).as_deref(), Some(WRITTEN));
}
