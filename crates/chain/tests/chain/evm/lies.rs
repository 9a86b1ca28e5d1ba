//! Endpoints that lie about receipts and logs, hang, cut, flood and lag.

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{hex, keccak256};
use domain::evm::TransactionOutcome;
use domain::{Address, B256, Usdc};
use palatine_chain::evm::fake::{MemoryLedger, MemoryOutbox};
use palatine_chain::evm::{
    BlockTag, CheckedChain, EvmConfig, EvmError, IndexError, Sender, TransactionStatus, VaultStanding, calls,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::ledger::{Pod, catch_up, equals_the_chain};
use super::node::{Fixture, PATIENCE, Person, config};
use super::proxy::{Does, Liar, error, result};

/// Turns a success into a failure, and a failure into a success.
fn turned(method: &str, _: &Value, mut honest: Value) -> Does {
    if method == "eth_getTransactionReceipt" && honest["result"].is_object() {
        let success = honest["result"]["status"] == "0x1";
        honest["result"]["status"] = json!(if success { "0x0" } else { "0x1" });
    }
    Does::Says(honest)
}

/// A transaction that was mined, and the outbox that knows it.
async fn mined(fixture: &Fixture) -> B256 {
    match fixture.tries(&fixture.boss, &calls::approve(fixture.deployed.usdc, Address::repeat_byte(1), Usdc(5))).await {
        Ok(TransactionOutcome::Mined(mined)) => mined.hash,
        other => panic!("not mined: {other:?}"),
    }
}

#[tokio::test]
async fn a_receipt_that_another_endpoint_contradicts_is_not_believed_whoever_is_asked_first() {
    let fixture = Fixture::start().await;
    let hash = mined(&fixture).await;
    let liar = Liar::before(&fixture.anvil.url, turned).await;
    for endpoints in [vec![liar.endpoint(), fixture.anvil.endpoint()], vec![fixture.anvil.endpoint(), liar.endpoint()]]
    {
        let chain = fixture.through(endpoints).await;
        let said = chain.evm.transaction_status(hash).await;
        assert!(matches!(said, Err(EvmError::Disagreement { .. })), "{said:?}");
    }
    liar.lie(false);
    let chain = fixture.through(vec![liar.endpoint(), fixture.anvil.endpoint()]).await;
    assert!(
        matches!(chain.evm.transaction_status(hash).await, Ok(TransactionStatus::Confirmed(confirmed)) if confirmed.mined.success)
    );
}

#[tokio::test]
async fn a_transaction_is_not_settled_by_a_lie_and_is_once_the_lie_ends() {
    let fixture = Fixture::start().await;
    let liar = Liar::before(&fixture.anvil.url, turned).await;
    let chain = fixture.through(vec![liar.endpoint(), fixture.anvil.endpoint()]).await;
    let sender = Sender::start(chain, Arc::new(MemoryOutbox::default()), fixture.boss.key()).await.unwrap();
    let key = "k".parse().unwrap();
    sender.send(&key, &calls::approve(fixture.deployed.usdc, Address::repeat_byte(1), Usdc(5))).await.unwrap();
    let ended = tokio::spawn({
        let (sender, key) = (sender.clone(), key.clone());
        async move { sender.settled(&key).await }
    });
    timeout(PATIENCE, async {
        while !sender.last_error().is_some_and(|last_error| last_error.contains("contradict")) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the contradiction is told");
    assert!(!ended.is_finished());
    liar.lie(false);
    let outcome = timeout(PATIENCE, ended).await.expect("an end").unwrap().unwrap();
    assert!(matches!(outcome, TransactionOutcome::Mined(mined) if mined.success));
}

#[tokio::test]
async fn a_receipt_of_a_transaction_that_never_was_is_caught_even_in_a_lone_endpoint() {
    let fixture = Fixture::start().await;
    let truth = mined(&fixture).await;
    let never = B256::repeat_byte(0x99);
    let receipt = fixture.anvil.call("eth_getTransactionReceipt", json!([truth])).await;
    let liar = Liar::before(&fixture.anvil.url, move |method, params, honest| {
        let invents = method == "eth_getTransactionReceipt" && params[0] == json!(never);
        let mut receipt = receipt.clone();
        receipt["transactionHash"] = json!(never);
        Does::Says(if invents { result(receipt) } else { honest })
    })
    .await;
    let alone = fixture.through(vec![liar.endpoint()]).await;
    let said = alone.evm.transaction_status(never).await;
    assert!(matches!(said, Err(EvmError::Inconsistent { .. })), "{said:?}");
    let two = fixture.through(vec![fixture.anvil.endpoint(), liar.endpoint()]).await;
    let said = two.evm.transaction_status(never).await;
    assert!(matches!(said, Err(EvmError::Inconsistent { .. } | EvmError::Disagreement { .. })), "{said:?}");
}

#[tokio::test]
async fn a_receipt_that_one_endpoint_hides_is_seen_through_another_and_not_yet_counted() {
    let fixture = Fixture::start().await;
    let hash = mined(&fixture).await;
    let hider = Liar::before(&fixture.anvil.url, |method, _, honest| {
        Does::Says(if method == "eth_getTransactionReceipt" { result(Value::Null) } else { honest })
    })
    .await;
    let chain = fixture.through(vec![hider.endpoint(), fixture.anvil.endpoint()]).await;
    let said = chain.evm.transaction_status(hash).await;
    assert!(matches!(said, Err(EvmError::Disagreement { .. })), "{said:?}");
}

#[tokio::test]
async fn a_receipt_counts_only_when_it_is_as_deep_as_asked_for() {
    let fixture = Fixture::start().await;
    let hash = mined(&fixture).await;
    let deep = EvmConfig { confirmations: 3, ..config(&fixture.deployed, vec![fixture.anvil.endpoint()]) };
    let chain = CheckedChain::connect(&deep).await.unwrap();
    assert!(matches!(chain.evm.transaction_status(hash).await, Ok(TransactionStatus::Unconfirmed { .. })));
    fixture.anvil.mine(1).await;
    assert!(matches!(chain.evm.transaction_status(hash).await, Ok(TransactionStatus::Unconfirmed { .. })));
    fixture.anvil.mine(1).await;
    assert!(matches!(chain.evm.transaction_status(hash).await, Ok(TransactionStatus::Confirmed(_))));
    assert_eq!(chain.evm.transaction_status(B256::repeat_byte(1)).await, Ok(TransactionStatus::NotFound));
}

#[tokio::test]
async fn the_agent_wallet_of_a_vault_that_stands_is_no_single_endpoints_word_and_as_deep_as_asked_for() {
    let fixture = Fixture::start().await;
    let (owner, agent) = (Person::new("owner"), Person::new("agent"));
    let told = fixture.chain.vault_of("pod", owner.address()).await.unwrap();
    assert_eq!(fixture.chain.standing(told).await, Ok(VaultStanding::Absent));
    let vault = fixture.vault("pod", &owner, &agent).await;
    let stands = VaultStanding::Confirmed { agent_wallet: agent.address() };
    assert_eq!(fixture.chain.standing(vault).await, Ok(stands));
    let asks = hex::encode_prefixed(&keccak256("agentWallet()")[..4]);
    let liar = Liar::before(&fixture.anvil.url, move |method, params, honest| {
        let asked = method == "eth_call" && params[0]["data"].as_str().is_some_and(|data| data.starts_with(&asks));
        Does::Says(if asked { result(json!(B256::with_last_byte(9))) } else { honest })
    })
    .await;
    for endpoints in [vec![liar.endpoint(), fixture.anvil.endpoint()], vec![fixture.anvil.endpoint(), liar.endpoint()]]
    {
        let said = fixture.through(endpoints).await.standing(vault).await;
        assert!(matches!(said, Err(EvmError::Disagreement { .. })), "{said:?}");
    }
    let deep = EvmConfig { confirmations: 3, ..config(&fixture.deployed, vec![fixture.anvil.endpoint()]) };
    let chain = CheckedChain::connect(&deep).await.unwrap();
    assert_eq!(chain.standing(vault).await, Ok(VaultStanding::Unconfirmed));
    fixture.anvil.mine(2).await;
    assert_eq!(chain.standing(vault).await, Ok(stands));
}

#[tokio::test]
async fn logs_that_two_endpoints_tell_differently_reach_no_ledger() {
    let fixture = Fixture::start().await;
    let pod = Pod::new(&fixture, "pod").await;
    pod.works(&fixture, 1).await;
    let liar = Liar::before(&fixture.anvil.url, |method, _, mut honest| {
        if method == "eth_getLogs" {
            honest["result"].as_array_mut().unwrap().pop();
        }
        Does::Says(honest)
    })
    .await;
    let chain = fixture.through(vec![liar.endpoint(), fixture.anvil.endpoint()]).await;
    let ledger = Arc::new(MemoryLedger::default());
    let refused = catch_up(&chain, &ledger).await.unwrap_err();
    assert!(matches!(refused, IndexError::Evm(EvmError::Disagreement { .. })), "{refused}");
    assert_eq!(ledger.ledger_state().cursor(), None);
    liar.lie(false);
    catch_up(&chain, &ledger).await.unwrap();
    equals_the_chain(&fixture.chain, &ledger.ledger_state()).await;
}

#[tokio::test]
async fn logs_that_a_lone_endpoint_does_not_have_yet_are_missed_by_nobody() {
    let fixture = Fixture::start().await;
    let pod = Pod::new(&fixture, "pod").await;
    pod.works(&fixture, 1).await;
    let lazy = Liar::before(&fixture.anvil.url, |method, params, honest| {
        let by_range = method == "eth_getLogs" && params[0].get("blockHash").is_none();
        Does::Says(if by_range { result(json!([])) } else { honest })
    })
    .await;
    let chain = fixture.through(vec![lazy.endpoint()]).await;
    let ledger = Arc::new(MemoryLedger::default());
    let refused = catch_up(&chain, &ledger).await.unwrap_err();
    assert!(matches!(refused, IndexError::Evm(EvmError::Inconsistent { .. })), "{refused}");
    assert!(ledger.ledger_state().events.is_empty());
    lazy.lie(false);
    catch_up(&chain, &ledger).await.unwrap();
    equals_the_chain(&fixture.chain, &ledger.ledger_state()).await;
}

#[tokio::test]
async fn an_endpoint_that_hangs_cuts_floods_or_errs_is_replaced_by_the_next() {
    let fixture = Fixture::start().await;
    for what in 0..4 {
        let bad = Liar::before(&fixture.anvil.url, move |_, _, _| match what {
            0 => Does::Hangs,
            1 => Does::Cuts,
            2 => Does::Floods,
            _ => Does::Says(error(-32603, "internal")),
        })
        .await;
        let endpoints = vec![bad.endpoint(), fixture.anvil.endpoint()];
        let settings = EvmConfig { quorum: Some(1), timeout_ms: 300, ..config(&fixture.deployed, endpoints) };
        let chain = CheckedChain::connect(&settings).await.unwrap();
        assert!(chain.usdc_of(fixture.boss.address(), BlockTag::Latest).await.is_ok(), "{what}");
    }
}

#[tokio::test]
async fn too_few_endpoints_are_no_answer() {
    let fixture = Fixture::start().await;
    let hash = mined(&fixture).await;
    let dead = Liar::before(&fixture.anvil.url, |_, _, _| Does::Cuts).await;
    dead.lie(false);
    let chain = fixture.through(vec![dead.endpoint(), fixture.anvil.endpoint()]).await;
    dead.lie(true);
    assert!(matches!(chain.evm.agreed_head().await, Err(EvmError::Unknown { .. })));
    assert!(!matches!(chain.evm.transaction_status(hash).await, Ok(TransactionStatus::Confirmed(_))));
    let ledger = Arc::new(MemoryLedger::default());
    let refused = catch_up(&chain, &ledger).await.unwrap_err();
    assert!(matches!(refused, IndexError::Evm(EvmError::Unknown { .. })), "{refused}");
    assert!(dead.heard("eth_blockNumber") > 0);
}

#[tokio::test]
async fn an_endpoint_that_is_behind_holds_up_and_contradicts_nobody() {
    let fixture = Fixture::start().await;
    let pod = Pod::new(&fixture, "pod").await;
    pod.works(&fixture, 1).await;
    let stuck_at = fixture.anvil.height().await;
    let behind = Liar::before(&fixture.anvil.url, move |method, params, honest| {
        let above = |value: &Value| value.as_str().is_some_and(|_| super::node::number(value) > stuck_at);
        Does::Says(match method {
            "eth_blockNumber" => result(json!(format!("{stuck_at:#x}"))),
            "eth_getBlockByNumber" if params[0] != "latest" && above(&params[0]) => result(Value::Null),
            "eth_getLogs" if above(&params[0]["toBlock"]) => result(json!([])),
            "eth_getTransactionReceipt" if above(&honest["result"]["blockNumber"]) => result(Value::Null),
            _ => honest,
        })
    })
    .await;
    let endpoints = vec![behind.endpoint(), fixture.anvil.endpoint(), fixture.anvil.endpoint()];
    let chain = fixture.through(endpoints).await;
    pod.works(&fixture, 3).await;
    let ledger = Arc::new(MemoryLedger::default());
    catch_up(&chain, &ledger).await.unwrap();
    equals_the_chain(&fixture.chain, &ledger.ledger_state()).await;
    let two = fixture.through(vec![behind.endpoint(), fixture.anvil.endpoint()]).await;
    assert_eq!(two.evm.agreed_head().await, Ok(stuck_at));
}

#[tokio::test]
async fn a_head_too_far_behind_the_newest_is_not_gone_by() {
    let fixture = Fixture::start().await;
    let old = fixture.anvil.call("eth_getBlockByNumber", json!(["latest", false])).await;
    fixture.anvil.mine(100).await;
    let stale = Liar::before(&fixture.anvil.url, move |method, params, honest| {
        let head = method == "eth_getBlockByNumber" && params[0] == "latest";
        Does::Says(if head { result(old.clone()) } else { honest })
    })
    .await;
    let chain = fixture.through(vec![fixture.anvil.endpoint(), stale.endpoint()]).await;
    let height = fixture.anvil.height().await;
    assert_eq!(chain.evm.head().await.map(|head| head.number), Ok(height));
    let only =
        EvmConfig { quorum: Some(1), ..config(&fixture.deployed, vec![stale.endpoint(), fixture.anvil.endpoint()]) };
    let chain = CheckedChain::connect(&only).await.unwrap();
    stale.lie(false);
    assert_eq!(chain.evm.head().await.map(|head| head.number), Ok(height));
    stale.lie(true);
    assert_eq!(chain.evm.head().await.map(|head| head.number), Ok(height));
}

#[tokio::test]
async fn a_slow_endpoint_is_waited_for_as_long_as_was_agreed() {
    let fixture = Fixture::start().await;
    let slow = Liar::before(&fixture.anvil.url, |_, _, honest| Does::Late(Duration::from_millis(150), honest)).await;
    let chain = fixture.through(vec![slow.endpoint()]).await;
    assert!(chain.evm.head().await.is_ok());
    let too_early = EvmConfig { timeout_ms: 100, deadline_ms: 400, ..config(&fixture.deployed, vec![slow.endpoint()]) };
    assert!(CheckedChain::connect(&too_early).await.is_err());
}

#[tokio::test]
async fn an_endpoint_that_becomes_another_chain_is_asked_nothing_more() {
    let fixture = Fixture::start().await;
    let liar = Liar::before(&fixture.anvil.url, Liar::other_chain).await;
    liar.lie(false);
    let chain = fixture.through(vec![liar.endpoint()]).await;
    assert!(chain.evm.head().await.is_ok());
    // It fails once, and comes back as another chain.
    let fault = Liar::before(&fixture.anvil.url, |method, _, honest| {
        Does::Says(if method == "eth_chainId" {
            result(json!("0x1"))
        } else {
            drop(honest);
            error(-32603, "restarting")
        })
    })
    .await;
    fault.lie(false);
    let chain = fixture.through(vec![fault.endpoint()]).await;
    fault.lie(true);
    let said = chain.evm.head().await;
    assert!(matches!(&said, Err(EvmError::OtherChain { is: 1, .. })), "{said:?}");
}
