//! Volumes: where they are made, what becomes of what was cut off, and that a run goes to them.

use std::time::Duration;

use domain::{DiskChange, MeteredDisk, SnapshotId, SnapshotState, VolumeId, VolumeMount, VolumeState};
use palatine_control::fake::{CallOutcome, Chaos, FakeNodeSpec};
use palatine_control::{SpawnError, VolumeError, VolumeOrder};
use store::{RunPod, RunReservation};
use wire::v1::node::RuntimeName;

use crate::cluster::{ClusterSetup, TestCluster, id, pod, reservation, wallet};

/// Longer than what was cut off may take to be looked at again.
const SETTLED: Duration = Duration::from_secs(25);
/// Longer than whoever asks for a volume is left to make it.
const LONG_AGO_MS: u64 = 70_000;

fn order(n: u64, name: &str, size_mib: u64) -> VolumeOrder {
    VolumeOrder { holder: wallet(1), id: VolumeId::from_bits(n), name: name.parse().unwrap(), size_mib }
}

fn with(n: u64, cluster: &TestCluster) -> RunReservation {
    let volumes = vec![VolumeMount { name: "work".parse().unwrap(), path: "/workspace".parse().unwrap() }];
    RunReservation { volumes, ..reservation(1, n, cluster.now()) }
}

fn two_nodes() -> ClusterSetup {
    ClusterSetup { nodes: vec![FakeNodeSpec::default(); 2], ..ClusterSetup::default() }
}

#[tokio::test]
async fn a_volume_is_made_where_most_disk_is_left_and_its_agents_go_there() {
    let setup = two_nodes();
    let cluster = setup.start();
    cluster.nodes[0].set_disk(1_000);
    cluster.nodes[1].set_disk(2_000);
    let made = cluster.finish(cluster.control.create_volume(order(1, "work", 100))).await.unwrap();
    assert_eq!((made.node.as_str(), made.state), ("node-2", VolumeState::Ready));
    // Best fit would choose the first; without a volume it does.
    let starting = cluster.order_run(with(1, &cluster)).await.expect("it is reserved");
    let record = cluster.finish(starting.ready()).await.unwrap();
    assert_eq!(record.node.as_deref(), Some("node-2"));
    assert_eq!(cluster.nodes[1].volumes()[0].sandbox, Some(id(1)));
    // Where the volume is, there is no room: it waits for no other node.
    let stopped = cluster.control.stop(id(1), domain::StopReason::Requested);
    cluster.finish(stopped).await.unwrap();
    assert_eq!(cluster.nodes[1].volumes()[0].sandbox, None);
    cluster.nodes[1].set_down(true);
    let again = RunReservation { pod: RunPod::Existing(pod(1)), ..reservation(1, 2, cluster.now()) };
    let starting = cluster.order_run(again).await.expect("it is reserved");
    let away = cluster.finish(starting.ready()).await.unwrap_err();
    assert!(matches!(away, SpawnError::DataAway(ref node) if node == "node-2"), "{away}");
}

#[tokio::test]
async fn a_node_that_has_less_than_was_thought_is_passed_over_and_what_none_could_hold_is_said_so() {
    let setup = two_nodes();
    let cluster = setup.start();
    cluster.nodes[0].set_disk(500);
    cluster.nodes[1].set_disk(400);
    for n in 1..=2 {
        cluster.finish(cluster.control.create_volume(order(n, &format!("v{n}"), 300))).await.unwrap();
    }
    let full = cluster.finish(cluster.control.create_volume(order(3, "v3", 300))).await.unwrap_err();
    assert!(matches!(full, VolumeError::NoRoom), "{full}");
    let large = cluster.finish(cluster.control.create_volume(order(3, "v3", 501))).await.unwrap_err();
    assert!(matches!(large, VolumeError::TooLarge), "{large}");
    assert_eq!(cluster.store.volumes_of(wallet(1)).await.unwrap().len(), 2, "nothing is left of those");
}

#[tokio::test]
async fn a_volume_whose_making_was_cut_off_is_made_and_one_whose_removal_was_is_gone() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.node().set_disk(1_000);
    cluster.finish(cluster.control.create_volume(order(1, "old", 100))).await.unwrap();
    cluster.finish(async { cluster.control.fleet().refresh().await }).await;
    cluster.node().set_chaos(Chaos { lose_answer: 1_000, ..Chaos::default() });
    // The node is asked how it is first, and answers that.
    let lost = cluster.finish(cluster.control.remove_volume(wallet(1), VolumeId::from_bits(1))).await.unwrap_err();
    assert!(matches!(lost, VolumeError::NodeUnavailable(_)), "{lost}");
    cluster.node().set_chaos(Chaos::default());
    let removed = async |cluster: &TestCluster| cluster.store.volumes_of(wallet(1)).await.unwrap().is_empty();
    cluster.until("what was removed is gone", removed).await;
    assert_eq!(cluster.node().volumes(), []);

    let new = store::NewVolume {
        volume: store::VolumeRecord {
            id: VolumeId::from_bits(2),
            wallet: wallet(1),
            name: "new".parse().unwrap(),
            size_mib: 100,
            node: "node-1".to_owned(),
            state: VolumeState::Creating,
            created_at: domain::UnixMillis(cluster.now().0 - LONG_AGO_MS),
            attached: None,
        },
        quota: store::VolumeQuota { disk_mib: 1_000, volumes: 9 },
    };
    cluster.store.reserve_volume(new).await.unwrap();
    let ready = async |cluster: &TestCluster| {
        let found = cluster.store.volume(wallet(1), VolumeId::from_bits(2)).await.unwrap();
        found.is_some_and(|volume| volume.state == VolumeState::Ready)
    };
    cluster.until("what was begun is there", ready).await;
    assert_eq!(cluster.node().volumes().len(), 1);
    cluster.pass(SETTLED).await;
    assert_eq!(cluster.node().volumes().len(), 1, "and stays");
}

#[tokio::test]
async fn a_retry_goes_on_with_the_volume_that_was_begun() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.node().set_disk(1_000);
    let begun = store::NewVolume {
        volume: store::VolumeRecord {
            id: VolumeId::from_bits(1),
            wallet: wallet(1),
            name: "work".parse().unwrap(),
            size_mib: 100,
            node: "node-1".to_owned(),
            state: VolumeState::Creating,
            created_at: cluster.now(),
            attached: None,
        },
        quota: store::VolumeQuota { disk_mib: 1_000, volumes: 9 },
    };
    cluster.store.reserve_volume(begun).await.unwrap();
    let other = cluster.finish(cluster.control.create_volume(order(2, "work", 200))).await.unwrap_err();
    assert!(matches!(other, VolumeError::Exists(_)), "another size: {other}");
    let made = cluster.finish(cluster.control.create_volume(order(2, "work", 100))).await.unwrap();
    assert_eq!((made.id, made.state), (VolumeId::from_bits(1), VolumeState::Ready));
    assert_eq!(cluster.node().volumes().len(), 1);
}

#[tokio::test]
async fn a_run_whose_volume_its_node_has_lost_is_not_started_without() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.node().set_disk(1_000);
    cluster.finish(cluster.control.create_volume(order(1, "work", 100))).await.unwrap();
    palatine_control::Node::erase_volume(cluster.node(), VolumeId::from_bits(1)).await.unwrap();
    let starting = cluster.order_run(with(1, &cluster)).await.expect("it is reserved");
    let refused = cluster.finish(starting.ready()).await.unwrap_err();
    assert!(matches!(refused, SpawnError::NoVolume(_)), "{refused}");
    assert!(cluster.is_free(1).await && cluster.node().running().is_empty());
    // It is free for the next, should the disk be found.
    let volume = cluster.store.volume(wallet(1), VolumeId::from_bits(1)).await.unwrap().unwrap();
    assert_eq!(volume.attached, None);
}

#[tokio::test]
async fn a_run_with_volumes_is_a_machines_and_is_refused_where_its_holder_or_its_node_has_none() {
    let setup = two_nodes();
    let cluster = setup.start();
    let [machines, containers] = &cluster.nodes[..] else { panic!("two nodes") };
    machines.set_runtimes(&[RuntimeName::QemuTcg, RuntimeName::ContainerRunc]);
    containers.set_runtimes(&[RuntimeName::ContainerRunc]);
    machines.set_disk(1_000);
    containers.set_disk(2_000);
    // Where no machines are made, no volume is either.
    let made = cluster.finish(cluster.control.create_volume(order(1, "work", 100))).await.unwrap();
    assert_eq!(made.node, "node-1");
    let starting = cluster.order_run(with(1, &cluster)).await.expect("it is reserved");
    let record = cluster.finish(starting.ready()).await.unwrap();
    assert_eq!(record.runtime.as_deref(), Some("qemu-tcg"));
    cluster.finish(cluster.control.stop(id(1), domain::StopReason::Requested)).await.unwrap();

    let again = |n| RunReservation { pod: RunPod::Existing(pod(1)), ..reservation(1, n, cluster.now()) };
    let refused = async |n, runtimes: &[RuntimeName]| {
        let starting = cluster.order_run_in(runtimes, again(n)).await.expect("it is reserved");
        let refused = cluster.finish(starting.ready()).await.unwrap_err();
        assert!(matches!(refused, SpawnError::VolumesNeedMachine), "{refused}");
        assert!(cluster.is_free(1).await && cluster.node().running().is_empty());
    };
    refused(2, &[RuntimeName::ContainerRunc]).await;
    machines.set_runtimes(&[RuntimeName::ContainerRunc]);
    cluster.pass(SETTLED).await;
    refused(3, &RuntimeName::ALL).await;
    machines.set_runtimes(&[RuntimeName::QemuTcg, RuntimeName::ContainerRunc]);
    cluster.pass(SETTLED).await;
    let starting = cluster.order_run(again(4)).await.expect("it is reserved");
    assert_eq!(cluster.finish(starting.ready()).await.unwrap().runtime.as_deref(), Some("qemu-tcg"));
}

#[tokio::test]
async fn what_a_volume_takes_is_carried_from_its_nodes_marks_to_the_wallets_usage() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.node().set_disk(1_000);
    cluster.finish(cluster.control.create_volume(order(1, "work", 100))).await.unwrap();
    let used = async || cluster.store.usage(wallet(1), cluster.now()).await.unwrap().0.disk_mib_ms;
    let level = |mib| DiskChange::Level { disk: MeteredDisk::Volume(VolumeId::from_bits(1)), mib };
    let began = cluster.now();
    cluster.node().mark_disk(level(100));
    cluster.pass(Duration::from_secs(60)).await;
    assert!(used().await > 0, "it counts while it is there");
    cluster.node().mark_disk(level(0));
    let took = cluster.now().since(began);
    cluster.until("its end is counted", async |_| used().await == 100 * took).await;
    cluster.pass(Duration::from_secs(60)).await;
    assert_eq!(used().await, 100 * took);
}

fn snapshot(n: u64) -> SnapshotId {
    SnapshotId::from_bits(n)
}

async fn snapshots(cluster: &TestCluster) -> Vec<(SnapshotId, SnapshotState)> {
    let found = cluster.store.snapshots_of(wallet(1), VolumeId::from_bits(1)).await.unwrap();
    found.into_iter().map(|one| (one.id, one.state)).collect()
}

#[tokio::test]
async fn a_copy_that_takes_long_is_settled_when_its_node_is_done_and_no_run_gets_the_volume_before() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    let volume = VolumeId::from_bits(1);
    cluster.node().set_disk(1_000);
    cluster.finish(cluster.control.create_volume(order(1, "work", 100))).await.unwrap();
    cluster.node().set_slow_copies(3);
    let made = cluster.finish(cluster.control.create_snapshot(wallet(1), volume, snapshot(1))).await.unwrap();
    assert_eq!(made.state, SnapshotState::Creating);
    assert!(cluster.order_run(with(1, &cluster)).await.is_none(), "it is copied");
    cluster
        .until("it is made", async |cluster| snapshots(cluster).await == [(snapshot(1), SnapshotState::Ready)])
        .await;
    assert_eq!(cluster.node().snapshots(), [(snapshot(1), volume)]);
    let restored = cluster.finish(cluster.control.restore_volume(wallet(1), volume, snapshot(1))).await.unwrap();
    assert_eq!(restored.state, SnapshotState::Ready);
    assert_eq!(cluster.node().restored(volume), Some((snapshot(1), restored.order)));
    // Its node is away: it is put back when that answers, and no run gets it before.
    cluster.node().set_slow_copies(u32::MAX);
    let again = cluster.finish(cluster.control.restore_volume(wallet(1), volume, snapshot(1))).await.unwrap();
    assert_eq!(again.state, SnapshotState::Restoring);
    cluster.node().set_down(true);
    cluster.pass(SETTLED).await;
    assert_eq!(snapshots(&cluster).await, [(snapshot(1), SnapshotState::Restoring)]);
    cluster.node().set_slow_copies(0);
    cluster.node().set_down(false);
    cluster
        .until("it is put back", async |cluster| snapshots(cluster).await == [(snapshot(1), SnapshotState::Ready)])
        .await;
    assert_eq!(cluster.node().restored(volume), Some((snapshot(1), again.order)));
    assert!(again.order > restored.order);
    let kept = cluster.finish(cluster.control.remove_volume(wallet(1), volume)).await.unwrap_err();
    assert!(matches!(kept, VolumeError::HasSnapshots(1)), "{kept}");
    cluster.finish(cluster.control.remove_snapshot(wallet(1), volume, snapshot(1))).await.unwrap();
    assert_eq!((cluster.node().snapshots(), snapshots(&cluster).await), (vec![], vec![]));
    cluster.finish(cluster.control.remove_volume(wallet(1), volume)).await.unwrap();
}

#[tokio::test]
async fn a_copy_that_its_node_was_never_told_of_or_refuses_leaves_the_volume_free() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    let volume = VolumeId::from_bits(1);
    cluster.node().set_disk(1_000);
    cluster.finish(cluster.control.create_volume(order(1, "work", 100))).await.unwrap();
    cluster.node().lose_volumes();
    let lost = cluster.finish(cluster.control.create_snapshot(wallet(1), volume, snapshot(1))).await.unwrap_err();
    assert!(matches!(lost, VolumeError::Lost(_)), "{lost}");
    assert_eq!(snapshots(&cluster).await, []);
    let record = cluster.store.volume(wallet(1), volume).await.unwrap().unwrap();
    assert_eq!(record.state, VolumeState::Ready);
}

#[tokio::test]
async fn a_volume_that_may_be_there_is_not_forgotten_because_its_node_is_away_when_it_is_asked_again() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.node().set_disk(1_000);
    cluster.finish(async { cluster.control.fleet().refresh().await }).await;
    cluster.node().set_next_volume(CallOutcome::AnswerLost);
    let lost = cluster.finish(cluster.control.create_volume(order(1, "work", 100))).await.unwrap_err();
    assert!(matches!(lost, VolumeError::NodeUnavailable(_)), "{lost}");
    assert_eq!(cluster.node().volumes().len(), 1, "it was made");
    // Its node is started again just then: that says nothing of what it was asked for before.
    cluster.node().set_next_volume(CallOutcome::NotConnected);
    let away = cluster.finish(cluster.control.create_volume(order(2, "work", 100))).await.unwrap_err();
    assert!(matches!(away, VolumeError::NodeUnavailable(_)), "{away}");
    let made = cluster.finish(cluster.control.create_volume(order(3, "work", 100))).await.unwrap();
    assert_eq!((made.id, made.state), (VolumeId::from_bits(1), VolumeState::Ready));
    assert_eq!(cluster.node().volumes().len(), 1, "nobody's are left");
}

#[tokio::test]
async fn a_node_that_hangs_holds_up_no_copy_on_another() {
    let setup = two_nodes();
    let cluster = setup.start();
    cluster.nodes[0].set_disk(1_000);
    cluster.nodes[1].set_disk(2_000);
    for n in 1..=9 {
        let quota = store::VolumeQuota { disk_mib: 100_000, volumes: 20 };
        let volume = store::VolumeRecord {
            id: VolumeId::from_bits(n),
            wallet: wallet(n),
            name: "work".parse().unwrap(),
            size_mib: 10,
            node: if n < 9 { "node-1" } else { "node-2" }.to_owned(),
            state: VolumeState::Creating,
            created_at: domain::UnixMillis(cluster.now().0 - LONG_AGO_MS + n),
            attached: None,
        };
        cluster.store.reserve_volume(store::NewVolume { volume, quota }).await.unwrap();
    }
    cluster.nodes[0].set_chaos(Chaos { slow: Duration::from_secs(3_600), ..Chaos::default() });
    cluster.pass(SETTLED).await;
    let made = cluster.store.volume(wallet(9), VolumeId::from_bits(9)).await.unwrap().unwrap();
    assert_eq!(made.state, VolumeState::Ready);
}

#[tokio::test]
async fn a_copy_that_is_refused_when_its_owner_was_told_that_it_is_made_stays_in_the_list_as_failed() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    let volume = VolumeId::from_bits(1);
    cluster.node().set_disk(1_000);
    cluster.finish(cluster.control.create_volume(order(1, "work", 100))).await.unwrap();
    cluster.node().set_slow_copies(u32::MAX);
    let made = cluster.finish(cluster.control.create_snapshot(wallet(1), volume, snapshot(1))).await.unwrap();
    assert_eq!(made.state, SnapshotState::Creating);
    cluster.node().lose_volumes();
    cluster
        .until("it has failed", async |cluster| snapshots(cluster).await == [(snapshot(1), SnapshotState::Failed)])
        .await;
    let [failed] = cluster.store.snapshots_of(wallet(1), volume).await.unwrap().try_into().unwrap();
    assert!(failed.error.is_some_and(|why| !why.is_empty()) && failed.bytes == 0);
    let record = cluster.store.volume(wallet(1), volume).await.unwrap().unwrap();
    assert_eq!(record.state, VolumeState::Ready);
    cluster.finish(cluster.control.remove_snapshot(wallet(1), volume, snapshot(1))).await.unwrap();
    assert_eq!(snapshots(&cluster).await, []);
}

#[tokio::test]
async fn all_that_a_silent_node_did_not_erase_is_erased_when_it_answers_again() {
    let setup = ClusterSetup::default();
    let cluster = setup.start();
    cluster.node().set_disk(1_000);
    for n in 1..=5 {
        cluster.finish(cluster.control.create_volume(order(n, &format!("work-{n}"), 64))).await.unwrap();
    }
    cluster.node().set_down(true);
    for n in 1..=5 {
        let gone = cluster.finish(cluster.control.remove_volume(wallet(1), VolumeId::from_bits(n))).await;
        assert!(matches!(gone, Err(VolumeError::NodeUnavailable(_))), "{gone:?}");
    }
    cluster.node().set_down(false);
    cluster
        .until("all are erased", async |cluster| cluster.store.volumes_of(wallet(1)).await.unwrap().is_empty())
        .await;
}
