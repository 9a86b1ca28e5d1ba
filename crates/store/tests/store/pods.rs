use domain::{EndReason, Event, Mark, MarkKind, PodId, RunId, State, StopReason, Tier, Usdc};
use palatine_store::{Admission, KeptData, RunMark, RunPod, RunRecord, RunReservation, Store, StoreError};

use crate::help::{DAY_MS, NOW, Place, id, keyed, open, pod, reservation, reserved, wallet};

const MIB: u64 = 1024 * 1024;

fn named(name: &str) -> PodId {
    PodId::chosen(name).unwrap()
}

/// Run `n` of a new POD of this name.
fn called(holder: u64, n: u64, name: &str) -> RunReservation {
    RunReservation { pod: RunPod::New { name: Some(named(name)), ephemeral: false }, ..reservation(holder, n) }
}

/// Run `n` of a POD that is there.
fn again(holder: u64, n: u64, pod: PodId) -> RunReservation {
    RunReservation { pod: RunPod::Existing(pod), now: NOW.plus(n), ..reservation(holder, n) }
}

fn kept(mib: u64) -> Option<KeptData> {
    Some(KeptData { until: Some(NOW.plus(30 * DAY_MS)), bytes: mib * MIB })
}

/// Runs it to its end, with this kept.
async fn run_and_stop(store: &Store, run: RunId, data: Option<KeptData>) -> RunRecord {
    store.place(run, "one", NOW).await.unwrap();
    store.advance(run, Event::Ready, NOW).await.unwrap();
    store.advance(run, Event::Stop(StopReason::Requested), NOW).await.unwrap();
    store.end(run, data, NOW).await.unwrap().record
}

pub(crate) async fn a_pod_keeps_id_prices_and_history_from_run_to_run(place: &Place) {
    let store = open(place).await;
    let first = reserved(&store, called(1, 1, "agent-123")).await;
    assert_eq!((first.pod, first.id), (named("agent-123"), id(1)));
    store.set_prices(first.pod, [("/".to_owned(), Usdc(7))].into()).await.unwrap();
    let stopped = run_and_stop(&store, id(1), kept(3)).await;
    assert_eq!((stopped.data, stopped.data_node.as_deref()), (kept(3), Some("one")));
    drop(store);
    let store = open(place).await;
    let second = reserved(&store, again(1, 2, first.pod)).await;
    assert_eq!((second.id, second.pod, second.pod_key), (id(2), first.pod, first.pod_key));
    // What is kept is said to whoever places it.
    assert_eq!((second.data, second.data_node.as_deref(), second.created_at), (kept(3), Some("one"), NOW));
    assert_eq!(store.last_run(first.pod).await.unwrap().unwrap().id, id(2));
    assert_eq!(store.prices_of(first.pod).await.unwrap().len(), 1);
    let story = store.changes(first.pod, 0).await.unwrap();
    let seqs: Vec<_> = story.iter().map(|change| change.seq).collect();
    assert_eq!(seqs, (1..=u64::try_from(story.len()).unwrap()).collect::<Vec<_>>());
    assert_eq!(story.last().map(|change| (change.state, change.at)), Some((State::Reserved, NOW.plus(2))));
    assert_eq!(store.of(wallet(1), 10).await.unwrap(), [second]);
}

pub(crate) async fn of_fifty_concurrent_starts_of_one_pod_one_is_granted(place: &Place) {
    let store = open(place).await;
    let first = reserved(&store, reservation(1, 1)).await;
    run_and_stop(&store, id(1), None).await;
    let starts = (2..52).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.reserve(again(1, n, first.pod)).await.unwrap() })
    });
    let mut granted = 0;
    for answer in starts.collect::<Vec<_>>() {
        match answer.await.unwrap() {
            Admission::Reserved(_) => granted += 1,
            Admission::Busy(live) => assert_eq!(live, first.pod),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((granted, store.live().await.unwrap().len()), (1, 1));
}

pub(crate) async fn of_fifty_holders_who_choose_one_id_one_has_it_and_the_others_spend_no_slot(place: &Place) {
    let store = open(place).await;
    let asked = (0..50).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.reserve(called(n, n, "the-one")).await.unwrap() })
    });
    let (mut granted, mut taken) = (0, 0);
    for answer in asked.collect::<Vec<_>>() {
        match answer.await.unwrap() {
            Admission::Reserved(_) => granted += 1,
            Admission::IdTaken(id) if id == named("the-one") => taken += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((granted, taken, store.live().await.unwrap().len()), (1, 49, 1));
}

pub(crate) async fn nobody_starts_or_learns_of_another_holders_pod(place: &Place) {
    let store = open(place).await;
    let theirs = reserved(&store, reservation(1, 1)).await.pod;
    run_and_stop(&store, id(1), None).await;
    for (n, unknown) in [(2, theirs), (3, pod(99)), (4, named("nobody"))] {
        assert_eq!(store.reserve(again(2, n, unknown)).await.unwrap(), Admission::NoPod(unknown));
    }
    assert_eq!(store.live_of(wallet(2)).await.unwrap(), []);
}

pub(crate) async fn a_removed_pod_leaves_usage_and_its_id_which_its_holder_alone_may_take_again(place: &Place) {
    let store = open(place).await;
    let asked = RunReservation { pod: called(1, 1, "mine").pod, ..keyed(1, 1, "k", 9) };
    let pod = reserved(&store, asked.clone()).await.pod;
    store.set_prices(pod, [("/".to_owned(), Usdc(7))].into()).await.unwrap();
    store.place(id(1), "one", NOW).await.unwrap();
    let mark = |seq, at, kind| RunMark { run: id(1), mark: Mark { seq, at, kind } };
    let marks = vec![mark(1, NOW, MarkKind::Ready), mark(2, NOW.plus(700), MarkKind::Gone)];
    store.count_marks("one", "a", marks, vec![], NOW).await.unwrap();
    assert!(!store.remove_pod(pod, NOW).await.unwrap(), "a live one is not forgotten");
    store.advance(id(1), Event::Stop(StopReason::Removed), NOW).await.unwrap();
    let ended = store.end(id(1), None, NOW).await.unwrap().record;
    assert_eq!(ended.state, State::Stopped(StopReason::Removed));
    assert_eq!(store.last_run(pod).await.unwrap(), None);
    assert_eq!(store.get(id(1)).await.unwrap(), None);
    assert!(store.of(wallet(1), 10).await.unwrap().is_empty() && store.prices_of(pod).await.unwrap().is_empty());
    assert!(matches!(store.changes(pod, 0).await, Err(StoreError::NoPod(gone)) if gone == pod));
    let (usage, spawns) = store.usage(wallet(1), NOW).await.unwrap();
    assert_eq!((usage.uptime_ms, spawns), (700, 1));
    // Its key is forgotten with it: the same request is a new one.
    assert_eq!(store.reserve(called(2, 3, "mine")).await.unwrap(), Admission::IdTaken(pod));
    assert_eq!(store.reserve(again(1, 4, pod)).await.unwrap(), Admission::NoPod(pod));
    let anew =
        reserved(&store, RunReservation { id: id(5), replay_key: Some(crate::help::replay_key(5)), ..asked }).await;
    assert_eq!((anew.pod, anew.changes, anew.data), (pod, 1, None));
    assert_eq!(store.changes(pod, 0).await.unwrap().len(), 1);
    assert!(store.remove_pod(named("never-was"), NOW).await.unwrap());
}

pub(crate) async fn a_removal_that_comes_while_data_is_set_aside_is_not_forgotten(place: &Place) {
    let store = open(place).await;
    reserved(&store, reservation(1, 1)).await;
    store.place(id(1), "one", NOW).await.unwrap();
    store.advance(id(1), Event::Stop(StopReason::Requested), NOW).await.unwrap();
    store.advance(id(1), Event::Stop(StopReason::Removed), NOW).await.unwrap();
    let told = State::Stopping(EndReason::Stopped(StopReason::Removed));
    assert_eq!(store.end(id(1), kept(1), NOW).await.unwrap().record.state, told);
    assert!(!store.end(id(1), None, NOW).await.unwrap().record.state.is_live());
    assert_eq!(store.last_run(pod(1)).await.unwrap(), None);
}

pub(crate) async fn a_full_quota_refuses_a_new_pod_names_what_could_go_and_starts_what_is_there(place: &Place) {
    let store = open(place).await;
    let small = |asked: RunReservation| RunReservation { tier_config: Tier { disk: 10, ..asked.tier_config }, ..asked };
    for (n, mib) in [(1, 4), (2, 5)] {
        reserved(&store, small(reservation(1, n))).await;
        run_and_stop(&store, id(n), kept(mib)).await;
    }
    // Nine of ten MiB.
    reserved(&store, small(reservation(1, 3))).await;
    run_and_stop(&store, id(3), kept(1)).await;
    let Admission::QuotaFull(named) = store.reserve(small(reservation(1, 4))).await.unwrap() else {
        panic!("it was let in")
    };
    assert_eq!(named.iter().map(|kept| kept.pod).collect::<Vec<_>>(), [pod(2), pod(1), pod(3)]);
    assert_eq!(named[0].data, kept(5).unwrap());
    // Who leaves nothing, who is there already, and who has another quota, may.
    let fleeting = RunPod::New { name: None, ephemeral: true };
    reserved(&store, small(RunReservation { pod: fleeting, ..reservation(1, 5) })).await;
    store.advance(id(5), Event::Stop(StopReason::Removed), NOW).await.unwrap();
    store.end(id(5), None, NOW).await.unwrap();
    let started = reserved(&store, small(again(1, 6, pod(2)))).await;
    assert_eq!(started.pod, pod(2));
    run_and_stop(&store, id(6), kept(5)).await;
    // Data whose time is over counts no more.
    let late = RunReservation { now: NOW.plus(30 * DAY_MS), ..small(reservation(1, 7)) };
    reserved(&store, late).await;
}

pub(crate) async fn old_runs_are_forgotten_but_the_last_of_a_pod_is_not(place: &Place) {
    let store = open(place).await;
    let first = reserved(&store, reservation(1, 1)).await.pod;
    run_and_stop(&store, id(1), kept(1)).await;
    reserved(&store, again(1, 2, first)).await;
    let ended = run_and_stop(&store, id(2), kept(2)).await;
    let pruned = store.prune(NOW.plus(1000 * DAY_MS)).await.unwrap();
    assert_eq!(pruned.runs, 1);
    assert_eq!(store.get(id(1)).await.unwrap(), None);
    assert_eq!(store.last_run(first).await.unwrap(), Some(ended));
    reserved(&store, again(1, 3, first)).await;
}
