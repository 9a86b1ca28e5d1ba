use domain::{AllowanceExceeded, Event, State, StopReason, Tier};
use palatine_store::{Admission, RunPod, RunRecord, RunReservation, Store, StoreError};

use crate::help::{DAY_MS, NOW, Place, id, keyed, open, pod, replay_key, reservation, reserved, wallet};

pub(crate) async fn of_fifty_concurrent_reservations_of_one_wallet_one_is_granted(place: &Place) {
    let store = open(place).await;
    let asked: Vec<_> = (0..50)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.reserve(reservation(1, n)).await.unwrap() })
        })
        .collect();
    let mut granted = Vec::new();
    let mut busy = Vec::new();
    for answer in asked {
        match answer.await.unwrap() {
            Admission::Reserved(record) => granted.push(record.pod),
            Admission::Busy(id) => busy.push(id),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(granted.len(), 1);
    assert_eq!(busy, vec![granted[0]; 49]);
    assert_eq!(store.live().await.unwrap().len(), 1);
}

/// Run `n` of a new POD of wallet 1, which may have so many at once on 8 cores and 8192 MiB.
fn part(agents: u32, n: u64, cores: u32, memory: u32) -> RunReservation {
    let asked = reservation(1, n);
    let tier = Tier { cores: 8, memory: 8192, agents, ..asked.tier_config };
    RunReservation { allowance: (&tier).into(), tier_config: Tier { cores, memory, ..tier }, ..asked }
}

/// Of fifty who ask at once: those that were let in, and what the others were told.
async fn ask_at_once(store: &Store, of: impl Fn(u64) -> RunReservation) -> (Vec<RunRecord>, Vec<AllowanceExceeded>) {
    let asked: Vec<_> = (0..50)
        .map(|n| {
            let (store, reservation) = (store.clone(), of(n));
            tokio::spawn(async move { store.reserve(reservation).await.unwrap() })
        })
        .collect();
    let (mut granted, mut refused) = (Vec::new(), Vec::new());
    for answer in asked {
        match answer.await.unwrap() {
            Admission::Reserved(record) => granted.push(record),
            Admission::AllowanceExceeded(exceeded) => refused.push(exceeded),
            other => panic!("{other:?}"),
        }
    }
    (granted, refused)
}

pub(crate) async fn of_fifty_at_once_as_many_are_granted_as_the_tier_allows(place: &Place) {
    let store = open(place).await;
    let (granted, refused) = ask_at_once(&store, |n| part(3, n, 1, 512)).await;
    let mut slots: Vec<_> = granted.iter().map(|run| run.slot).collect();
    slots.sort_unstable();
    assert_eq!(slots, [0, 1, 2]);
    assert_eq!(refused.len(), 47);
    assert!(refused.iter().all(|exceeded| exceeded.taken.len() == 3 && exceeded.in_use().cores == 3));
    let live = store.live_of(wallet(1)).await.unwrap();
    assert!(live.is_sorted_by(|a, b| a.id > b.id) && live.len() == 3, "{live:?}");
    assert_eq!(store.of(wallet(1), 2).await.unwrap(), live[..2]);
    // Another wallet has slots of its own.
    reserved(&store, reservation(2, 99)).await;
}

pub(crate) async fn however_many_ask_at_once_together_they_get_no_more_than_the_tier_gives(place: &Place) {
    let store = open(place).await;
    let (granted, refused) = ask_at_once(&store, |n| {
        let size = u32::try_from(n % 3).unwrap() + 1;
        part(100, n, size, 1024 * size)
    })
    .await;
    let cores: u32 = granted.iter().map(|run| run.tier_config.cores).sum();
    let memory: u32 = granted.iter().map(|run| run.tier_config.memory).sum();
    // The smallest asks for one core: where none fits any more, all are given.
    assert_eq!((cores, memory, granted.len() + refused.len()), (8, 8192, 50), "{granted:?}");
    assert!(granted.iter().all(|run| run.tier_config.agents == 100));
}

pub(crate) async fn a_slot_is_free_again_when_its_run_has_ended_and_a_running_pod_is_started_once(place: &Place) {
    let store = open(place).await;
    for n in 0..2 {
        assert_eq!(u64::from(reserved(&store, part(2, n, 4, 4096)).await.slot), n);
    }
    let full = store.reserve(part(2, 2, 1, 128)).await.unwrap();
    assert!(matches!(full, Admission::AllowanceExceeded(_)), "{full:?}");
    let again = RunReservation { pod: RunPod::Existing(pod(0)), ..part(2, 3, 4, 4096) };
    assert_eq!(store.reserve(again).await.unwrap(), Admission::Running(pod(0)));
    store.advance(id(0), Event::Stop(StopReason::Requested), NOW).await.unwrap();
    store.end(id(0), None, NOW).await.unwrap();
    let too_large = store.reserve(part(2, 4, 5, 128)).await.unwrap();
    let Admission::AllowanceExceeded(exceeded) = too_large else { panic!("{too_large:?}") };
    assert_eq!((exceeded.taken.len(), exceeded.taken[0].pod, exceeded.in_use().memory_mib), (1, pod(1), 4096));
    let again = RunReservation { pod: RunPod::Existing(pod(0)), ..part(2, 5, 4, 4096) };
    assert_eq!(reserved(&store, again).await.slot, 0);
}

pub(crate) async fn where_fewer_are_allowed_than_run_those_go_on_and_no_further_one_comes(place: &Place) {
    let store = open(place).await;
    for n in 0..3 {
        reserved(&store, part(3, n, 1, 512)).await;
    }
    store.advance(id(0), Event::Stop(StopReason::Requested), NOW).await.unwrap();
    store.end(id(0), None, NOW).await.unwrap();
    // Slot 0 is free, and two run.
    assert_eq!(store.reserve(part(1, 3, 1, 512)).await.unwrap(), Admission::Busy(pod(2)));
    assert!(matches!(store.reserve(part(2, 4, 1, 512)).await.unwrap(), Admission::AllowanceExceeded(_)));
    assert_eq!(store.live_of(wallet(1)).await.unwrap().len(), 2);
}

pub(crate) async fn who_asks_without_a_message_is_let_in_and_its_retry_has_the_first_answer(place: &Place) {
    let store = open(place).await;
    let unsigned = |asked| RunReservation { replay_key: None, ..asked };
    let first = reserved(&store, unsigned(keyed(1, 1, "k", 9))).await;
    assert_eq!(store.reserve(unsigned(keyed(1, 2, "k", 9))).await.unwrap(), Admission::Repeated(first));
    assert_eq!(store.reserve(unsigned(keyed(1, 3, "k", 8))).await.unwrap(), Admission::Mismatch);
    assert_eq!(store.reserve(unsigned(reservation(1, 4))).await.unwrap(), Admission::Busy(pod(1)));
}

pub(crate) async fn a_reservation_is_read_as_it_was_written(place: &Place) {
    let store = open(place).await;
    let record = reserved(&store, RunReservation { public: true, ..reservation(1, 1) }).await;
    assert_eq!(record.state, State::Reserved);
    assert_eq!(record.epoch, store.epoch());
    assert_eq!(store.get(id(1)).await.unwrap(), Some(record.clone()));
    assert_eq!(store.live_of(wallet(1)).await.unwrap(), std::slice::from_ref(&record));
    assert_eq!(store.of(wallet(1), 10).await.unwrap(), vec![record]);
    assert_eq!(store.get(id(2)).await.unwrap(), None);
    assert_eq!(store.live_of(wallet(2)).await.unwrap(), []);
}

pub(crate) async fn a_message_works_once_also_across_a_restart_and_whatever_it_asked(place: &Place) {
    let store = open(place).await;
    reserved(&store, reservation(1, 1)).await;
    store.spend(replay_key(2)).await.unwrap();
    drop(store);
    let store = open(place).await;
    assert!(matches!(store.spend(replay_key(1)).await, Err(StoreError::Replayed)));
    assert!(matches!(store.spend(replay_key(2)).await, Err(StoreError::Replayed)));
    let again = RunReservation { id: id(3), replay_key: Some(replay_key(2)), ..reservation(3, 3) };
    assert_eq!(store.reserve(again).await.unwrap(), Admission::Replayed);
    assert_eq!(store.get(id(3)).await.unwrap(), None);
}

pub(crate) async fn a_reservation_that_is_refused_spends_its_message_too(place: &Place) {
    let store = open(place).await;
    reserved(&store, reservation(1, 1)).await;
    assert_eq!(store.reserve(reservation(1, 2)).await.unwrap(), Admission::Busy(pod(1)));
    assert!(matches!(store.spend(replay_key(2)).await, Err(StoreError::Replayed)));
}

pub(crate) async fn a_retry_with_its_key_gets_the_first_answer_as_it_is_now(place: &Place) {
    let store = open(place).await;
    reserved(&store, keyed(1, 1, "k", 9)).await;
    let placed = store.place(id(1), "one", NOW).await.unwrap().record;
    drop(store);
    let store = open(place).await;
    assert_eq!(store.reserve(keyed(1, 2, "k", 9)).await.unwrap(), Admission::Repeated(placed));
    assert_eq!(store.reserve(keyed(1, 3, "k", 8)).await.unwrap(), Admission::Mismatch);
    assert_eq!(store.reserve(keyed(1, 4, "other", 9)).await.unwrap(), Admission::Busy(pod(1)));
    // Another wallet's key of the same name is another key.
    reserved(&store, keyed(2, 5, "k", 8)).await;
}

pub(crate) async fn where_no_new_run_may_start_a_retry_has_its_answer_all_the_same(place: &Place) {
    let store = open(place).await;
    let first = reserved(&store, keyed(1, 1, "k", 9)).await;
    let overloaded = |asked| RunReservation { may_start: false, ..asked };
    assert_eq!(store.reserve(overloaded(keyed(1, 2, "k", 9))).await.unwrap(), Admission::Repeated(first));
    assert_eq!(store.reserve(overloaded(keyed(1, 3, "k", 8))).await.unwrap(), Admission::Mismatch);
    assert_eq!(store.reserve(overloaded(keyed(2, 4, "k", 9))).await.unwrap(), Admission::Overloaded);
    assert!(matches!(store.spend(replay_key(4)).await, Err(StoreError::Replayed)), "its message is spent");
    // Its key stands for nothing yet.
    reserved(&store, keyed(2, 5, "k", 8)).await;
}

pub(crate) async fn a_key_stands_for_its_answer_for_a_day_and_no_longer(place: &Place) {
    let store = open(place).await;
    reserved(&store, keyed(1, 1, "k", 9)).await;
    store.advance(id(1), Event::Stop(StopReason::Requested), NOW).await.unwrap();
    store.advance(id(1), Event::Gone, NOW).await.unwrap();
    let just = RunReservation { now: NOW.plus(DAY_MS - 1), ..keyed(1, 2, "k", 9) };
    assert!(matches!(store.reserve(just).await.unwrap(), Admission::Repeated(record) if record.id == id(1)));
    let after = RunReservation { now: NOW.plus(DAY_MS), ..keyed(1, 3, "k", 9) };
    assert_eq!(reserved(&store, after).await.id, id(3));
    let again = RunReservation { now: NOW.plus(DAY_MS), ..keyed(1, 4, "k", 9) };
    assert!(matches!(store.reserve(again).await.unwrap(), Admission::Repeated(record) if record.id == id(3)));
}

pub(crate) async fn an_id_that_is_taken_is_said_so_and_takes_no_slot(place: &Place) {
    let store = open(place).await;
    reserved(&store, reservation(1, 1)).await;
    let twin = RunReservation { id: id(1), ..reservation(2, 2) };
    assert!(matches!(store.reserve(twin).await, Err(StoreError::IdTaken(taken)) if taken == id(1)));
    assert_eq!(store.live_of(wallet(2)).await.unwrap(), []);
}
