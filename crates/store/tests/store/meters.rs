//! What disks took, from nodes' marks.

use domain::{DiskChange, DiskMark, Event, MeteredDisk, PodId, StopReason, UnixMillis};
use palatine_store::{KeptData, MarksOutcome, SnapshotSettlement, Store, VolumeRemoval};

use crate::copies::{new_snapshot, reserve};
use crate::help::{NOW, Place, id, open, pod, reservation, reserved, wallet};
use crate::volumes::{again, made, new_volume, volume_id};

const NODE: &str = "n1";

fn level(seq: u64, after_ms: u64, disk: MeteredDisk, mib: u64) -> DiskMark {
    DiskMark { seq, at: NOW.plus(after_ms), change: DiskChange::Level { disk, mib } }
}

fn volume(n: u64) -> MeteredDisk {
    MeteredDisk::Volume(volume_id(n))
}

async fn count(store: &Store, node: &str, journal: &str, marks: Vec<DiskMark>, heard_ms: u64) -> MarksOutcome {
    store.count_marks(node, journal, vec![], marks, NOW.plus(heard_ms)).await.unwrap()
}

/// What a wallet used of disks, in MiB × milliseconds.
async fn used(store: &Store, holder: u64, after_ms: u64) -> u64 {
    store.usage(wallet(holder), NOW.plus(after_ms)).await.unwrap().0.disk_mib_ms
}

pub(crate) async fn a_volume_counts_by_its_size_while_it_is_there_and_each_mark_once(place: &Place) {
    let store = open(place).await;
    made(&store, new_volume(1, 1, "work")).await;
    let first = vec![level(1, 1_000, volume(1), 100)];
    let counted = count(&store, NODE, "a", first.clone(), 1_000).await;
    assert_eq!(counted, MarksOutcome { seq: 1, new: 1, ..MarksOutcome::default() });
    assert_eq!(count(&store, NODE, "a", first.clone(), 3_000).await.repeated, 1);
    assert_eq!(used(&store, 1, 3_000).await, 200_000);
    // It grows, and is erased: in one stretch that is sent twice.
    let rest = vec![first[0], level(2, 4_000, volume(1), 150), level(3, 5_000, volume(1), 0)];
    for _ in 0..2 {
        count(&store, NODE, "a", rest.clone(), 6_000).await;
        assert_eq!(used(&store, 1, 90_000).await, 3_000 * 100 + 1_000 * 150);
    }
    assert_eq!(used(&store, 2, 90_000).await, 0);
}

pub(crate) async fn a_disk_counts_no_longer_than_its_node_is_heard_of_and_not_while_that_was_down(place: &Place) {
    let store = open(place).await;
    made(&store, new_volume(1, 1, "work")).await;
    count(&store, NODE, "a", vec![level(1, 0, volume(1), 10)], 0).await;
    count(&store, NODE, "a", vec![], 5_000).await;
    // Nothing is heard of the node: nobody pays for what nobody can reach.
    assert_eq!(used(&store, 1, 90_000).await, 50_000);
    let down = DiskMark { seq: 2, at: NOW.plus(60_000), change: DiskChange::Down { since: NOW.plus(6_000) } };
    count(&store, NODE, "a", vec![down], 60_000).await;
    count(&store, NODE, "a", vec![], 62_000).await;
    assert_eq!(used(&store, 1, 90_000).await, 80_000);
    // One that has lost its journal says anew what it holds.
    count(&store, NODE, "b", vec![level(1, 70_000, volume(1), 10)], 70_000).await;
    count(&store, NODE, "b", vec![level(2, 71_000, volume(1), 0)], 72_000).await;
    assert_eq!(used(&store, 1, 90_000).await, 90_000);
}

pub(crate) async fn nobody_pays_for_a_volume_that_was_removed_whatever_its_node_still_holds(place: &Place) {
    let store = open(place).await;
    made(&store, new_volume(1, 1, "work")).await;
    count(&store, NODE, "a", vec![level(1, 0, volume(1), 10)], 0).await;
    count(&store, NODE, "a", vec![], 3_000).await;
    let removed = store.remove_volume(wallet(1), volume_id(1), NOW.plus(2_000)).await.unwrap();
    assert!(matches!(removed, VolumeRemoval::Removing(_)));
    // Its node was down, and says again that it holds it.
    let late = count(&store, NODE, "a", vec![level(2, 4_000, volume(1), 11)], 9_000).await;
    assert_eq!((late.new, late.foreign), (0, 1));
    store.forget_volume(volume_id(1)).await.unwrap();
    assert_eq!(count(&store, NODE, "a", vec![level(3, 9_500, volume(1), 0)], 9_500).await.foreign, 0);
    assert_eq!(used(&store, 1, 90_000).await, 20_000);
}

pub(crate) async fn a_node_may_not_charge_for_disks_of_another_or_of_nobody(place: &Place) {
    let store = open(place).await;
    made(&store, new_volume(1, 1, "work")).await;
    let nobody = MeteredDisk::Data(PodId::chosen("nobody").unwrap());
    let marks = vec![level(1, 0, volume(1), 10), level(2, 0, volume(9), 10), level(3, 0, nobody, 10)];
    assert_eq!(count(&store, "n2", "a", marks, 5_000).await.foreign, 3);
    assert_eq!(used(&store, 1, 5_000).await, 0);
    // Clocks at the end of time take nothing and break nothing.
    let lie = DiskMark { at: UnixMillis(u64::MAX), ..level(1, 0, volume(1), u64::MAX) };
    count(&store, NODE, "a", vec![lie, level(2, 5, volume(1), 0)], 5_000).await;
    assert_eq!(used(&store, 1, 5_000).await, 0);
}

pub(crate) async fn what_is_kept_of_a_pod_counts_until_its_next_run_or_its_removal(place: &Place) {
    let store = open(place).await;
    reserved(&store, reservation(1, 1)).await;
    store.place(id(1), NODE, NOW).await.unwrap();
    store.advance(id(1), Event::Stop(StopReason::Requested), NOW).await.unwrap();
    let data = MeteredDisk::Data(pod(1));
    // It is marked before the run's end is written.
    count(&store, NODE, "a", vec![level(1, 0, data, 7)], 0).await;
    let kept = KeptData { until: None, bytes: 7 << 20 };
    store.end(id(1), Some(kept), NOW).await.unwrap();
    count(&store, NODE, "a", vec![], 3_000).await;
    assert_eq!(used(&store, 1, 3_000).await, 21_000);
    // It is taken back, and set aside again.
    count(&store, NODE, "a", vec![level(2, 4_000, data, 0), level(3, 6_000, data, 8)], 7_000).await;
    assert_eq!(used(&store, 1, 7_000).await, 28_000 + 8_000);
    assert!(store.remove_pod(pod(1), NOW.plus(7_000)).await.unwrap());
    assert_eq!(count(&store, NODE, "a", vec![level(4, 8_000, data, 9)], 9_000).await.foreign, 1);
    assert_eq!(used(&store, 1, 90_000).await, 36_000);
}

pub(crate) async fn nobody_pays_for_a_disk_that_could_not_be_made(place: &Place) {
    let store = open(place).await;
    store.reserve_volume(new_volume(1, 1, "work")).await.unwrap();
    // Its node had begun it, and says so.
    count(&store, NODE, "a", vec![level(1, 0, volume(1), 10)], 1_000).await;
    store.forget_volume(volume_id(1)).await.unwrap();
    count(&store, NODE, "a", vec![], 90_000).await;
    assert_eq!(used(&store, 1, 90_000).await, 0);
    made(&store, new_volume(1, 2, "other")).await;
    let snapshot = reserve(&store, new_snapshot(1, 2, 1)).await.id;
    count(&store, NODE, "a", vec![level(2, 90_000, MeteredDisk::Snapshot(snapshot), 10)], 91_000).await;
    store.settle_snapshot(snapshot, SnapshotSettlement::Refused("no room".to_owned())).await.unwrap();
    count(&store, NODE, "a", vec![], 99_000).await;
    assert_eq!(used(&store, 1, 99_000).await, 0);
}

pub(crate) async fn what_an_earlier_node_kept_of_a_pod_counts_until_it_is_gone_from_there(place: &Place) {
    let store = open(place).await;
    let stopped_on = async |n, node: &str| {
        store.place(id(n), node, NOW).await.unwrap();
        store.advance(id(n), Event::Stop(StopReason::Requested), NOW).await.unwrap();
        let kept = KeptData { until: Some(NOW.plus(1_000)), bytes: 7 << 20 };
        store.end(id(n), Some(kept), NOW).await.unwrap();
    };
    reserved(&store, reservation(1, 1)).await;
    stopped_on(1, NODE).await;
    let data = MeteredDisk::Data(pod(1));
    count(&store, NODE, "a", vec![level(1, 0, data, 7)], 2_000).await;
    // Its time is over by the store's clock, and not by that of its node, which was away: the POD begins anew elsewhere.
    reserved(&store, again(1, 2, pod(1))).await;
    stopped_on(2, "n2").await;
    count(&store, NODE, "a", vec![level(2, 4_000, data, 0)], 4_000).await;
    count(&store, NODE, "a", vec![], 90_000).await;
    assert_eq!(used(&store, 1, 90_000).await, 28_000);
}

pub(crate) async fn a_clock_that_was_wrong_until_somebody_set_it_makes_nobody_pay_for_years(place: &Place) {
    let store = open(place).await;
    let apart = 10 * 60_000;
    made(&store, new_volume(1, 1, "work")).await;
    count(&store, NODE, "a", vec![], 0).await;
    // A machine without a clock of its own begins in 1970, and is set right a little later.
    let early = DiskMark { at: UnixMillis(5), ..level(1, 0, volume(1), 10) };
    count(&store, NODE, "a", vec![early], 1_000).await;
    count(&store, NODE, "a", vec![level(2, 2_000, volume(1), 0)], 2_000).await;
    assert_eq!(used(&store, 1, 90_000).await, 10 * (apart + 2_000));
    // Another one is years ahead for a moment.
    let years = 10 * 365 * 86_400_000;
    count(&store, NODE, "a", vec![level(3, 2_000, volume(1), 10), level(4, years, volume(1), 0)], 3_000).await;
    assert_eq!(used(&store, 1, 90_000).await, 10 * (apart + 2_000) + 10 * (apart + 1_000));
    // So is the gateway's, when it hears of the node, which then loses its journal.
    count(&store, NODE, "a", vec![level(5, 3_000, volume(1), 10)], years).await;
    count(&store, NODE, "b", vec![], 5_000).await;
    assert_eq!(used(&store, 1, 90_000).await, 10 * (2 * apart + 3_000) + 10 * 2_000);
}
