//! Everything at once: a node that loses, delays and repeats, guests that die,
//! holders that come and go. What must always hold is looked at all the time.

use std::collections::HashSet;
use std::time::Duration;

use domain::{FailReason, Meter, State, StopReason};
use palatine_control::fake::{Build, Chaos};
use proptest::prelude::*;
use store::Admission;
use wire::Environment;

use crate::house::{Ground, House, id, wish};

#[derive(Clone, Copy, Debug)]
enum Deed {
    Spawn(u64),
    Stop(u64),
    Crash(u64),
    Fail(u64),
    Down,
    Up,
    Pass(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    let holder = 0_u64..4;
    prop_oneof![
        5 => holder.clone().prop_map(Deed::Spawn),
        3 => holder.clone().prop_map(Deed::Stop),
        2 => holder.clone().prop_map(Deed::Crash),
        1 => holder.prop_map(Deed::Fail),
        1 => Just(Deed::Down),
        2 => Just(Deed::Up),
        4 => (0_u64..3_000).prop_map(Deed::Pass),
    ]
}

/// The agents that each holder ever had, in order; agent ids are `holder * 1000 + n`.
#[derive(Default)]
struct Past(Vec<(u64, u64)>);

impl Past {
    fn latest(&self, holder: u64) -> Option<u64> {
        self.0.iter().rev().find(|(whose, _)| *whose == holder).map(|(_, n)| *n)
    }
}

async fn act(house: &House, past: &mut Past, deed: Deed) {
    let latest = |holder| past.latest(holder).map(id);
    match deed {
        Deed::Spawn(holder) => {
            let n = holder * 1000 + u64::try_from(past.0.len()).unwrap() + 1;
            let admission = house.store.reserve(wish(holder, n, house.now())).await.unwrap();
            if let Admission::Reserved(record) = admission {
                past.0.push((holder, n));
                house.control.spawn_detached(record, Environment::default(), None);
            }
        }
        Deed::Stop(holder) => {
            if let Some(id) = latest(holder) {
                let control = house.control.clone();
                tokio::spawn(async move { control.stop(id, StopReason::Requested).await });
            }
        }
        Deed::Crash(holder) => latest(holder).iter().for_each(|id| house.node().crash(*id)),
        Deed::Fail(holder) => latest(holder).iter().for_each(|id| house.node().fail(*id, FailReason::CrashLoop)),
        Deed::Down => house.node().set_down(true),
        Deed::Up => house.node().set_down(false),
        Deed::Pass(ms) => {
            let end = house.now().plus(ms);
            while house.now() < end {
                hold(house).await;
                house.step().await;
            }
        }
    }
    hold(house).await;
}

/// Nothing runs whose wallet is free: the node was looked at after the store.
async fn hold(house: &House) {
    let before: HashSet<_> = house.node().running().into_iter().collect();
    let live: HashSet<_> = house.store.live().await.unwrap().iter().map(|record| record.id).collect();
    let after: HashSet<_> = house.node().running().into_iter().collect();
    for runs in before.intersection(&after) {
        assert!(live.contains(runs), "{runs} runs, and nobody owns it");
    }
}

/// The node is well again, and time passes: all is as it should be.
async fn rest(house: &House, past: &Past) {
    house.node().set_chaos(Chaos::default());
    house.node().set_down(false);
    house.pass(Duration::from_secs(15)).await;
    house
        .until("everything has come to rest", async |house| {
            let live = house.store.live().await.unwrap();
            live.iter().all(|record| record.state == State::Ready)
        })
        .await;
    let live: HashSet<_> = house.store.live().await.unwrap().iter().map(|record| record.id).collect();
    let running: HashSet<_> = house.node().running().into_iter().collect();
    assert_eq!(live, running);
    let marks = house.node().history();
    for holder in 0..4 {
        let truth: u64 = past
            .0
            .iter()
            .filter(|(whose, _)| *whose == holder)
            .map(|(_, n)| {
                let of_it = marks.iter().filter(|mark| mark.agent == id(*n));
                of_it.fold(Meter::default(), |meter, mark| meter.count(mark.mark)).uptime_ms(house.now())
            })
            .sum();
        assert_eq!(house.uptime(holder).await, truth, "holder {holder}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_node_loses_nothing_runs_unowned_and_bills_are_exact(
        deeds in proptest::collection::vec(deed(), 1..25),
        seed: u64, lose_question in 0_u64..250, lose_answer in 0_u64..250, arrive_late in 0_u64..150,
        boot_ms in 0_u64..2_000, slow_ms in 0_u64..100,
    ) {
        let boot = Some(Duration::from_millis(boot_ms));
        let ground = Ground { builds: vec![Build { boot, page: 3, ..Build::default() }], ..Ground::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let house = ground.house();
            house.node().set_chaos(Chaos {
                lose_question, lose_answer, arrive_late,
                late: Duration::from_millis(seed % 1_500),
                slow: Duration::from_millis(slow_ms),
            });
            let mut past = Past::default();
            for deed in deeds {
                act(&house, &mut past, deed).await;
            }
            rest(&house, &past).await;
        });
    }
}
