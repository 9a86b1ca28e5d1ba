use domain::{Event, FailReason, PodId, StopReason, VolumeId, VolumeMount, VolumeState};
use palatine_store::{
    Admission, GrowthOutcome, NewVolume, RunPod, RunReservation, Store, VolumeGrowth, VolumeOutcome, VolumeQuota,
    VolumeRecord, VolumeRefusal, VolumeRemoval,
};

use crate::help::{NOW, Place, id, leave, open, pod, replay_key, reservation, reserved, wallet};

const QUOTA: VolumeQuota = VolumeQuota { disk_mib: 1_000, volumes: 3 };

pub(crate) const fn volume_id(n: u64) -> VolumeId {
    // Those whose bits make a negative column too.
    VolumeId::from_bits(u64::MAX - n)
}

/// Volume `n` of wallet `holder`, of 100 MiB on the node `n1`.
pub(crate) fn new_volume(holder: u64, n: u64, name: &str) -> NewVolume {
    let volume = VolumeRecord {
        id: volume_id(n),
        wallet: wallet(holder),
        name: name.parse().unwrap(),
        size_mib: 100,
        node: "n1".to_owned(),
        state: VolumeState::Creating,
        created_at: NOW.plus(n),
        attached: None,
    };
    NewVolume { volume, quota: QUOTA }
}

pub(crate) async fn made(store: &Store, new: NewVolume) -> VolumeId {
    let id = new.volume.id;
    assert_eq!(store.reserve_volume(new.clone()).await.unwrap(), VolumeOutcome::Reserved(new.volume));
    assert!(store.volume_made(id).await.unwrap());
    id
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.parse().unwrap(), path: path.parse().unwrap() }
}

/// Run `n` of a new POD of wallet `holder` with these volumes, of a wallet that may have several.
pub(crate) fn with(holder: u64, n: u64, volumes: &[(&str, &str)]) -> RunReservation {
    let asked = reservation(holder, n);
    let volumes = volumes.iter().map(|(name, path)| mount(name, path)).collect();
    let allowance = domain::HolderAllowance { agents: 64, cores: u32::MAX, memory_mib: u64::MAX };
    RunReservation { volumes, allowance, ..asked }
}

pub(crate) fn again(holder: u64, n: u64, of: PodId) -> RunReservation {
    RunReservation { pod: RunPod::Existing(of), ..with(holder, n, &[]) }
}

pub(crate) async fn refused(store: &Store, asked: RunReservation) -> VolumeRefusal {
    match store.reserve(asked).await.unwrap() {
        Admission::NoVolumes(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

async fn attached(store: &Store, holder: u64, n: u64) -> Option<PodId> {
    let volume = store.volume(wallet(holder), volume_id(n)).await.unwrap().unwrap();
    volume.attached.map(|(pod, _)| pod)
}

pub(crate) async fn end(store: &Store, n: u64) {
    store.advance(id(n), Event::Stop(StopReason::Requested), NOW).await.unwrap();
    store.end(id(n), None, NOW).await.unwrap();
}

pub(crate) async fn a_volume_is_read_as_it_was_written_and_by_its_owner_alone(place: &Place) {
    let store = open(place).await;
    let (work, cache) = (new_volume(1, 1, "work"), new_volume(1, 2, "Cache_2"));
    made(&store, work.clone()).await;
    assert_eq!(store.reserve_volume(cache.clone()).await.unwrap(), VolumeOutcome::Reserved(cache.volume.clone()));
    leave(place, store).await;
    let store = open(place).await;
    let ready = VolumeRecord { state: VolumeState::Ready, ..work.volume.clone() };
    assert_eq!(store.volume(wallet(1), volume_id(1)).await.unwrap(), Some(ready.clone()));
    assert_eq!(store.volume(wallet(2), volume_id(1)).await.unwrap(), None);
    assert_eq!(store.volumes_of(wallet(1)).await.unwrap(), [cache.volume.clone(), ready]);
    assert_eq!(store.volumes_of(wallet(2)).await.unwrap(), []);
    assert_eq!(store.unsettled_volumes().await.unwrap(), [cache.volume]);
    // Another wallet may call its own the same; this one may not.
    made(&store, new_volume(2, 3, "work")).await;
    let same = store.reserve_volume(new_volume(1, 4, "work")).await.unwrap();
    assert!(matches!(same, VolumeOutcome::Exists(there) if there.id == volume_id(1)), "its name is taken");
}

pub(crate) async fn a_wallet_has_no_more_volumes_and_no_more_of_the_disk_than_it_may(place: &Place) {
    let store = open(place).await;
    let sized = |new: NewVolume, size_mib| NewVolume { volume: VolumeRecord { size_mib, ..new.volume }, ..new };
    let too_large = store.reserve_volume(sized(new_volume(1, 1, "a"), 1_001)).await.unwrap();
    assert_eq!(too_large, VolumeOutcome::QuotaFull { used_mib: 0 });
    made(&store, sized(new_volume(1, 1, "a"), 900)).await;
    let more = store.reserve_volume(sized(new_volume(1, 2, "b"), 101)).await.unwrap();
    assert_eq!(more, VolumeOutcome::QuotaFull { used_mib: 900 });
    made(&store, sized(new_volume(1, 2, "b"), 50)).await;
    made(&store, sized(new_volume(1, 3, "c"), 50)).await;
    assert_eq!(store.reserve_volume(sized(new_volume(1, 4, "d"), 1)).await.unwrap(), VolumeOutcome::TooMany);
    // What is kept of a POD counts too, to the MiB that it begins.
    reserved(&store, reservation(2, 10)).await;
    store.place(id(10), "n1", NOW).await.unwrap();
    store.advance(id(10), Event::Stop(StopReason::Requested), NOW).await.unwrap();
    let kept = palatine_store::KeptData { until: Some(NOW.plus(1_000)), bytes: 1024 * 1024 + 1 };
    store.end(id(10), Some(kept), NOW).await.unwrap();
    let full = store.reserve_volume(sized(new_volume(2, 5, "a"), 999)).await.unwrap();
    assert_eq!(full, VolumeOutcome::QuotaFull { used_mib: 2 });
    made(&store, sized(new_volume(2, 5, "a"), 998)).await;
}

pub(crate) async fn of_fifty_volumes_asked_for_at_once_a_wallet_gets_as_many_as_it_may(place: &Place) {
    let store = open(place).await;
    let asked: Vec<_> = (0..50)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.reserve_volume(new_volume(1, n, &format!("v{n}"))).await.unwrap() })
        })
        .collect();
    let mut granted = 0;
    for answer in asked {
        granted += u32::from(matches!(answer.await.unwrap(), VolumeOutcome::Reserved(_)));
    }
    assert_eq!(granted, QUOTA.volumes);
    assert_eq!(store.volumes_of(wallet(1)).await.unwrap().len(), 3);
}

pub(crate) async fn a_volume_has_one_writer_and_is_free_when_that_has_ended(place: &Place) {
    let store = open(place).await;
    made(&store, new_volume(1, 1, "work")).await;
    made(&store, new_volume(1, 2, "cache")).await;
    reserved(&store, with(1, 1, &[("work", "/workspace"), ("cache", "/cache")])).await;
    let volumes = store.run_volumes(id(1)).await.unwrap();
    let seen: Vec<_> = volumes.iter().map(|one| (one.id, one.mount.path.as_str(), one.node.as_str())).collect();
    // In the order of their columns.
    assert_eq!(seen, [(volume_id(2), "/cache", "n1"), (volume_id(1), "/workspace", "n1")]);
    assert_eq!(attached(&store, 1, 1).await, Some(pod(1)));
    let name = "work".parse().unwrap();
    assert_eq!(refused(&store, with(1, 2, &[("work", "/w")])).await, VolumeRefusal::Attached { name, pod: pod(1) });
    // A run without it is not in its way, and what was refused has taken nothing.
    reserved(&store, RunReservation { replay_key: Some(replay_key(3)), ..with(1, 2, &[]) }).await;
    assert_eq!(store.run_volumes(id(2)).await.unwrap(), []);
    end(&store, 1).await;
    assert_eq!((attached(&store, 1, 1).await, attached(&store, 1, 2).await), (None, None));
    reserved(&store, with(1, 4, &[("work", "/elsewhere")])).await;
    assert_eq!(attached(&store, 1, 1).await, Some(pod(4)));
    // The POD of before wants both again, and has to wait for the one.
    assert!(
        matches!(refused(&store, again(1, 5, pod(1))).await, VolumeRefusal::Attached { pod: at, .. } if at == pod(4))
    );
    end(&store, 4).await;
    let started = again(1, 6, pod(1));
    reserved(&store, RunReservation { replay_key: Some(replay_key(60)), ..started }).await;
    assert_eq!(store.run_volumes(id(6)).await.unwrap(), volumes);
    // A run that fails gives them back as well.
    store.advance(id(6), Event::Fail(FailReason::Lost), NOW).await.unwrap();
    store.end(id(6), None, NOW).await.unwrap();
    assert_eq!(attached(&store, 1, 1).await, None);
}

pub(crate) async fn of_fifty_at_once_one_run_gets_the_volume(place: &Place) {
    let store = open(place).await;
    made(&store, new_volume(1, 1, "work")).await;
    let asked: Vec<_> = (100..150)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.reserve(with(1, n, &[("work", "/workspace")])).await.unwrap() })
        })
        .collect();
    let mut holders = Vec::new();
    for answer in asked {
        match answer.await.unwrap() {
            Admission::Reserved(record) => holders.push(record.pod),
            Admission::NoVolumes(VolumeRefusal::Attached { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(holders.len(), 1);
    assert_eq!(attached(&store, 1, 1).await, Some(holders[0]));
}

pub(crate) async fn a_run_gets_its_own_wallets_volumes_that_are_ready_on_one_node(place: &Place) {
    let store = open(place).await;
    made(&store, new_volume(1, 1, "work")).await;
    store.reserve_volume(new_volume(1, 2, "half")).await.unwrap();
    let far = new_volume(1, 3, "far");
    made(&store, NewVolume { volume: VolumeRecord { node: "n2".to_owned(), ..far.volume }, ..far }).await;
    let unknown = |name: &str| VolumeRefusal::Unknown(name.parse().unwrap());
    assert_eq!(refused(&store, with(2, 1, &[("work", "/w")])).await, unknown("work"));
    assert_eq!(refused(&store, with(1, 2, &[("half", "/w")])).await, unknown("half"));
    assert_eq!(refused(&store, with(1, 3, &[("none", "/w")])).await, unknown("none"));
    let (one, other) = ("work".parse().unwrap(), "far".parse().unwrap());
    assert_eq!(
        refused(&store, with(1, 4, &[("work", "/w"), ("far", "/f")])).await,
        VolumeRefusal::Apart { one, other }
    );
    assert_eq!(store.live_of(wallet(1)).await.unwrap(), []);
}

pub(crate) async fn a_volume_that_a_run_has_is_neither_removed_nor_grown(place: &Place) {
    let store = open(place).await;
    made(&store, new_volume(1, 1, "work")).await;
    reserved(&store, with(1, 1, &[("work", "/workspace")])).await;
    let grow = |size_mib| VolumeGrowth { wallet: wallet(1), id: volume_id(1), size_mib, quota: QUOTA, now: NOW };
    assert_eq!(store.reserve_growth(grow(200)).await.unwrap(), GrowthOutcome::Attached(pod(1)));
    assert_eq!(store.remove_volume(wallet(1), volume_id(1), NOW).await.unwrap(), VolumeRemoval::Attached(pod(1)));
    end(&store, 1).await;
    assert_eq!(store.remove_volume(wallet(2), volume_id(1), NOW).await.unwrap(), VolumeRemoval::Unknown);
    assert_eq!(store.reserve_growth(grow(99)).await.unwrap(), GrowthOutcome::Shrinks(100));
    assert_eq!(store.reserve_growth(grow(1_001)).await.unwrap(), GrowthOutcome::QuotaFull { used_mib: 100 });
    let grown = store.reserve_growth(grow(200)).await.unwrap();
    assert!(
        matches!(grown, GrowthOutcome::Reserved { ref volume, before_mib: 100 } if volume.size_mib == 200),
        "{grown:?}"
    );
    store.growth_refused(volume_id(1), 100, 200).await.unwrap();
    // What was asked for meanwhile stays.
    store.growth_refused(volume_id(1), 50, 200).await.unwrap();
    assert_eq!(store.volume(wallet(1), volume_id(1)).await.unwrap().unwrap().size_mib, 100);
    // One that is ready is not forgotten by mistake.
    store.forget_volume(volume_id(1)).await.unwrap();
    let removing = store.remove_volume(wallet(1), volume_id(1), NOW).await.unwrap();
    assert!(matches!(removing, VolumeRemoval::Removing(ref volume) if volume.state == VolumeState::Removing));
    assert_eq!(store.reserve_growth(grow(200)).await.unwrap(), GrowthOutcome::Unsettled(VolumeState::Removing));
    assert!(!store.volume_made(volume_id(1)).await.unwrap(), "it is being removed");
    assert_eq!(store.unsettled_volumes().await.unwrap().len(), 1);
    store.forget_volume(volume_id(1)).await.unwrap();
    assert_eq!(store.volumes_of(wallet(1)).await.unwrap(), []);
    // The POD that had it says so, rather than to start without.
    assert_eq!(refused(&store, again(1, 7, pod(1))).await, VolumeRefusal::Unknown("work".parse().unwrap()));
}

pub(crate) async fn a_removed_pod_leaves_its_volumes_to_the_next(place: &Place) {
    let store = open(place).await;
    made(&store, new_volume(1, 1, "work")).await;
    reserved(&store, with(1, 1, &[("work", "/workspace")])).await;
    store.advance(id(1), Event::Stop(StopReason::Removed), NOW).await.unwrap();
    store.end(id(1), None, NOW).await.unwrap();
    assert_eq!(store.last_run(pod(1)).await.unwrap(), None);
    reserved(&store, with(1, 2, &[("work", "/workspace")])).await;
    end(&store, 2).await;
    assert!(store.remove_pod(pod(2), NOW).await.unwrap());
    assert!(matches!(store.remove_volume(wallet(1), volume_id(1), NOW).await.unwrap(), VolumeRemoval::Removing(_)));
}

pub(crate) async fn no_wallet_and_no_node_holds_up_what_is_begun_for_others(place: &Place) {
    let store = open(place).await;
    let quota = VolumeQuota { disk_mib: 1_000_000, volumes: 1_000 };
    let on = |holder, n, node: &str| {
        let new = new_volume(holder, n, &format!("v{n}"));
        NewVolume { volume: VolumeRecord { node: node.to_owned(), ..new.volume }, quota }
    };
    // More than are looked at in a round, of one wallet: on a node that is gone, and on one that is there.
    for n in 0..220 {
        store.reserve_volume(on(1, n, if n < 110 { "gone" } else { "n1" })).await.unwrap();
    }
    store.reserve_volume(on(2, 300, "n1")).await.unwrap();
    let looked_at = store.unsettled_volumes().await.unwrap();
    assert!(looked_at.len() <= 100 && looked_at.iter().any(|volume| volume.wallet == wallet(2)));
    assert!(looked_at.iter().filter(|volume| volume.node == "n1").count() >= 50);
}
