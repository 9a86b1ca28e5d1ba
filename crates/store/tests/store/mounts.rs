//! Which volumes a POD's next runs have.

use domain::{Event, MountsError, PodId, StopReason, VolumeMount};
use palatine_store::{Admission, KeptData, MountOutcome, NewMount, NewVolume, Store, VolumeRecord, VolumeRefusal};

use crate::help::{NOW, Place, id, open, pod, replay_key, reserved, wallet};
use crate::volumes::{again, end, made, new_volume, volume_id, with};

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.parse().unwrap(), path: path.parse().unwrap() }
}

async fn attach(store: &Store, holder: u64, of: PodId, name: &str, path: &str) -> MountOutcome {
    let new = NewMount { wallet: wallet(holder), pod: of, mount: mount(name, path), now: NOW };
    store.mount_volume(new).await.unwrap()
}

async fn detach(store: &Store, holder: u64, of: PodId, name: &str) -> MountOutcome {
    store.unmount_volume(wallet(holder), of, name.parse().unwrap()).await.unwrap()
}

fn has(outcome: MountOutcome) -> Vec<(String, String)> {
    let MountOutcome::Changed(found) = outcome else { panic!("{outcome:?}") };
    let text = |mount: VolumeMount| (mount.name.to_string(), mount.path.to_string());
    let mut all: Vec<_> = found.into_iter().map(|found| text(found.mount)).collect();
    all.sort();
    all
}

fn pair(name: &str, path: &str) -> (String, String) {
    (name.to_owned(), path.to_owned())
}

pub(crate) async fn a_stopped_pod_is_given_volumes_for_its_next_runs_and_loses_them_again(place: &Place) {
    let store = open(place).await;
    made(&store, new_volume(1, 1, "work")).await;
    made(&store, new_volume(1, 2, "cache")).await;
    reserved(&store, with(1, 1, &[("work", "/workspace")])).await;
    // While it runs it keeps what it has.
    assert_eq!(attach(&store, 1, pod(1), "cache", "/cache").await, MountOutcome::Runs);
    assert_eq!(detach(&store, 1, pod(1), "work").await, MountOutcome::Runs);
    end(&store, 1).await;
    let both = [pair("cache", "/cache"), pair("work", "/workspace")];
    assert_eq!(has(attach(&store, 1, pod(1), "cache", "/cache").await), both);
    assert_eq!(has(attach(&store, 1, pod(1), "work", "/workspace").await), both, "the same again");
    let moved = [pair("cache", "/cache"), pair("work", "/w")];
    assert_eq!(has(attach(&store, 1, pod(1), "work", "/w").await), moved);
    let overlap = attach(&store, 1, pod(1), "cache", "/w/c").await;
    assert!(matches!(overlap, MountOutcome::Refused(MountsError::Overlap(..))), "{overlap:?}");
    reserved(&store, again(1, 2, pod(1))).await;
    let seen: Vec<_> = store.run_volumes(id(2)).await.unwrap().into_iter().map(|one| one.mount).collect();
    assert_eq!(seen, [mount("cache", "/cache"), mount("work", "/w")]);
    end(&store, 2).await;
    assert_eq!(has(detach(&store, 1, pod(1), "work").await), [pair("cache", "/cache")]);
    assert_eq!(detach(&store, 1, pod(1), "work").await, MountOutcome::NoVolume);
    assert_eq!(store.pod_volumes(wallet(1), pod(1)).await.unwrap().unwrap().len(), 1);
    // What is not the wallet's is not there.
    assert_eq!(attach(&store, 2, pod(1), "work", "/w").await, MountOutcome::NoPod);
    assert_eq!(detach(&store, 2, pod(1), "cache").await, MountOutcome::NoPod);
    assert_eq!(store.pod_volumes(wallet(2), pod(1)).await.unwrap(), None);
    assert_eq!(attach(&store, 1, pod(9), "work", "/w").await, MountOutcome::NoPod);
    assert_eq!(attach(&store, 1, pod(1), "none", "/w").await, MountOutcome::NoVolume);
}

pub(crate) async fn a_volume_may_be_meant_for_several_and_the_first_that_starts_has_it(place: &Place) {
    let store = open(place).await;
    made(&store, new_volume(1, 1, "work")).await;
    for n in [1, 2] {
        reserved(&store, with(1, n, &[])).await;
        end(&store, n).await;
        assert_eq!(has(attach(&store, 1, pod(n), "work", "/w").await).len(), 1);
    }
    let mut answers = Vec::new();
    for (n, of) in [(11, 1), (12, 2)] {
        let store = store.clone();
        answers.push(tokio::spawn(async move { store.reserve(again(1, n, pod(of))).await.unwrap() }));
    }
    let mut granted = 0;
    for answer in answers {
        match answer.await.unwrap() {
            Admission::Reserved(_) => granted += 1,
            Admission::NoVolumes(VolumeRefusal::Attached { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(granted, 1);
}

pub(crate) async fn a_volume_goes_to_no_pod_whose_data_or_volumes_are_elsewhere_and_one_that_is_gone_is_let_go(
    place: &Place,
) {
    let store = open(place).await;
    made(&store, new_volume(1, 1, "work")).await;
    let far = new_volume(1, 2, "far");
    made(&store, NewVolume { volume: VolumeRecord { node: "n2".to_owned(), ..far.volume }, ..far }).await;
    reserved(&store, with(1, 1, &[("work", "/workspace")])).await;
    end(&store, 1).await;
    assert_eq!(attach(&store, 1, pod(1), "far", "/far").await, MountOutcome::Apart("work".parse().unwrap()));
    reserved(&store, with(1, 2, &[])).await;
    store.place(id(2), "n1", NOW).await.unwrap();
    store.advance(id(2), Event::Stop(StopReason::Requested), NOW).await.unwrap();
    store.end(id(2), Some(KeptData { until: None, bytes: 1 }), NOW).await.unwrap();
    assert_eq!(attach(&store, 1, pod(2), "far", "/far").await, MountOutcome::DataApart);
    // A POD whose volume was removed may be given another of that name, or do without.
    store.remove_volume(wallet(1), volume_id(1), NOW).await.unwrap();
    store.forget_volume(volume_id(1)).await.unwrap();
    let left = store.pod_volumes(wallet(1), pod(1)).await.unwrap().unwrap();
    assert_eq!((left.len(), &left[0].volume), (1, &None));
    made(&store, new_volume(1, 3, "work")).await;
    assert_eq!(has(attach(&store, 1, pod(1), "work", "/w").await), [pair("work", "/w")]);
    assert_eq!(has(detach(&store, 1, pod(1), "work").await), []);
    let free = domain::HolderAllowance { agents: 64, cores: u32::MAX, memory_mib: u64::MAX };
    let replay_key = Some(replay_key(77));
    reserved(&store, palatine_store::RunReservation { replay_key, allowance: free, ..again(1, 5, pod(1)) }).await;
}
