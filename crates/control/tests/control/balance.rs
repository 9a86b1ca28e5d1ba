use std::time::Duration;

use domain::{State, StopReason, TokenAmount};
use palatine_control::Config;

use crate::house::{Ground, id, pod, wallet};

fn ground() -> Ground {
    let config = Config { recheck_period_s: 10, below_readings: 3, below_grace_s: 25, ..Config::default() };
    Ground { config, ..Ground::default() }
}

#[tokio::test]
async fn a_holder_who_stays_below_the_tier_is_stopped_with_that_reason_and_an_event() {
    let ground = ground();
    let house = ground.house();
    house.spawned(1).await;
    house.spawned(2).await;
    let one_short = TokenAmount(TokenAmount::from_whole(500_000, chain::fake::DECIMALS).0 - 1);
    house.balances.set_raw(wallet(1), one_short);
    house.pass(Duration::from_secs(24)).await;
    assert_eq!(house.state(1).await, State::Ready);
    house.until("it is stopped", async |house| house.is_free(1).await).await;
    assert_eq!(house.state(1).await, State::Stopped(StopReason::Balance));
    let last = house.store.changes(pod(1), 0).await.unwrap().pop().unwrap();
    assert_eq!(wire::public::Reason::of(last.state), Some(wire::public::Reason::Stopped(StopReason::Balance)));
    assert_eq!(house.state(2).await, State::Ready);
    assert_eq!(house.node().running(), [id(2)]);
}

#[tokio::test]
async fn a_balance_that_comes_back_forgives_and_one_that_is_unknown_stops_nobody() {
    let ground = ground();
    let house = ground.house();
    house.spawned(1).await;
    house.balances.set(wallet(1), 0);
    house.pass(Duration::from_secs(20)).await;
    assert!(house.store.get(id(1)).await.unwrap().unwrap().below.readings > 0);
    house.balances.fail(true);
    house.pass(Duration::from_secs(120)).await;
    assert_eq!(house.state(1).await, State::Ready);
    house.balances.set(wallet(1), 500_000);
    house.balances.fail(false);
    house.pass(Duration::from_secs(12)).await;
    assert_eq!(house.store.get(id(1)).await.unwrap().unwrap().below, store::BelowTier::default());
    house.pass(Duration::from_secs(60)).await;
    assert_eq!(house.state(1).await, State::Ready);
}
