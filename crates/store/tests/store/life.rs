use domain::{EndReason, Event, FailReason, Generation, State, SteadyInstant, StepEffect, StopReason};
use palatine_store::{AgentObservation, BelowTier, RunChange, RunExpiry, RunPod, StoreError};

use crate::help::{NOW, Place, id, open, pod, reservation, reserved, wallet};

/// Over once so many milliseconds were counted.
const fn expiry(counted_ms: u64) -> Option<RunExpiry> {
    Some(RunExpiry { at: NOW, counted_ms })
}

fn seen(restarts: u32) -> AgentObservation {
    AgentObservation { runtime: "qemu-tcg".to_owned(), restarts }
}

fn change(seq: u64, after_ms: u64, state: State) -> RunChange {
    RunChange { seq, at: NOW.plus(after_ms), state }
}

pub(crate) async fn a_life_is_kept_step_by_step_and_told_to_whoever_listens(place: &Place) {
    let store = open(place).await;
    let mut news = store.subscribe();
    reserved(&store, reservation(1, 1)).await;
    let placed = store.place(id(1), "one", NOW.plus(1)).await.unwrap();
    assert_eq!((placed.record.node.as_deref(), placed.actions), (Some("one"), &[StepEffect::Create][..]));
    store.settle(id(1), Event::Booting, seen(0), NOW.plus(2)).await.unwrap();
    let ready = store.settle(id(1), Event::Ready, seen(0), NOW.plus(3)).await.unwrap().record;
    assert_eq!((ready.runtime.as_deref(), ready.was_ready), (Some("qemu-tcg"), true));
    // A second time changes nothing, and is no change.
    assert_eq!(store.settle(id(1), Event::Ready, seen(0), NOW.plus(4)).await.unwrap().change, None);
    let stopping = store.advance(id(1), Event::Stop(StopReason::Balance), NOW.plus(5)).await.unwrap().record;
    assert_eq!(stopping.generation, Generation::FIRST.next());
    let gone = store.advance(id(1), Event::Gone, NOW.plus(6)).await.unwrap();
    assert_eq!((gone.record.ended_at, gone.actions), (Some(NOW.plus(6)), &[StepEffect::FreeWallet][..]));
    let story = vec![
        change(1, 0, State::Reserved),
        change(2, 1, State::Placed),
        change(3, 2, State::Booting),
        change(4, 3, State::Ready),
        change(5, 5, State::Stopping(EndReason::Stopped(StopReason::Balance))),
        change(6, 6, State::Stopped(StopReason::Balance)),
    ];
    assert_eq!(store.changes(pod(1), 0).await.unwrap(), story);
    assert_eq!(store.changes(pod(1), 4).await.unwrap(), story[4..]);
    for told in &story {
        assert_eq!(news.recv().await.unwrap(), (pod(1), *told));
    }
    assert!(news.try_recv().is_err());
    drop(store);
    let store = open(place).await;
    assert_eq!(store.changes(pod(1), 0).await.unwrap(), story);
    assert_eq!(store.get(id(1)).await.unwrap().unwrap(), gone.record);
}

pub(crate) async fn a_wallet_is_busy_until_the_grave_and_free_from_then_on(place: &Place) {
    let store = open(place).await;
    reserved(&store, reservation(1, 1)).await;
    store.place(id(1), "one", NOW).await.unwrap();
    store.advance(id(1), Event::Fail(FailReason::BootTimeout), NOW).await.unwrap();
    assert_eq!(store.live_of(wallet(1)).await.unwrap().len(), 1);
    let ended = store.advance(id(1), Event::Gone, NOW).await.unwrap().record;
    assert_eq!(ended.state, State::Failed(FailReason::BootTimeout));
    assert!(store.live_of(wallet(1)).await.unwrap().is_empty());
    reserved(&store, reservation(1, 2)).await;
    let order: Vec<_> = store.of(wallet(1), 10).await.unwrap().iter().map(|record| record.id).collect();
    assert_eq!(order, [id(2), id(1)]);
    assert_eq!(store.of(wallet(1), 1).await.unwrap()[0].id, id(2));
}

pub(crate) async fn a_run_that_is_abandoned_is_on_no_node(place: &Place) {
    let store = open(place).await;
    reserved(&store, reservation(1, 1)).await;
    store.place(id(1), "one", NOW).await.unwrap();
    let abandoned = store.abandon(id(1), FailReason::Interrupted, NOW).await.unwrap().record;
    assert_eq!(abandoned.state, State::Stopping(EndReason::Failed(FailReason::Interrupted)));
    assert_eq!(abandoned.node, None);
    drop(store);
    let store = open(place).await;
    assert_eq!(store.get(id(1)).await.unwrap(), Some(abandoned));
    // Of one that has ended it stays as it was.
    reserved(&store, reservation(2, 2)).await;
    store.place(id(2), "one", NOW).await.unwrap();
    let ended = store.advance(id(2), Event::Gone, NOW).await.unwrap().record;
    assert_eq!(store.abandon(id(2), FailReason::Interrupted, NOW).await.unwrap().record, ended);
}

pub(crate) async fn a_step_that_life_does_not_know_is_refused_and_changes_nothing(place: &Place) {
    let store = open(place).await;
    let before = reserved(&store, reservation(1, 1)).await;
    assert!(matches!(store.advance(id(1), Event::Ready, NOW).await, Err(StoreError::Refused(_))));
    assert_eq!(store.get(id(1)).await.unwrap(), Some(before));
    assert!(matches!(store.advance(id(9), Event::Ready, NOW).await, Err(StoreError::Unknown(who)) if who == id(9)));
    assert!(matches!(store.changes(pod(9), 0).await, Err(StoreError::NoPod(_))));
}

pub(crate) async fn a_stop_during_a_failure_does_not_rewrite_its_end_unless_the_data_is_to_go(place: &Place) {
    let store = open(place).await;
    reserved(&store, reservation(1, 1)).await;
    store.advance(id(1), Event::Fail(FailReason::Lost), NOW).await.unwrap();
    let stopped = store.advance(id(1), Event::Stop(StopReason::Operator), NOW).await.unwrap();
    assert_eq!(stopped.record.state, State::Stopping(EndReason::Failed(FailReason::Lost)));
    assert_eq!(stopped.change, None);
    let told = store.advance(id(1), Event::Stop(StopReason::Removed), NOW).await.unwrap();
    assert_eq!(told.record.state, State::Stopping(EndReason::Stopped(StopReason::Removed)));
    assert_eq!((told.actions, told.record.generation), (&[][..], stopped.record.generation));
}

pub(crate) async fn a_flapping_agent_forgets_its_oldest_changes_and_no_more(place: &Place) {
    let store = open(place).await;
    reserved(&store, reservation(1, 1)).await;
    store.place(id(1), "one", NOW).await.unwrap();
    for turn in 0..600 {
        store.settle(id(1), Event::Booting, seen(turn), NOW).await.unwrap();
        store.settle(id(1), Event::Ready, seen(turn), NOW).await.unwrap();
    }
    let kept = store.changes(pod(1), 0).await.unwrap();
    assert_eq!(kept.len(), 1000);
    assert_eq!(kept.first().map(|change| change.seq), Some(203));
    assert_eq!(kept.last().map(|change| change.seq), Some(1202));
    assert_eq!(store.get(id(1)).await.unwrap().unwrap().restarts, 599);
}

pub(crate) async fn what_was_seen_and_how_the_balance_stands_are_kept(place: &Place) {
    let store = open(place).await;
    reserved(&store, reservation(1, 1)).await;
    store.observe(id(1), seen(2)).await.unwrap();
    // An older answer that comes late takes no restart back.
    assert_eq!(store.observe(id(1), seen(1)).await.unwrap().restarts, 2);
    let below = BelowTier { readings: 2, since: Some(NOW) };
    store.note_balance(id(1), below).await.unwrap();
    drop(store);
    let record = open(place).await.get(id(1)).await.unwrap().unwrap();
    assert_eq!((record.restarts, record.below), (2, below));
}

pub(crate) async fn a_run_whose_time_is_over_is_stopped_and_one_that_was_given_more_meanwhile_is_not(place: &Place) {
    let store = open(place).await;
    reserved(&store, palatine_store::RunReservation { expiry: expiry(900), ..reservation(1, 1) }).await;
    let placed = store.place(id(1), "one", NOW).await.unwrap().record;
    assert_eq!(placed.expiry, expiry(900));
    for early in [0, 899] {
        let kept = store.expire(id(1), early, NOW).await.unwrap();
        assert_eq!((kept.record, kept.change), (placed.clone(), None), "{early}");
    }
    let given = store.set_expiry(id(1), expiry(1_000)).await.unwrap().unwrap();
    assert_eq!(store.get(id(1)).await.unwrap().unwrap(), given);
    assert_eq!(store.expire(id(1), 999, NOW).await.unwrap().change, None);
    // Without an end, and with one again.
    assert_eq!(store.set_expiry(id(1), None).await.unwrap().unwrap().expiry, None);
    assert_eq!(store.expire(id(1), u64::MAX, NOW).await.unwrap().change, None);
    store.set_expiry(id(1), expiry(1_000)).await.unwrap().unwrap();
    let over = store.expire(id(1), 1_000, NOW.plus(5)).await.unwrap();
    assert_eq!(over.record.state, State::Stopping(EndReason::Stopped(StopReason::Expired)));
    assert_eq!((over.actions, over.change.unwrap().seq), (&[StepEffect::Destroy][..], 3));
    assert_eq!(over.record.generation, Generation::FIRST.next());
    // What is ending is given no more time, and no second end.
    assert_eq!(store.set_expiry(id(1), None).await.unwrap(), None);
    assert_eq!(store.expire(id(1), 2_000, NOW).await.unwrap().change, None);
    let ended = store.end(id(1), None, NOW.plus(6)).await.unwrap().record;
    assert_eq!(ended.state, State::Stopped(StopReason::Expired));
    assert_eq!(store.set_expiry(id(1), expiry(9)).await.unwrap(), None);
    let unknown = store.set_expiry(id(9), None).await.unwrap_err();
    assert!(matches!(unknown, StoreError::Unknown(who) if who == id(9)), "{unknown}");
    drop(store);
    assert_eq!(open(place).await.get(id(1)).await.unwrap().unwrap(), ended);
}

pub(crate) async fn an_ephemeral_run_whose_time_is_over_is_removed(place: &Place) {
    let store = open(place).await;
    let pod = RunPod::New { name: None, ephemeral: true };
    reserved(&store, palatine_store::RunReservation { expiry: expiry(1), pod, ..reservation(1, 1) }).await;
    store.place(id(1), "one", NOW).await.unwrap();
    let over = store.expire(id(1), 1, NOW).await.unwrap().record;
    assert_eq!(over.state, State::Stopping(EndReason::Stopped(StopReason::Removed)));
    store.end(id(1), None, NOW).await.unwrap();
    assert!(store.last_run(self::pod(1)).await.unwrap().is_none());
}

pub(crate) async fn time_is_counted_on_over_restarts_and_machines_and_never_back(place: &Place) {
    let at = |machine: u8, millis: u64| SteadyInstant { boot: [machine; 16], millis };
    let store = open(place).await;
    assert_eq!(store.count_time(at(1, 70_000)).await.unwrap(), 0);
    assert_eq!(store.count_time(at(1, 71_000)).await.unwrap(), 1_000);
    assert_eq!(store.count_time(at(1, 80_000)).await.unwrap(), 10_000);
    drop(store);
    // A gateway that was away, on a machine that was not.
    let store = open(place).await;
    assert_eq!(store.count_time(at(1, 3_680_000)).await.unwrap(), 3_610_000);
    // The machine starts anew, or another one goes on.
    assert_eq!(store.count_time(at(2, 5)).await.unwrap(), 3_610_000);
    assert_eq!(store.count_time(at(2, 6_005)).await.unwrap(), 3_616_000);
    assert_eq!(store.count_time(at(1, 3_680_000)).await.unwrap(), 3_616_000);
    // One that is long behind is forgotten: it goes on from the furthest all the same.
    assert_eq!(store.count_time(at(2, 10_000_005)).await.unwrap(), 13_610_000);
    assert_eq!(store.count_time(at(1, 3_690_000)).await.unwrap(), 13_610_000);
}
