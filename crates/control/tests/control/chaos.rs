//! Everything at once: a node that loses, delays and repeats, guests that die,
//! holders that come and go. What must always hold is looked at all the time.

use std::collections::HashSet;
use std::time::Duration;

use domain::{FailReason, Meter, State, StopReason};
use palatine_control::fake::{Chaos, FakeNodeSpec};
use proptest::prelude::*;

use crate::cluster::{ClusterSetup, TestCluster, id, reservation};

#[derive(Clone, Copy, Debug)]
enum Action {
    Spawn(u64),
    Stop(u64),
    Crash(u64),
    Fail(u64),
    Down,
    Up,
    Pass(u64),
}

fn action() -> impl Strategy<Value = Action> {
    let holder = 0_u64..4;
    prop_oneof![
        5 => holder.clone().prop_map(Action::Spawn),
        3 => holder.clone().prop_map(Action::Stop),
        2 => holder.clone().prop_map(Action::Crash),
        1 => holder.prop_map(Action::Fail),
        1 => Just(Action::Down),
        2 => Just(Action::Up),
        4 => (0_u64..3_000).prop_map(Action::Pass),
    ]
}

/// The agents that each holder ever had, in order; agent ids are `holder * 1000 + n`.
#[derive(Default)]
struct History(Vec<(u64, u64)>);

impl History {
    fn latest(&self, holder: u64) -> Option<u64> {
        self.0.iter().rev().find(|(whose, _)| *whose == holder).map(|(_, n)| *n)
    }
}

async fn act(cluster: &TestCluster, history: &mut History, action: Action) {
    let latest = |holder| history.latest(holder).map(id);
    match action {
        Action::Spawn(holder) => {
            let n = holder * 1000 + u64::try_from(history.0.len()).unwrap() + 1;
            if cluster.order_run(reservation(holder, n, cluster.now())).await.is_some() {
                history.0.push((holder, n));
            }
        }
        Action::Stop(holder) => {
            if let Some(id) = latest(holder) {
                let control = cluster.control.clone();
                tokio::spawn(async move { control.stop(id, StopReason::Requested).await });
            }
        }
        Action::Crash(holder) => latest(holder).iter().for_each(|id| cluster.node().crash(*id)),
        Action::Fail(holder) => latest(holder).iter().for_each(|id| cluster.node().fail(*id, FailReason::CrashLoop)),
        Action::Down => cluster.node().set_down(true),
        Action::Up => cluster.node().set_down(false),
        Action::Pass(ms) => {
            let end = cluster.now().plus(ms);
            while cluster.now() < end {
                assert_owned(cluster).await;
                cluster.step().await;
            }
        }
    }
    assert_owned(cluster).await;
}

/// Nothing runs whose wallet is free: the node was looked at after the store.
async fn assert_owned(cluster: &TestCluster) {
    let before: HashSet<_> = cluster.node().running().into_iter().collect();
    let live: HashSet<_> = cluster.store.live().await.unwrap().iter().map(|record| record.id).collect();
    let after: HashSet<_> = cluster.node().running().into_iter().collect();
    for runs in before.intersection(&after) {
        assert!(live.contains(runs), "{runs} runs, and nobody owns it");
    }
}

/// The node is well again, and time passes: all is as it should be.
async fn settle(cluster: &TestCluster, history: &History) {
    cluster.node().set_chaos(Chaos::default());
    cluster.node().set_down(false);
    cluster.pass(Duration::from_secs(15)).await;
    cluster
        .until("everything has come to rest", async |cluster| {
            let live = cluster.store.live().await.unwrap();
            live.iter().all(|record| record.state == State::Ready)
        })
        .await;
    let live: HashSet<_> = cluster.store.live().await.unwrap().iter().map(|record| record.id).collect();
    let running: HashSet<_> = cluster.node().running().into_iter().collect();
    assert_eq!(live, running);
    let marks = cluster.node().history();
    for holder in 0..4 {
        let truth: u64 = history
            .0
            .iter()
            .filter(|(whose, _)| *whose == holder)
            .map(|(_, n)| {
                let of_it = marks.iter().filter(|mark| mark.agent == id(*n));
                of_it.fold(Meter::default(), |meter, mark| meter.count(mark.mark)).uptime_ms(cluster.now())
            })
            .sum();
        assert_eq!(cluster.uptime(holder).await, truth, "holder {holder}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_node_loses_nothing_runs_unowned_and_bills_are_exact(
        actions in proptest::collection::vec(action(), 1..25),
        seed: u64, lose_question in 0_u64..250, lose_answer in 0_u64..250, arrive_late in 0_u64..150,
        boot_ms in 0_u64..2_000, slow_ms in 0_u64..100,
    ) {
        let boot = Some(Duration::from_millis(boot_ms));
        let spec = FakeNodeSpec { boot, page: 3, ..FakeNodeSpec::default() };
        let setup = ClusterSetup { nodes: vec![spec], ..ClusterSetup::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let cluster = setup.start();
            cluster.node().set_chaos(Chaos {
                lose_question, lose_answer, arrive_late,
                late: Duration::from_millis(seed % 1_500),
                slow: Duration::from_millis(slow_ms),
            });
            let mut history = History::default();
            for action in actions {
                act(&cluster, &mut history, action).await;
            }
            settle(&cluster, &history).await;
        });
    }
}
