//! What calls come to, told truthfully.

use std::time::Duration;

use chain::evm::{Revert, calls};
use palatine_relay::Config;
use palatine_relay::fake::{Ask, EPOCH_S, Manner, Wallet};
use serde_json::json;
use wire::relay::{RelayAnswer, SignedRequest, Status};

use crate::bench::{Bench, HERE, VAULT, ask, code, refusal};

/// Asks again until it is no longer pending.
pub(crate) async fn settled(bench: &Bench, signed: &SignedRequest) -> RelayAnswer {
    let ask = async {
        loop {
            let answer = bench.relay(signed).await.unwrap().body;
            if answer.status != Status::Pending {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ask).await.expect("it ends")
}

fn patient() -> Bench {
    Bench::new(Config { wait_ms: 0, per_client_minute: 10_000, ..Config::default() })
}

#[tokio::test]
async fn a_call_that_works_is_told_with_its_transaction() {
    let bench = Bench::default();
    let answer = bench.relay(&bench.signed(&Wallet::new(1), 0)).await.unwrap();
    assert_eq!((answer.status, answer.body.success, answer.body.status), (200, true, Status::Executed));
    assert!(answer.body.tx_hash.is_some() && answer.body.fee_taken.is_none() && answer.body.reason.is_none());
}

#[tokio::test]
async fn a_call_that_would_revert_costs_nothing_and_says_why() {
    let bench = Bench::default();
    bench.chain.set_manner(VAULT, Manner::Reverts(Revert::ZeroAmount));
    let (status, said) = refusal(bench.relay(&bench.signed(&Wallet::new(1), 0)).await);
    assert_eq!((status, said["error"].as_str()), (400, Some("TX_SIMULATION_FAILED")));
    assert!(said["message"].as_str().unwrap().contains("nothing was asked for"), "{said}");
    assert_eq!(bench.chain.transactions(), 0);
}

#[tokio::test]
async fn a_call_that_reverts_on_the_chain_is_no_success_and_can_never_be_executed_later() {
    let bench = Bench::default();
    bench.chain.set_manner(VAULT, Manner::RevertsWhenMined);
    let signed = bench.signed(&Wallet::new(1), 0);
    let answer = bench.relay(&signed).await.unwrap();
    assert_eq!((answer.status, answer.body.success, answer.body.status), (200, false, Status::Reverted));
    assert!(answer.body.tx_hash.is_some() && answer.body.reason.is_some());
    bench.chain.set_manner(VAULT, Manner::Works);
    assert_eq!(bench.relay(&signed).await.unwrap(), answer);
    assert!(bench.chain.effects().is_empty());
    let nonce = bench.relayer.nonce(&Wallet::new(1).address().to_string()).await.unwrap();
    assert_eq!(nonce.nonce, "1");
}

#[tokio::test]
async fn what_is_not_mined_in_time_is_a_202_and_the_same_request_asks_again() {
    let bench = patient();
    let signed = bench.signed(&Wallet::new(1), 0);
    bench.chain.hold(true);
    let answer = bench.relay(&signed).await.unwrap();
    assert_eq!((answer.status, answer.body.success, answer.body.status), (202, false, Status::Pending));
    bench.chain.hold(false);
    assert!(settled(&bench, &signed).await.success);
    assert_eq!(bench.chain.effects().len(), 1);
}

#[tokio::test]
async fn a_caller_who_goes_away_changes_nothing() {
    let bench = patient();
    let signed = bench.signed(&Wallet::new(1), 0);
    bench.chain.hold(true);
    drop(tokio::time::timeout(Duration::from_millis(20), bench.relay(&signed)).await);
    bench.chain.hold(false);
    assert!(settled(&bench, &signed).await.success);
}

#[tokio::test]
async fn a_chain_that_goes_away_for_a_while_delays_and_loses_nothing() {
    let bench = patient();
    let signed = bench.signed(&Wallet::new(1), 0);
    bench.chain.hold(true);
    bench.relay(&signed).await.unwrap();
    bench.chain.go_down(true);
    tokio::time::sleep(Duration::from_millis(20)).await;
    bench.chain.go_down(false);
    bench.chain.hold(false);
    assert!(settled(&bench, &signed).await.success);
    assert_eq!((bench.chain.transactions(), bench.chain.effects().len()), (1, 1));
}

#[tokio::test]
async fn what_the_chain_drops_has_failed_and_its_nonce_is_free_for_another_request() {
    let bench = Bench::default();
    bench.chain.drop_all(true);
    let signed = bench.signed(&Wallet::new(1), 0);
    let answer = bench.relay(&signed).await.unwrap().body;
    assert_eq!((answer.success, answer.status, answer.tx_hash.clone()), (false, Status::Failed, None));
    bench.chain.drop_all(false);
    assert_eq!(bench.relay(&signed).await.unwrap().body, answer);
    let again = Wallet::new(1).ask(bench.facts(), &Ask { deadline: EPOCH_S + 3601, ..ask(0) });
    assert!(bench.relay(&again).await.unwrap().body.success);
}

#[tokio::test]
async fn a_request_that_expires_before_it_is_mined_has_failed_and_frees_its_nonce() {
    let bench = patient();
    let signed = bench.signed(&Wallet::new(1), 0);
    bench.chain.hold(true);
    bench.relay(&signed).await.unwrap();
    bench.chain.set_time(EPOCH_S + 7200);
    bench.chain.hold(false);
    let answer = settled(&bench, &signed).await;
    assert_eq!((answer.success, answer.status), (false, Status::Failed));
    assert!(bench.chain.effects().is_empty());
}

#[tokio::test]
async fn a_batch_carries_out_each_signers_requests_in_the_order_of_their_nonces() {
    let bench = Bench::default();
    let (one, two) = (Wallet::new(1), Wallet::new(2));
    let requests = [bench.signed(&one, 2), bench.signed(&two, 0), bench.signed(&one, 0), bench.signed(&one, 1)];
    let answer = bench.batch(&requests).await.unwrap();
    assert_eq!((answer.status, answer.body.success, answer.body.success_count), (200, true, 4));
    let hashes: Vec<_> = answer.body.results.iter().map(|it| it.tx_hash.clone().unwrap()).collect();
    assert_eq!(hashes.iter().collect::<std::collections::HashSet<_>>().len(), 4);
    assert_eq!(bench.batch(&requests).await.unwrap(), answer);
    assert_eq!(bench.chain.effects().len(), 4);
}

#[tokio::test]
async fn a_request_that_fails_takes_none_of_another_signer_with_it() {
    let bench = Bench::default();
    let bad = alloy_primitives::Address::with_last_byte(9);
    bench.chain.add_vault(bad);
    bench.chain.set_manner(bad, Manner::RevertsWhenMined);
    let (one, two) = (Wallet::new(1), Wallet::new(2));
    let failing = one.ask(bench.facts(), &Ask { to: bad, ..ask(0) });
    let answer = bench.batch(&[failing, bench.signed(&two, 0), bench.signed(&one, 1)]).await.unwrap().body;
    let successes: Vec<bool> = answer.results.iter().map(|it| it.success).collect();
    assert_eq!((answer.success, answer.success_count, successes), (false, 2, vec![false, true, true]));
    assert!(answer.results[0].error.is_some());
}

#[tokio::test]
async fn what_follows_a_request_that_left_its_nonce_unspent_is_not_sent() {
    let bench = Bench::default();
    bench.chain.drop_all(true);
    let wallet = Wallet::new(1);
    let answer = bench.batch(&[bench.signed(&wallet, 0), bench.signed(&wallet, 1)]).await.unwrap().body;
    assert!(answer.results.iter().all(|it| it.status == Status::Failed));
    assert!(answer.results[1].error.as_ref().unwrap().contains("was not sent"));
}

#[tokio::test]
async fn a_later_request_of_a_batch_that_would_revert_by_then_is_not_sent() {
    let bench = Bench::default();
    let bad = alloy_primitives::Address::with_last_byte(9);
    bench.chain.add_vault(bad);
    bench.chain.set_manner(bad, Manner::Reverts(Revert::ZeroAmount));
    let wallet = Wallet::new(1);
    let failing = wallet.ask(bench.facts(), &Ask { to: bad, ..ask(1) });
    let answer = bench.batch(&[bench.signed(&wallet, 0), failing]).await.unwrap().body;
    assert_eq!((answer.success_count, answer.results[1].status), (1, Status::Failed));
    assert!(answer.results[1].error.as_ref().unwrap().contains("nothing was asked for"), "{answer:?}");
    assert_eq!(bench.chain.transactions(), 1);
}

#[tokio::test]
async fn a_sponsored_call_is_made_once_and_may_come_again_when_it_had_no_effect() {
    let bench = Bench::default();
    let refund = palatine_relay::fake::selector(
        "refund((address,address,address,address,uint96,uint96,uint40,uint32,uint32,uint16,uint16,bytes32,bytes32))",
    );
    let call = json!({"to": VAULT, "data": refund}).to_string();
    let ask = || bench.relayer.call(call.as_bytes(), None, HERE);
    bench.chain.set_manner(VAULT, Manner::RevertsWhenMined);
    let answer = ask().await.unwrap();
    assert_eq!((answer.status, answer.body.success, answer.body.status), (200, false, Status::Failed));
    bench.chain.set_manner(VAULT, Manner::Works);
    let answer = ask().await.unwrap();
    assert!(answer.body.success);
    assert_eq!(ask().await.unwrap(), answer);
    assert_eq!(bench.chain.effects().len(), 1);
}

#[tokio::test]
async fn a_sponsored_call_that_would_revert_is_refused_unsent() {
    let bench = Bench::default();
    let factory = bench.facts().factory;
    bench.chain.set_manner(factory, Manner::Reverts(Revert::Silent));
    let consent = calls::Consent { deadline: 1, signature: [7; 65].into() };
    let create = calls::create_vault(factory, "pod", VAULT, VAULT, Some(&consent));
    let call = json!({"to": factory, "data": create.data}).to_string();
    assert_eq!(code(bench.relayer.call(call.as_bytes(), None, HERE).await), "TX_SIMULATION_FAILED");
    let transfer = "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)";
    let call = json!({"to": bench.facts().token, "data": palatine_relay::fake::selector(transfer)}).to_string();
    assert_eq!(code(bench.relayer.call(call.as_bytes(), None, HERE).await), "CALL_NOT_ALLOWED");
}
