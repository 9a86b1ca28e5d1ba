use std::collections::BTreeMap;

use domain::{Event, Mark, MarkKind, Meter, StopReason, Tier, UnixMillis, Usage};
use palatine_store::{MarkCursor, MarksOutcome, RunMark, Store};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::help::{NOW, Place, id, open, reservation, reserved, wallet};

const TIER: Tier = Tier {
    min: 500_000,
    cores: 2,
    memory: 2048,
    disk: Tier::DEFAULT_DISK_MIB,
    agents: 1,
    images: None,
    runtimes: domain::RuntimeKinds::MACHINES,
};

fn mark(seq: u64, agent: u64, after_ms: u64, kind: MarkKind) -> RunMark {
    RunMark { run: id(agent), mark: Mark { seq, at: NOW.plus(after_ms), kind } }
}

async fn running(store: &Store, n: u64) {
    reserved(store, reservation(n, n)).await;
    store.place(id(n), "one", NOW).await.unwrap();
}

async fn uptime(store: &Store, holder: u64, after_ms: u64) -> (u64, u64) {
    let (usage, spawns) = store.usage(wallet(holder), NOW.plus(after_ms)).await.unwrap();
    assert_eq!(usage, Usage::of(&TIER, usage.uptime_ms));
    (usage.uptime_ms, spawns)
}

pub(crate) async fn a_running_stretch_counts_up_to_now_and_a_boot_costs_nothing(place: &Place) {
    let store = open(place).await;
    running(&store, 1).await;
    store.count_marks("one", "a", vec![mark(1, 1, 100, MarkKind::Booting)], vec![], NOW).await.unwrap();
    assert_eq!(uptime(&store, 1, 900).await, (0, 0));
    store.count_marks("one", "a", vec![mark(2, 1, 1_000, MarkKind::Ready)], vec![], NOW).await.unwrap();
    assert_eq!(uptime(&store, 1, 4_000).await, (3_000, 1));
    store.count_marks("one", "a", vec![mark(3, 1, 5_000, MarkKind::Unready)], vec![], NOW).await.unwrap();
    assert_eq!(uptime(&store, 1, 90_000).await, (4_000, 1));
    assert_eq!(uptime(&store, 2, 90_000).await, (0, 0));
}

pub(crate) async fn marks_sent_again_or_overlapping_count_once_and_gaps_are_told(place: &Place) {
    let store = open(place).await;
    running(&store, 1).await;
    let first = vec![mark(1, 1, 0, MarkKind::Booting), mark(2, 1, 10, MarkKind::Ready)];
    let counted = store.count_marks("one", "a", first.clone(), vec![], NOW).await.unwrap();
    assert_eq!(counted, MarksOutcome { seq: 2, new: 2, ..MarksOutcome::default() });
    let again = store.count_marks("one", "a", first, vec![], NOW).await.unwrap();
    assert_eq!(again, MarksOutcome { seq: 2, repeated: 2, ..MarksOutcome::default() });
    let later = vec![mark(2, 1, 10, MarkKind::Ready), mark(5, 1, 30, MarkKind::Gone), mark(6, 9, 40, MarkKind::Ready)];
    let counted = store.count_marks("one", "a", later, vec![], NOW).await.unwrap();
    assert_eq!(counted, MarksOutcome { seq: 6, new: 1, repeated: 1, foreign: 1, missing: 2 });
    assert_eq!(store.mark_cursor("one").await.unwrap(), Some(MarkCursor { journal: "a".to_owned(), seq: 6 }));
    assert_eq!(store.mark_cursor("two").await.unwrap(), None);
    assert_eq!(uptime(&store, 1, 99).await, (20, 1));
}

pub(crate) async fn a_node_may_not_bill_an_agent_of_another(place: &Place) {
    let store = open(place).await;
    running(&store, 1).await;
    let counted = store.count_marks("two", "x", vec![mark(1, 1, 0, MarkKind::Ready)], vec![], NOW).await.unwrap();
    assert_eq!((counted.new, counted.foreign), (0, 1));
    assert_eq!(uptime(&store, 1, 5_000).await, (0, 0));
}

pub(crate) async fn an_ended_agent_runs_no_further_and_a_late_mark_makes_its_bill_exact(place: &Place) {
    let store = open(place).await;
    running(&store, 1).await;
    store.count_marks("one", "a", vec![mark(1, 1, 0, MarkKind::Ready)], vec![], NOW).await.unwrap();
    store.advance(id(1), Event::Stop(StopReason::Requested), NOW.plus(1_000)).await.unwrap();
    let ended = store.advance(id(1), Event::Gone, NOW.plus(2_000)).await.unwrap().record;
    assert_eq!(ended.meter.uptime_ms(NOW.plus(99_000)), 2_000);
    assert_eq!(uptime(&store, 1, 99_000).await, (2_000, 1));
    assert_eq!(store.get(id(1)).await.unwrap().unwrap(), ended);
    store.count_marks("one", "a", vec![mark(2, 1, 1_500, MarkKind::Unready)], vec![], NOW).await.unwrap();
    assert_eq!(uptime(&store, 1, 99_000).await, (1_500, 1));
}

pub(crate) async fn a_node_that_lost_its_journal_bills_until_it_was_last_heard(place: &Place) {
    let store = open(place).await;
    running(&store, 1).await;
    store.count_marks("one", "a", vec![mark(7, 1, 0, MarkKind::Ready)], vec![], NOW).await.unwrap();
    store.count_marks("one", "a", vec![], vec![], NOW.plus(60_000)).await.unwrap();
    store.count_marks("one", "b", vec![mark(1, 1, 90_000, MarkKind::Ready)], vec![], NOW.plus(90_000)).await.unwrap();
    assert_eq!(uptime(&store, 1, 100_000).await, (70_000, 1));
    // What the lost journal still has to say was counted when it was said.
    store.count_marks("one", "a", vec![mark(7, 1, 0, MarkKind::Ready)], vec![], NOW.plus(95_000)).await.unwrap();
    assert_eq!(uptime(&store, 1, 100_000).await, (70_000, 1));
}

pub(crate) async fn clocks_at_the_end_of_time_do_not_break_the_bill(place: &Place) {
    let store = open(place).await;
    running(&store, 1).await;
    let lie = RunMark { run: id(1), mark: Mark { seq: 1, at: UnixMillis(u64::MAX), kind: MarkKind::Ready } };
    store.count_marks("one", "a", vec![lie, mark(2, 1, 5, MarkKind::Gone)], vec![], NOW).await.unwrap();
    assert_eq!(uptime(&store, 1, 10).await, (0, 1));
}

#[derive(Clone, Debug)]
enum Turn {
    /// Sends marks from..to of the journal, whatever was sent before.
    Send(usize, usize),
    Reopen,
}

fn kind() -> impl Strategy<Value = MarkKind> {
    prop_oneof![Just(MarkKind::Booting), Just(MarkKind::Ready), Just(MarkKind::Unready), Just(MarkKind::Gone)]
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        9 => (0_usize..40, 1_usize..15).prop_map(|(from, count)| Turn::Send(from, from + count)),
        1 => Just(Turn::Reopen),
    ]
}

/// What a node's journal says, and how it is sent.
fn history() -> impl Strategy<Value = (Vec<(u64, MarkKind, u64)>, Vec<Turn>)> {
    (proptest::collection::vec((0_u64..3, kind(), 0_u64..5_000), 1..40), proptest::collection::vec(turn(), 0..12))
}

pub(crate) async fn every_mark_counts_once_across_replays_overlaps_and_reopenings(place: &Place) {
    let mut runner = TestRunner::default();
    for base in (10..).step_by(10).take(48) {
        // Each history has a node and agents of its own.
        let (story, turns) = history().new_tree(&mut runner).unwrap().current();
        counts_once(place, base, &story, turns).await;
    }
}

async fn counts_once(place: &Place, base: u64, story: &[(u64, MarkKind, u64)], turns: Vec<Turn>) {
    let node = format!("node-{base}");
    let mut at = 0;
    let journal: Vec<RunMark> = (1..)
        .zip(story)
        .map(|(seq, (agent, kind, wait))| {
            at += wait;
            mark(seq, base + *agent, at, *kind)
        })
        .collect();
    let mut store = open(place).await;
    for agent in base..base + 3 {
        reserved(&store, reservation(agent, agent)).await;
        store.place(id(agent), &node, NOW).await.unwrap();
    }
    let mut sent = 0;
    for turn in turns {
        match turn {
            // A node never skips: it sends from at most one past the end.
            Turn::Send(from, to) => {
                let (from, to) = (from.min(sent), to.min(journal.len()));
                let stretch = journal.get(from..to).unwrap_or_default().to_vec();
                sent = sent.max(to);
                store.count_marks(&node, "a", stretch, vec![], NOW).await.unwrap();
            }
            Turn::Reopen => {
                drop(store);
                store = open(place).await;
            }
        }
    }
    store.count_marks(&node, "a", journal[sent..].to_vec(), vec![], NOW).await.unwrap();
    let mut expected: BTreeMap<u64, Meter> = BTreeMap::new();
    for mark in &journal {
        let meter = expected.entry(mark.run.bits()).or_default();
        *meter = meter.count(mark.mark);
    }
    for agent in base..base + 3 {
        let meter = expected.get(&agent).copied().unwrap_or_default();
        let ever = journal.iter().any(|mark| mark.run == id(agent) && mark.mark.kind == MarkKind::Ready);
        let used = uptime(&store, agent, at + 1_000).await;
        assert_eq!(used, (meter.uptime_ms(NOW.plus(at + 1_000)), u64::from(ever)), "{story:?}, agent {agent}");
    }
}
