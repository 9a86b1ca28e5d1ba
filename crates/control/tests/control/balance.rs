use std::time::Duration;

use domain::{State, StopReason, TokenAmount};
use palatine_control::Config;

use crate::cluster::{ClusterSetup, id, pod, wallet};

fn setup() -> ClusterSetup {
    let config = Config { recheck_period_s: 10, below_readings: 3, below_grace_s: 25, ..Config::default() };
    ClusterSetup { config, ..ClusterSetup::default() }
}

#[tokio::test]
async fn a_holder_who_stays_below_the_tier_is_stopped_with_that_reason_and_an_event() {
    let setup = setup();
    let cluster = setup.start();
    cluster.spawned(1).await;
    cluster.spawned(2).await;
    let one_short = TokenAmount(TokenAmount::from_whole(500_000, chain::fake::DECIMALS).0 - 1);
    cluster.balances.set_raw(wallet(1), one_short);
    cluster.pass(Duration::from_secs(24)).await;
    assert_eq!(cluster.state(1).await, State::Ready);
    cluster.until("it is stopped", async |cluster| cluster.is_free(1).await).await;
    assert_eq!(cluster.state(1).await, State::Stopped(StopReason::Balance));
    let last = cluster.store.changes(pod(1), 0).await.unwrap().pop().unwrap();
    assert_eq!(wire::v1::public::Reason::of(last.state), Some(wire::v1::public::Reason::Stopped(StopReason::Balance)));
    assert_eq!(cluster.state(2).await, State::Ready);
    assert_eq!(cluster.node().running(), [id(2)]);
}

#[tokio::test]
async fn a_balance_that_comes_back_forgives_and_one_that_is_unknown_stops_nobody() {
    let setup = setup();
    let cluster = setup.start();
    cluster.spawned(1).await;
    cluster.balances.set(wallet(1), 0);
    cluster.pass(Duration::from_secs(20)).await;
    assert!(cluster.store.get(id(1)).await.unwrap().unwrap().below.readings > 0);
    cluster.balances.fail(true);
    cluster.pass(Duration::from_secs(120)).await;
    assert_eq!(cluster.state(1).await, State::Ready);
    cluster.balances.set(wallet(1), 500_000);
    cluster.balances.fail(false);
    cluster.pass(Duration::from_secs(12)).await;
    assert_eq!(cluster.store.get(id(1)).await.unwrap().unwrap().below, store::BelowTier::default());
    cluster.pass(Duration::from_secs(60)).await;
    assert_eq!(cluster.state(1).await, State::Ready);
}
