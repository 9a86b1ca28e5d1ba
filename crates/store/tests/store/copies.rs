//! Snapshots of volumes.

use domain::{DiskChange, DiskMark, MeteredDisk, SnapshotId, SnapshotState, VolumeState};
use palatine_store::{
    NewSnapshot, NewVolume, SnapshotOutcome, SnapshotRecord, SnapshotSettlement, Store, VolumeOutcome, VolumeQuota,
    VolumeRefusal, VolumeRemoval,
};

use crate::help::{NOW, Place, id, open, pod, reserved, wallet};
use crate::volumes::{end, made, new_volume, refused, volume_id, with};

const QUOTA: VolumeQuota = VolumeQuota { disk_mib: 1_000, volumes: 3 };
const MIB: u64 = 1024 * 1024;

pub(crate) const fn snapshot_id(n: u64) -> SnapshotId {
    SnapshotId::from_bits(u64::MAX - n)
}

/// Snapshot `n` of volume `of` of wallet `holder`.
pub(crate) fn new_snapshot(holder: u64, of: u64, n: u64) -> NewSnapshot {
    let (id, volume) = (snapshot_id(n), volume_id(of));
    NewSnapshot { wallet: wallet(holder), id, volume, quota: QUOTA, most: 3, now: NOW.plus(n) }
}

pub(crate) async fn reserve(store: &Store, new: NewSnapshot) -> SnapshotRecord {
    match store.reserve_snapshot(new).await.unwrap() {
        SnapshotOutcome::Reserved(record) => record,
        other => panic!("{other:?}"),
    }
}

async fn whole(store: &Store, new: NewSnapshot) -> SnapshotId {
    let id = reserve(store, new).await.id;
    store.settle_snapshot(id, SnapshotSettlement::Made { size_mib: 100, bytes: 5 * MIB }).await.unwrap();
    id
}

async fn state(store: &Store, holder: u64, of: u64) -> VolumeState {
    store.volume(wallet(holder), volume_id(of)).await.unwrap().unwrap().state
}

async fn restore(store: &Store, holder: u64, of: u64, n: u64, at: u64) -> SnapshotOutcome {
    store.reserve_restore(wallet(holder), volume_id(of), snapshot_id(n), NOW.plus(at)).await.unwrap()
}

async fn remove(store: &Store, holder: u64, of: u64, n: u64) -> SnapshotOutcome {
    store.remove_snapshot(wallet(holder), volume_id(of), snapshot_id(n), NOW).await.unwrap()
}

pub(crate) async fn no_run_gets_a_volume_while_it_is_copied_and_its_snapshot_is_its_owners(place: &Place) {
    let store = open(place).await;
    made(&store, new_volume(1, 1, "work")).await;
    let record = reserve(&store, new_snapshot(1, 1, 1)).await;
    assert_eq!((record.state, record.bytes, record.node.as_str()), (SnapshotState::Creating, 100 * MIB, "n1"));
    assert_eq!(state(&store, 1, 1).await, VolumeState::Copying);
    let name = "work".parse().unwrap();
    assert_eq!(refused(&store, with(1, 1, &[("work", "/w")])).await, VolumeRefusal::Unknown(name));
    let busy = SnapshotOutcome::Unsettled(VolumeState::Copying);
    assert_eq!(store.reserve_snapshot(new_snapshot(1, 1, 2)).await.unwrap(), busy);
    assert_eq!(restore(&store, 1, 1, 1, 0).await, SnapshotOutcome::Busy(SnapshotState::Creating));
    assert_eq!(remove(&store, 1, 1, 1).await, SnapshotOutcome::Busy(SnapshotState::Creating));
    let removal = store.remove_volume(wallet(1), volume_id(1), NOW).await.unwrap();
    assert_eq!(removal, VolumeRemoval::Unsettled(VolumeState::Copying));
    // Whoever is late with the volume's own making does not give it free.
    assert!(store.volume_made(volume_id(1)).await.unwrap());
    store.forget_volume(volume_id(1)).await.unwrap();
    assert_eq!(state(&store, 1, 1).await, VolumeState::Copying);
    assert_eq!(store.unsettled_snapshots().await.unwrap(), std::slice::from_ref(&record));
    for _ in 0..2 {
        store.settle_snapshot(record.id, SnapshotSettlement::Made { size_mib: 90, bytes: 7 }).await.unwrap();
    }
    let made = SnapshotRecord { state: SnapshotState::Ready, size_mib: 90, bytes: 7, ..record };
    assert_eq!(store.snapshots_of(wallet(1), volume_id(1)).await.unwrap(), [made]);
    assert_eq!(store.snapshots_of(wallet(2), volume_id(1)).await.unwrap(), []);
    assert_eq!(state(&store, 1, 1).await, VolumeState::Ready);
    reserved(&store, with(1, 2, &[("work", "/w")])).await;
    assert_eq!(store.reserve_snapshot(new_snapshot(1, 1, 2)).await.unwrap(), SnapshotOutcome::Attached(pod(2)));
    assert_eq!(restore(&store, 1, 1, 1, 0).await, SnapshotOutcome::Attached(pod(2)));
    end(&store, 2).await;
    assert_eq!(store.reserve_snapshot(new_snapshot(2, 1, 2)).await.unwrap(), SnapshotOutcome::Unknown);
    assert_eq!(restore(&store, 2, 1, 1, 0).await, SnapshotOutcome::Unknown);
    assert_eq!(remove(&store, 2, 1, 1).await, SnapshotOutcome::Unknown);
    assert_eq!(store.get(id(2)).await.unwrap().map(|run| run.pod), Some(pod(2)));
}

pub(crate) async fn what_a_node_refuses_leaves_the_volume_free_and_says_why(place: &Place) {
    let store = open(place).await;
    made(&store, new_volume(1, 1, "work")).await;
    let first = reserve(&store, new_snapshot(1, 1, 1)).await;
    store.settle_snapshot(first.id, SnapshotSettlement::Refused("no room".to_owned())).await.unwrap();
    assert_eq!(store.snapshots_of(wallet(1), volume_id(1)).await.unwrap(), []);
    assert_eq!(state(&store, 1, 1).await, VolumeState::Ready);
    // Whoever was told that it is made finds it failed, and why, until it is removed.
    let told = reserve(&store, new_snapshot(1, 1, 3)).await;
    store.settle_snapshot(told.id, SnapshotSettlement::Failed("no room".to_owned())).await.unwrap();
    let [failed] = store.snapshots_of(wallet(1), volume_id(1)).await.unwrap().try_into().unwrap();
    assert_eq!((failed.state, failed.bytes, failed.error.as_deref()), (SnapshotState::Failed, 0, Some("no room")));
    assert_eq!(state(&store, 1, 1).await, VolumeState::Ready);
    assert_eq!(store.unsettled_snapshots().await.unwrap(), []);
    assert_eq!(restore(&store, 1, 1, 3, 0).await, SnapshotOutcome::Busy(SnapshotState::Failed));
    assert!(matches!(remove(&store, 1, 1, 3).await, SnapshotOutcome::Reserved(_)));
    store.forget_snapshot(told.id).await.unwrap();
    whole(&store, new_snapshot(1, 1, 2)).await;
    let SnapshotOutcome::Reserved(one) = restore(&store, 1, 1, 2, 50).await else { panic!("not reserved") };
    assert_eq!((one.state, one.order), (SnapshotState::Restoring, NOW.plus(50).0));
    assert_eq!(state(&store, 1, 1).await, VolumeState::Copying);
    store.settle_snapshot(one.id, SnapshotSettlement::Refused("no room".to_owned())).await.unwrap();
    let [left] = store.snapshots_of(wallet(1), volume_id(1)).await.unwrap().try_into().unwrap();
    assert_eq!((left.state, left.error.as_deref()), (SnapshotState::Ready, Some("no room")));
    // A clock that goes back gives no order a second time.
    let SnapshotOutcome::Reserved(two) = restore(&store, 1, 1, 2, 0).await else { panic!("not reserved") };
    assert_eq!((two.order, two.error), (one.order + 1, None));
    store.settle_snapshot(two.id, SnapshotSettlement::Restored).await.unwrap();
    // What is late settles nothing.
    store.settle_snapshot(two.id, SnapshotSettlement::Refused("late".to_owned())).await.unwrap();
    let [left] = store.snapshots_of(wallet(1), volume_id(1)).await.unwrap().try_into().unwrap();
    assert_eq!((left.state, left.error, state(&store, 1, 1).await), (SnapshotState::Ready, None, VolumeState::Ready));
}

pub(crate) async fn snapshots_count_against_the_quota_and_the_bill_until_they_are_removed(place: &Place) {
    let store = open(place).await;
    made(&store, new_volume(1, 1, "work")).await;
    for n in 1..=3 {
        whole(&store, new_snapshot(1, 1, n)).await;
    }
    assert_eq!(store.reserve_snapshot(new_snapshot(1, 1, 4)).await.unwrap(), SnapshotOutcome::TooMany);
    let more = NewSnapshot { most: 9, ..new_snapshot(1, 1, 4) };
    let small = VolumeQuota { disk_mib: 214, ..QUOTA };
    let full = store.reserve_snapshot(NewSnapshot { quota: small, ..more }).await.unwrap();
    assert_eq!(full, SnapshotOutcome::QuotaFull { used_mib: 115 });
    let volume = palatine_store::NewVolume { quota: small, ..new_volume(1, 2, "more") };
    assert_eq!(store.reserve_volume(volume).await.unwrap(), VolumeOutcome::QuotaFull { used_mib: 115 });
    let change = DiskChange::Level { disk: MeteredDisk::Snapshot(snapshot_id(1)), mib: 5 };
    store.count_marks("n1", "a", vec![], vec![DiskMark { seq: 1, at: NOW, change }], NOW).await.unwrap();
    store.count_marks("n1", "a", vec![], vec![], NOW.plus(4_000)).await.unwrap();
    let used = async || store.usage(wallet(1), NOW.plus(90_000)).await.unwrap().0.disk_mib_ms;
    assert_eq!(used().await, 20_000);
    let removal = store.remove_volume(wallet(1), volume_id(1), NOW).await.unwrap();
    assert_eq!(removal, VolumeRemoval::HasSnapshots(3));
    for n in 1..=3 {
        let removed = store.remove_snapshot(wallet(1), volume_id(1), snapshot_id(n), NOW.plus(3_000)).await.unwrap();
        assert!(matches!(removed, SnapshotOutcome::Reserved(ref one) if one.state == SnapshotState::Removing));
        // Its node may have to be told again.
        assert!(matches!(remove(&store, 1, 1, n).await, SnapshotOutcome::Reserved(_)));
        assert_eq!(restore(&store, 1, 1, n, 0).await, SnapshotOutcome::Busy(SnapshotState::Removing));
        store.forget_snapshot(snapshot_id(n)).await.unwrap();
    }
    assert_eq!(used().await, 15_000);
    assert_eq!(store.snapshots_of(wallet(1), volume_id(1)).await.unwrap(), []);
    assert!(matches!(store.remove_volume(wallet(1), volume_id(1), NOW).await.unwrap(), VolumeRemoval::Removing(_)));
}

pub(crate) async fn of_fifty_at_once_one_copies_the_volume(place: &Place) {
    let store = open(place).await;
    made(&store, new_volume(1, 1, "work")).await;
    let asked: Vec<_> = (0..50)
        .map(|n| {
            let store = store.clone();
            let new = NewSnapshot { most: 100, ..new_snapshot(1, 1, n) };
            tokio::spawn(async move { store.reserve_snapshot(new).await.unwrap() })
        })
        .collect();
    let mut granted = 0;
    for answer in asked {
        match answer.await.unwrap() {
            SnapshotOutcome::Reserved(_) => granted += 1,
            SnapshotOutcome::Unsettled(VolumeState::Copying) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(granted, 1);
}

pub(crate) async fn no_wallet_holds_up_the_copies_of_others(place: &Place) {
    let store = open(place).await;
    let quota = VolumeQuota { disk_mib: 1_000_000, volumes: 1_000 };
    for n in 0..=110 {
        let holder = if n == 110 { 2 } else { 1 };
        made(&store, NewVolume { quota, ..new_volume(holder, n, &format!("v{n}")) }).await;
        reserve(&store, NewSnapshot { quota, most: 1_000, ..new_snapshot(holder, n, n) }).await;
    }
    let looked_at = store.unsettled_snapshots().await.unwrap();
    assert!(looked_at.len() <= 100 && looked_at.iter().any(|snapshot| snapshot.wallet == wallet(2)));
}
