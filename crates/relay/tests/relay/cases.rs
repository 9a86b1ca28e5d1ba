//! What calls come to, told truthfully.

use std::time::Duration;

use chain::evm::{Revert, calls};
use palatine_relay::Config;
use palatine_relay::fake::{EPOCH_S, TargetBehavior, TestRequest, TestWallet};
use serde_json::json;
use wire::v1::relay::{CallStatus, RelayAnswer, SignedRequest};

use crate::fixture::{Fixture, HERE, VAULT, ask, code, refusal};

/// Asks again until it is no longer pending.
pub(crate) async fn settled(fixture: &Fixture, signed: &SignedRequest) -> RelayAnswer {
    let ask = async {
        loop {
            let answer = fixture.relay(signed).await.unwrap().body;
            if answer.status != CallStatus::Pending {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ask).await.expect("it ends")
}

fn patient() -> Fixture {
    Fixture::new(Config { wait_ms: 0, per_client_minute: 10_000, ..Config::default() })
}

#[tokio::test]
async fn a_call_that_works_is_told_with_its_transaction() {
    let fixture = Fixture::default();
    let answer = fixture.relay(&fixture.signed(&TestWallet::new(1), 0)).await.unwrap();
    assert_eq!((answer.status, answer.body.success, answer.body.status), (200, true, CallStatus::Executed));
    assert!(answer.body.tx_hash.is_some() && answer.body.fee_taken.is_none() && answer.body.reason.is_none());
}

#[tokio::test]
async fn a_call_that_would_revert_costs_nothing_and_says_why() {
    let fixture = Fixture::default();
    fixture.chain.set_behavior(VAULT, TargetBehavior::Reverts(Revert::ZeroAmount));
    let (status, said) = refusal(fixture.relay(&fixture.signed(&TestWallet::new(1), 0)).await);
    assert_eq!((status, said["error"].as_str()), (400, Some("TX_SIMULATION_FAILED")));
    assert!(said["message"].as_str().unwrap().contains("nothing was asked for"), "{said}");
    assert_eq!(fixture.chain.transactions(), 0);
}

#[tokio::test]
async fn a_call_that_reverts_on_the_chain_is_no_success_and_can_never_be_executed_later() {
    let fixture = Fixture::default();
    fixture.chain.set_behavior(VAULT, TargetBehavior::RevertsWhenMined);
    let signed = fixture.signed(&TestWallet::new(1), 0);
    let answer = fixture.relay(&signed).await.unwrap();
    assert_eq!((answer.status, answer.body.success, answer.body.status), (200, false, CallStatus::Reverted));
    assert!(answer.body.tx_hash.is_some() && answer.body.reason.is_some());
    fixture.chain.set_behavior(VAULT, TargetBehavior::Works);
    assert_eq!(fixture.relay(&signed).await.unwrap(), answer);
    assert!(fixture.chain.effects().is_empty());
    let nonce = fixture.relayer.nonce(&TestWallet::new(1).address().to_string()).await.unwrap();
    assert_eq!(nonce.nonce, "1");
}

#[tokio::test]
async fn what_is_not_mined_in_time_is_a_202_and_the_same_request_asks_again() {
    let fixture = patient();
    let signed = fixture.signed(&TestWallet::new(1), 0);
    fixture.chain.hold(true);
    let answer = fixture.relay(&signed).await.unwrap();
    assert_eq!((answer.status, answer.body.success, answer.body.status), (202, false, CallStatus::Pending));
    fixture.chain.hold(false);
    assert!(settled(&fixture, &signed).await.success);
    assert_eq!(fixture.chain.effects().len(), 1);
}

#[tokio::test]
async fn a_caller_who_goes_away_changes_nothing() {
    let fixture = patient();
    let signed = fixture.signed(&TestWallet::new(1), 0);
    fixture.chain.hold(true);
    drop(tokio::time::timeout(Duration::from_millis(20), fixture.relay(&signed)).await);
    fixture.chain.hold(false);
    assert!(settled(&fixture, &signed).await.success);
}

#[tokio::test]
async fn a_chain_that_goes_away_for_a_while_delays_and_loses_nothing() {
    let fixture = patient();
    let signed = fixture.signed(&TestWallet::new(1), 0);
    fixture.chain.hold(true);
    fixture.relay(&signed).await.unwrap();
    fixture.chain.go_down(true);
    tokio::time::sleep(Duration::from_millis(20)).await;
    fixture.chain.go_down(false);
    fixture.chain.hold(false);
    assert!(settled(&fixture, &signed).await.success);
    assert_eq!((fixture.chain.transactions(), fixture.chain.effects().len()), (1, 1));
}

#[tokio::test]
async fn what_the_chain_drops_has_failed_and_its_nonce_is_free_for_another_request() {
    let fixture = Fixture::default();
    fixture.chain.drop_all(true);
    let signed = fixture.signed(&TestWallet::new(1), 0);
    let answer = fixture.relay(&signed).await.unwrap().body;
    assert_eq!((answer.success, answer.status, answer.tx_hash.clone()), (false, CallStatus::Failed, None));
    fixture.chain.drop_all(false);
    assert_eq!(fixture.relay(&signed).await.unwrap().body, answer);
    let again = TestWallet::new(1).ask(fixture.facts(), &TestRequest { deadline: EPOCH_S + 3601, ..ask(0) });
    assert!(fixture.relay(&again).await.unwrap().body.success);
}

#[tokio::test]
async fn a_request_that_expires_before_it_is_mined_has_failed_and_frees_its_nonce() {
    let fixture = patient();
    let signed = fixture.signed(&TestWallet::new(1), 0);
    fixture.chain.hold(true);
    fixture.relay(&signed).await.unwrap();
    fixture.chain.set_time(EPOCH_S + 7200);
    fixture.chain.hold(false);
    let answer = settled(&fixture, &signed).await;
    assert_eq!((answer.success, answer.status), (false, CallStatus::Failed));
    assert!(fixture.chain.effects().is_empty());
}

#[tokio::test]
async fn a_batch_carries_out_each_signers_requests_in_the_order_of_their_nonces() {
    let fixture = Fixture::default();
    let (one, two) = (TestWallet::new(1), TestWallet::new(2));
    let requests = [fixture.signed(&one, 2), fixture.signed(&two, 0), fixture.signed(&one, 0), fixture.signed(&one, 1)];
    let answer = fixture.batch(&requests).await.unwrap();
    assert_eq!((answer.status, answer.body.success, answer.body.success_count), (200, true, 4));
    let hashes: Vec<_> = answer.body.results.iter().map(|it| it.tx_hash.clone().unwrap()).collect();
    assert_eq!(hashes.iter().collect::<std::collections::HashSet<_>>().len(), 4);
    assert_eq!(fixture.batch(&requests).await.unwrap(), answer);
    assert_eq!(fixture.chain.effects().len(), 4);
}

#[tokio::test]
async fn a_request_that_fails_takes_none_of_another_signer_with_it() {
    let fixture = Fixture::default();
    let bad = alloy_primitives::Address::with_last_byte(9);
    fixture.chain.add_vault(bad);
    fixture.chain.set_behavior(bad, TargetBehavior::RevertsWhenMined);
    let (one, two) = (TestWallet::new(1), TestWallet::new(2));
    let failing = one.ask(fixture.facts(), &TestRequest { to: bad, ..ask(0) });
    let answer = fixture.batch(&[failing, fixture.signed(&two, 0), fixture.signed(&one, 1)]).await.unwrap().body;
    let successes: Vec<bool> = answer.results.iter().map(|it| it.success).collect();
    assert_eq!((answer.success, answer.success_count, successes), (false, 2, vec![false, true, true]));
    assert!(answer.results[0].error.is_some());
}

#[tokio::test]
async fn what_follows_a_request_that_left_its_nonce_unspent_is_not_sent() {
    let fixture = Fixture::default();
    fixture.chain.drop_all(true);
    let wallet = TestWallet::new(1);
    let answer = fixture.batch(&[fixture.signed(&wallet, 0), fixture.signed(&wallet, 1)]).await.unwrap().body;
    assert!(answer.results.iter().all(|it| it.status == CallStatus::Failed));
    assert!(answer.results[1].error.as_ref().unwrap().contains("was not sent"));
}

#[tokio::test]
async fn a_later_request_of_a_batch_that_would_revert_by_then_is_not_sent() {
    let fixture = Fixture::default();
    let bad = alloy_primitives::Address::with_last_byte(9);
    fixture.chain.add_vault(bad);
    fixture.chain.set_behavior(bad, TargetBehavior::Reverts(Revert::ZeroAmount));
    let wallet = TestWallet::new(1);
    let failing = wallet.ask(fixture.facts(), &TestRequest { to: bad, ..ask(1) });
    let answer = fixture.batch(&[fixture.signed(&wallet, 0), failing]).await.unwrap().body;
    assert_eq!((answer.success_count, answer.results[1].status), (1, CallStatus::Failed));
    assert!(answer.results[1].error.as_ref().unwrap().contains("nothing was asked for"), "{answer:?}");
    assert_eq!(fixture.chain.transactions(), 1);
}

#[tokio::test]
async fn a_sponsored_call_is_made_once_and_may_come_again_when_it_had_no_effect() {
    let fixture = Fixture::default();
    let refund = palatine_relay::fake::selector(
        "refund((address,address,address,address,uint96,uint96,uint40,uint32,uint32,uint16,uint16,bytes32,bytes32))",
    );
    let call = json!({"to": VAULT, "data": refund}).to_string();
    let ask = || fixture.relayer.call(call.as_bytes(), None, HERE);
    fixture.chain.set_behavior(VAULT, TargetBehavior::RevertsWhenMined);
    let answer = ask().await.unwrap();
    assert_eq!((answer.status, answer.body.success, answer.body.status), (200, false, CallStatus::Failed));
    fixture.chain.set_behavior(VAULT, TargetBehavior::Works);
    let answer = ask().await.unwrap();
    assert!(answer.body.success);
    assert_eq!(ask().await.unwrap(), answer);
    assert_eq!(fixture.chain.effects().len(), 1);
}

#[tokio::test]
async fn a_sponsored_call_that_would_revert_is_refused_unsent() {
    let fixture = Fixture::default();
    let factory = fixture.facts().factory;
    fixture.chain.set_behavior(factory, TargetBehavior::Reverts(Revert::Silent));
    let consent = calls::DeadlineSignature { deadline: 1, signature: [7; 65].into() };
    let create = calls::create_vault(factory, "pod", VAULT, VAULT, Some(&consent));
    let call = json!({"to": factory, "data": create.data}).to_string();
    assert_eq!(code(fixture.relayer.call(call.as_bytes(), None, HERE).await), "TX_SIMULATION_FAILED");
    let transfer = "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)";
    let call = json!({"to": fixture.facts().token, "data": palatine_relay::fake::selector(transfer)}).to_string();
    assert_eq!(code(fixture.relayer.call(call.as_bytes(), None, HERE).await), "CALL_NOT_ALLOWED");
}
