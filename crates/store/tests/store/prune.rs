use domain::{Event, Mark, MarkKind, StopReason};
use palatine_store::{Admission, PruneReport, ReplayKey, RunMark, RunPod, RunReservation, StoreError};

use crate::help::{DAY_MS, NOW, Place, bytes, id, keyed, open, pod, replay_key, reservation, reserved, wallet};

const RETENTION_MS: u64 = 90 * DAY_MS;

pub(crate) async fn spent_messages_go_only_when_nobody_could_accept_them(place: &Place) {
    let store = open(place).await;
    store.spend(replay_key(1)).await.unwrap();
    let slack = 10 * 60 * 1000;
    let expired = replay_key(1).expires_at;
    assert_eq!(store.prune(expired.plus(slack)).await.unwrap(), PruneReport::default());
    assert!(matches!(store.spend(replay_key(1)).await, Err(StoreError::Replayed)));
    let pruned = store.prune(expired.plus(slack + 1)).await.unwrap();
    assert_eq!(pruned, PruneReport { spent_signatures: 1, ..PruneReport::default() });
}

pub(crate) async fn forgetting_takes_small_bites_and_says_when_there_is_more(place: &Place) {
    let store = open(place).await;
    for n in 0..1_200 {
        store.spend(ReplayKey { key: bytes(n), expires_at: NOW }).await.unwrap();
    }
    let later = NOW.plus(DAY_MS);
    let bites: Vec<u64> = [store.prune(later).await, store.prune(later).await, store.prune(later).await]
        .map(|pruned| pruned.unwrap().spent_signatures)
        .into();
    assert_eq!(bites, [500, 500, 200]);
    assert!(!store.prune(later).await.unwrap().more);
}

pub(crate) async fn a_forgotten_run_leaves_its_usage_and_nothing_else(place: &Place) {
    let store = open(place).await;
    for (n, ready_ms) in [(1, 3_000), (2, 500)] {
        let pod = if n == 1 { reservation(1, 1).pod } else { RunPod::Existing(pod(1)) };
        reserved(&store, RunReservation { pod, ..keyed(1, n, &format!("k{n}"), 9) }).await;
        store.place(id(n), "one", NOW).await.unwrap();
        let mark = |seq, at, kind| RunMark { run: id(n), mark: Mark { seq, at, kind } };
        let marks = vec![mark(2 * n, NOW, MarkKind::Ready), mark(2 * n + 1, NOW.plus(ready_ms), MarkKind::Gone)];
        store.count_marks("one", "a", marks, vec![], NOW).await.unwrap();
        store.advance(id(n), Event::Stop(StopReason::Requested), NOW).await.unwrap();
        store.advance(id(n), Event::Gone, NOW).await.unwrap();
    }
    let live = reserved(&store, RunReservation { pod: RunPod::Existing(pod(1)), ..reservation(1, 3) }).await;
    let before = store.usage(wallet(1), NOW).await.unwrap();
    assert_eq!((before.0.uptime_ms, before.1), (3_500, 2));
    assert_eq!(store.prune(NOW.plus(RETENTION_MS)).await.unwrap().runs, 0);
    let pruned = store.prune(NOW.plus(RETENTION_MS + 1)).await.unwrap();
    assert_eq!((pruned.runs, pruned.keys), (2, 0));
    assert_eq!(store.usage(wallet(1), NOW).await.unwrap(), before);
    assert_eq!(store.of(wallet(1), 10).await.unwrap(), vec![live]);
    assert_eq!(store.get(id(1)).await.unwrap(), None);
    // Its key is long gone too.
    let late = RunReservation { now: NOW.plus(RETENTION_MS), ..keyed(2, 9, "k1", 9) };
    assert!(matches!(store.reserve(late).await.unwrap(), Admission::Reserved(_)));
}
