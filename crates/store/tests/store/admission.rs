use domain::{Event, State, StopReason};
use palatine_store::{Admission, RunReservation, StoreError};

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

pub(crate) async fn a_reservation_is_read_as_it_was_written(place: &Place) {
    let store = open(place).await;
    let record = reserved(&store, RunReservation { public: true, ..reservation(1, 1) }).await;
    assert_eq!(record.state, State::Reserved);
    assert_eq!(record.epoch, store.epoch());
    assert_eq!(store.get(id(1)).await.unwrap(), Some(record.clone()));
    assert_eq!(store.live_of(wallet(1)).await.unwrap(), Some(record.clone()));
    assert_eq!(store.of(wallet(1), 10).await.unwrap(), vec![record]);
    assert_eq!(store.get(id(2)).await.unwrap(), None);
    assert_eq!(store.live_of(wallet(2)).await.unwrap(), None);
}

pub(crate) async fn a_message_works_once_also_across_a_restart_and_whatever_it_asked(place: &Place) {
    let store = open(place).await;
    reserved(&store, reservation(1, 1)).await;
    store.spend(replay_key(2)).await.unwrap();
    drop(store);
    let store = open(place).await;
    assert!(matches!(store.spend(replay_key(1)).await, Err(StoreError::Replayed)));
    assert!(matches!(store.spend(replay_key(2)).await, Err(StoreError::Replayed)));
    let again = RunReservation { id: id(3), replay_key: replay_key(2), ..reservation(3, 3) };
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
    assert_eq!(store.live_of(wallet(2)).await.unwrap(), None);
}
