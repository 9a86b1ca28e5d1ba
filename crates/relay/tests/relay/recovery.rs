//! A process that ends, and the next that takes up what it left.

use std::sync::Arc;

use palatine_relay::fake::{MemoryJournal, TestWallet};
use palatine_relay::{Config, FeePolicy};
use wire::v1::relay::CallStatus;

use crate::cases::settled;
use crate::fixture::{Fixture, ask};

fn hasty(fee: FeePolicy) -> Config {
    Config { wait_ms: 0, per_client_minute: 10_000, fee, ..Config::default() }
}

#[tokio::test]
async fn what_was_taken_on_is_carried_out_by_the_next_process_once() {
    let before = Fixture::new(hasty(FeePolicy::Waived));
    before.chain.hold(true);
    let wallet = TestWallet::new(1);
    let requests = [before.signed(&wallet, 0), before.signed(&wallet, 1), before.signed(&TestWallet::new(2), 0)];
    assert_eq!(before.batch(&requests).await.unwrap().status, 202);
    before.chain.go_down(true);
    let left = Arc::new(MemoryJournal::with(before.journal.state()));
    let after = Fixture::over(hasty(FeePolicy::Waived), before.chain.clone(), left);
    before.chain.go_down(false);
    before.chain.hold(false);
    assert_eq!(after.relayer.resume().await.unwrap(), 3);
    for request in &requests {
        assert!(settled(&after, request).await.success);
    }
    assert_eq!(after.chain.effects().len(), 3);
    assert_eq!(after.relayer.resume().await.unwrap(), 0);
}

#[tokio::test]
async fn a_fee_that_was_taken_by_one_process_is_not_taken_again_by_the_next() {
    let before = Fixture::new(hasty(FeePolicy::Charged));
    let payer = TestWallet::new(1);
    before.chain.give(payer.address(), 100_000_000);
    let signed = payer.ask(before.facts(), &ask(0));
    let terms = before.terms(&signed).await.x402.accepts.remove(0);
    before.chain.hold(true);
    let header = payer.pay(before.facts(), &terms, 1);
    assert_eq!(before.relay_paid(&signed, Some(&header)).await.unwrap().body.status, CallStatus::Pending);
    let left = Arc::new(MemoryJournal::with(before.journal.state()));
    let after = Fixture::over(hasty(FeePolicy::Charged), before.chain.clone(), left);
    before.chain.hold(false);
    after.relayer.resume().await.unwrap();
    let answer = settled(&after, &signed).await;
    assert!(answer.success && answer.fee_taken == Some(terms.max_amount_required.clone()));
    let fee: u64 = terms.max_amount_required.parse().unwrap();
    assert_eq!(after.chain.usdc(payer.address()), 100_000_000 - fee);
    assert_eq!(after.chain.effects().len(), 1);
}
