use std::collections::BTreeMap;

use domain::{Event, Mark, MarkKind, Meter, StopReason, Tier, UnixMillis, Usage};
use palatine_store::{Counted, Cursor, Store};
use proptest::prelude::*;
use wire::node::AgentMark;

use crate::help::{NOW, id, open, reserved, room, wallet, wish};

const TIER: Tier = Tier { min: 500_000, cores: 2, memory: 2048, disk: Tier::DEFAULT_DISK_MIB };

fn mark(seq: u64, agent: u64, after_ms: u64, kind: MarkKind) -> AgentMark {
    AgentMark { agent: id(agent), mark: Mark { seq, at: NOW.plus(after_ms), kind } }
}

async fn running(store: &Store, n: u64) {
    reserved(store, wish(n, n)).await;
    store.place(id(n), "one", NOW).await.unwrap();
}

async fn uptime(store: &Store, holder: u64, after_ms: u64) -> (u64, u64) {
    let (usage, spawns) = store.usage(wallet(holder), NOW.plus(after_ms)).await.unwrap();
    assert_eq!(usage, Usage::of(&TIER, usage.uptime_ms));
    (usage.uptime_ms, spawns)
}

#[tokio::test]
async fn a_running_stretch_counts_up_to_now_and_a_boot_costs_nothing() {
    let room = room();
    let store = open(&room);
    running(&store, 1).await;
    store.count_marks("one", "a", vec![mark(1, 1, 100, MarkKind::Booting)], NOW).await.unwrap();
    assert_eq!(uptime(&store, 1, 900).await, (0, 0));
    store.count_marks("one", "a", vec![mark(2, 1, 1_000, MarkKind::Ready)], NOW).await.unwrap();
    assert_eq!(uptime(&store, 1, 4_000).await, (3_000, 1));
    store.count_marks("one", "a", vec![mark(3, 1, 5_000, MarkKind::Unready)], NOW).await.unwrap();
    assert_eq!(uptime(&store, 1, 90_000).await, (4_000, 1));
    assert_eq!(uptime(&store, 2, 90_000).await, (0, 0));
}

#[tokio::test]
async fn marks_sent_again_or_overlapping_count_once_and_gaps_are_told() {
    let room = room();
    let store = open(&room);
    running(&store, 1).await;
    let first = vec![mark(1, 1, 0, MarkKind::Booting), mark(2, 1, 10, MarkKind::Ready)];
    let counted = store.count_marks("one", "a", first.clone(), NOW).await.unwrap();
    assert_eq!(counted, Counted { seq: 2, new: 2, ..Counted::default() });
    let again = store.count_marks("one", "a", first, NOW).await.unwrap();
    assert_eq!(again, Counted { seq: 2, repeated: 2, ..Counted::default() });
    let later = vec![mark(2, 1, 10, MarkKind::Ready), mark(5, 1, 30, MarkKind::Gone), mark(6, 9, 40, MarkKind::Ready)];
    let counted = store.count_marks("one", "a", later, NOW).await.unwrap();
    assert_eq!(counted, Counted { seq: 6, new: 1, repeated: 1, foreign: 1, missing: 2 });
    assert_eq!(store.mark_cursor("one").await.unwrap(), Some(Cursor { journal: "a".to_owned(), seq: 6 }));
    assert_eq!(store.mark_cursor("two").await.unwrap(), None);
    assert_eq!(uptime(&store, 1, 99).await, (20, 1));
}

#[tokio::test]
async fn a_node_may_not_bill_an_agent_of_another() {
    let room = room();
    let store = open(&room);
    running(&store, 1).await;
    let counted = store.count_marks("two", "x", vec![mark(1, 1, 0, MarkKind::Ready)], NOW).await.unwrap();
    assert_eq!((counted.new, counted.foreign), (0, 1));
    assert_eq!(uptime(&store, 1, 5_000).await, (0, 0));
}

#[tokio::test]
async fn an_ended_agent_runs_no_further_and_a_late_mark_makes_its_bill_exact() {
    let room = room();
    let store = open(&room);
    running(&store, 1).await;
    store.count_marks("one", "a", vec![mark(1, 1, 0, MarkKind::Ready)], NOW).await.unwrap();
    store.advance(id(1), Event::Stop(StopReason::Requested), NOW.plus(1_000)).await.unwrap();
    let ended = store.advance(id(1), Event::Gone, NOW.plus(2_000)).await.unwrap().record;
    assert_eq!(ended.meter.uptime_ms(NOW.plus(99_000)), 2_000);
    assert_eq!(uptime(&store, 1, 99_000).await, (2_000, 1));
    assert_eq!(store.get(id(1)).await.unwrap().unwrap(), ended);
    store.count_marks("one", "a", vec![mark(2, 1, 1_500, MarkKind::Unready)], NOW).await.unwrap();
    assert_eq!(uptime(&store, 1, 99_000).await, (1_500, 1));
}

#[tokio::test]
async fn a_node_that_lost_its_journal_bills_until_it_was_last_heard() {
    let room = room();
    let store = open(&room);
    running(&store, 1).await;
    store.count_marks("one", "a", vec![mark(7, 1, 0, MarkKind::Ready)], NOW).await.unwrap();
    store.count_marks("one", "a", vec![], NOW.plus(60_000)).await.unwrap();
    store.count_marks("one", "b", vec![mark(1, 1, 90_000, MarkKind::Ready)], NOW.plus(90_000)).await.unwrap();
    assert_eq!(uptime(&store, 1, 100_000).await, (70_000, 1));
    // What the lost journal still has to say was counted when it was said.
    store.count_marks("one", "a", vec![mark(7, 1, 0, MarkKind::Ready)], NOW.plus(95_000)).await.unwrap();
    assert_eq!(uptime(&store, 1, 100_000).await, (70_000, 1));
}

#[tokio::test]
async fn clocks_at_the_end_of_time_do_not_break_the_bill() {
    let room = room();
    let store = open(&room);
    running(&store, 1).await;
    let lie = AgentMark { agent: id(1), mark: Mark { seq: 1, at: UnixMillis(u64::MAX), kind: MarkKind::Ready } };
    store.count_marks("one", "a", vec![lie, mark(2, 1, 5, MarkKind::Gone)], NOW).await.unwrap();
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_mark_counts_once_across_replays_overlaps_and_reopenings(
        story in proptest::collection::vec((0_u64..3, kind(), 0_u64..5_000), 1..40),
        turns in proptest::collection::vec(turn(), 0..12),
    ) {
        let mut at = 0;
        let journal: Vec<AgentMark> = (1..).zip(&story).map(|(seq, (agent, kind, wait))| {
            at += wait;
            mark(seq, *agent, at, *kind)
        }).collect();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let room = room();
            let mut store = open(&room);
            for agent in 0..3 {
                running(&store, agent).await;
            }
            let mut sent = 0;
            for turn in turns {
                match turn {
                    // A node never skips: it sends from at most one past the end.
                    Turn::Send(from, to) => {
                        let (from, to) = (from.min(sent), to.min(journal.len()));
                        let stretch = journal.get(from..to).unwrap_or_default().to_vec();
                        sent = sent.max(to);
                        store.count_marks("one", "a", stretch, NOW).await.unwrap();
                    }
                    Turn::Reopen => {
                        drop(store);
                        store = open(&room);
                    }
                }
            }
            store.count_marks("one", "a", journal[sent..].to_vec(), NOW).await.unwrap();
            let end = NOW.plus(at + 1_000);
            let mut expected: BTreeMap<u64, Meter> = BTreeMap::new();
            for mark in &journal {
                let meter = expected.entry(mark.agent.bits()).or_default();
                *meter = meter.count(mark.mark);
            }
            for agent in 0..3 {
                let meter = expected.get(&agent).copied().unwrap_or_default();
                let ever = journal.iter().any(|mark| mark.agent == id(agent) && mark.mark.kind == MarkKind::Ready);
                let used = uptime(&store, agent, at + 1_000).await;
                assert_eq!(used, (meter.uptime_ms(end), u64::from(ever)), "agent {agent}");
            }
        });
    }
}
