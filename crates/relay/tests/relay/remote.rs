//! The client, against our relayer and against servers that lie.

use std::time::Duration;

use alloy_primitives::{B256, U256};
use axum::routing::{get, post};
use axum::{Json, Router};
use domain::Usdc;
use palatine_relay::Config;
use palatine_relay::chain::{Chain, ChainParameters};
use palatine_relay::client::{
    ClientError, ForwarderKind, MaxFee, RelayCall, RelayCallSigner, RelayClient, RelayClientConfig,
};
use palatine_relay::fake::{EPOCH_S, TargetBehavior, TestWallet};
use serde_json::{Value, json};
use wire::v1::relay::{CallStatus, EstimateQuery};

use crate::fixture::{CALL, Fixture, VAULT};
use crate::server::{serve, serve_routes};

fn remote(address: std::net::SocketAddr, facts: &ChainParameters) -> RelayClient {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = format!("http://{address}");
    let timeout = Duration::from_secs(10);
    RelayClient::new(RelayClientConfig {
        url,
        timeout,
        forwarder_kind: ForwarderKind::Openzeppelin,
        facts: facts.clone(),
    })
    .unwrap()
}

fn call() -> RelayCall {
    RelayCall { to: VAULT, data: CALL.into(), value: U256::ZERO, gas: 200_000, deadline: EPOCH_S + 3600 }
}

fn allowance(most: u64) -> MaxFee {
    MaxFee { most: Usdc(most), nonce: B256::repeat_byte(7), now_s: EPOCH_S }
}

fn signer(wallet: &TestWallet) -> RelayCallSigner<'_> {
    RelayCallSigner { address: wallet.address(), key: wallet.signer() }
}

#[tokio::test]
async fn calls_are_relayed_one_by_one_and_in_a_batch() {
    let fixture = Fixture::default();
    let remote = remote(serve(fixture.relayer.clone()).await, fixture.facts());
    let wallet = TestWallet::new(1);
    let relayed = remote.relay(signer(&wallet), &call(), &allowance(0), None).await.unwrap();
    assert_eq!((relayed.success, relayed.status, relayed.paid), (true, Some(CallStatus::Executed), None));
    let batch = remote.batch(signer(&wallet), &[call(), call()], &allowance(0), None).await.unwrap();
    assert!(batch.len() == 2 && batch.iter().all(|it| it.success && it.tx.is_some()));
    assert_eq!(remote.nonce(wallet.address()).await.unwrap(), U256::from(3));
    let query = EstimateQuery { to: VAULT.to_string(), data: None, value: None, priority: None };
    assert_eq!(remote.estimate(&query).await.unwrap().gas_estimate, "150000");
    assert_eq!(remote.health().await.unwrap().stats.confirmed, 3);
}

#[tokio::test]
async fn a_fee_is_paid_up_to_the_cap_and_not_beyond() {
    let fixture = Fixture::charging();
    let remote = remote(serve(fixture.relayer.clone()).await, fixture.facts());
    let wallet = TestWallet::new(1);
    fixture.chain.give(wallet.address(), 1_000_000);
    let dear = remote.relay(signer(&wallet), &call(), &allowance(166_799), None).await.unwrap_err();
    assert_eq!(dear, ClientError::TooDear { asked: Usdc(166_800), most: Usdc(166_799) });
    let relayed = remote.relay(signer(&wallet), &call(), &allowance(166_800), None).await.unwrap();
    assert!(relayed.success && relayed.paid == Some(Usdc(166_800)) && relayed.payment_tx.is_some());
    assert_eq!(fixture.chain.usdc(wallet.address()), 1_000_000 - 166_800);
}

#[tokio::test]
async fn a_call_that_reverts_is_told_as_such() {
    let fixture = Fixture::default();
    fixture.chain.set_behavior(VAULT, TargetBehavior::RevertsWhenMined);
    let remote = remote(serve(fixture.relayer.clone()).await, fixture.facts());
    let wallet = TestWallet::new(1);
    let relayed = remote.relay(signer(&wallet), &call(), &allowance(0), None).await.unwrap();
    assert_eq!((relayed.success, relayed.status), (false, Some(CallStatus::Reverted)));
    fixture.chain.set_behavior(VAULT, TargetBehavior::Reverts(chain::evm::Revert::Silent));
    let refused = remote.relay(signer(&wallet), &call(), &allowance(0), None).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { status: 400, code, .. } if code == "TX_SIMULATION_FAILED"));
}

async fn lying_about(change: impl FnOnce(&mut Value)) -> ClientError {
    let fixture = Fixture::default();
    let mut domain = serde_json::to_value(fixture.relayer.domain()).unwrap();
    change(&mut domain);
    let routes = Router::new().route("/meta/domain", get(move || async move { Json(domain) }));
    remote(serve_routes(routes).await, fixture.facts()).domain().await.unwrap_err()
}

#[tokio::test]
async fn nothing_is_signed_for_another_domain() {
    let other = |what| ClientError::OtherDomain(what);
    assert_eq!(lying_about(|it| it["domain"]["chainId"] = json!(25)).await, other("another chain"));
    let address = "0x00000000000000000000000000000000000000aa";
    assert_eq!(lying_about(|it| it["domain"]["verifyingContract"] = json!(address)).await, other("another forwarder"));
    assert_eq!(lying_about(|it| it["forwarderAddress"] = json!(address)).await, other("another forwarder"));
    assert_eq!(lying_about(|it| it["domain"]["name"] = json!("MinimalForwarder")).await, other("another name"));
    assert_eq!(lying_about(|it| it["domain"]["version"] = json!("2")).await, other("another version"));
    let kind = |it: &mut Value| it["types"]["ForwardRequest"][5]["type"] = json!("uint256");
    assert_eq!(lying_about(kind).await, other("another type of request"));
}

/// A server that says what it likes to a relay.
async fn liar(fixture: &Fixture, status: u16, answer: Value) -> RelayClient {
    let domain = fixture.relayer.domain();
    let status = axum::http::StatusCode::from_u16(status).unwrap();
    let routes = Router::new()
        .route("/meta/domain", get(move || async move { Json(domain) }))
        .route("/meta/nonce/{address}", get(async || Json(json!({"address": "0x", "nonce": "0"}))))
        .route("/meta/relay", post(move || async move { (status, Json(answer)) }));
    remote(serve_routes(routes).await, fixture.facts())
}

#[tokio::test]
async fn a_success_that_the_chain_does_not_show_is_a_lie() {
    let fixture = Fixture::default();
    let raw = fixture.chain.broadcast(b"somebody else's transaction").await.unwrap();
    for tx in [raw, B256::repeat_byte(9)] {
        let liar = liar(&fixture, 200, json!({"success": true, "txHash": tx, "result": "0x"})).await;
        let wallet = TestWallet::new(1);
        let proof = liar.relay(signer(&wallet), &call(), &allowance(0), Some(&*fixture.chain)).await;
        assert_eq!(proof, Err(ClientError::Disproved { tx }));
        let believed = liar.relay(signer(&wallet), &call(), &allowance(0), None).await.unwrap();
        assert!(believed.success && !believed.proven);
    }
}

#[tokio::test]
async fn terms_in_another_token_network_or_scheme_are_not_paid() {
    let fixture = Fixture::default();
    let terms = json!({"scheme": "exact", "network": "eip155:338", "asset": fixture.facts().token,
        "payTo": fixture.facts().relayer, "maxAmountRequired": "1", "description": ""});
    let quote = json!({"gasEstimate": "1", "gasPriceGwei": "1", "croPrice": 0.1, "priceUSDC": "0.000001",
        "priority": "normal", "priorityEmoji": "", "estimatedTime": "", "validUntil": ""});
    for (key, value) in [
        ("asset", json!("0x00000000000000000000000000000000000000aa")),
        ("network", json!("eip155:25")),
        ("scheme", json!("upto")),
        ("payTo", json!("me")),
        ("maxAmountRequired", json!("0.1")),
    ] {
        let mut changed = terms.clone();
        changed[key] = value;
        let asked = json!({"error": "Payment Required", "x402": {"version": 1, "accepts": [changed]}, "quote": quote});
        let liar = liar(&fixture, 402, asked).await;
        let wallet = TestWallet::new(1);
        let refused = liar.relay(signer(&wallet), &call(), &allowance(u64::MAX), None).await;
        assert!(matches!(refused, Err(ClientError::OtherTerms(_))), "{key}: {refused:?}");
    }
}

#[tokio::test]
async fn an_endless_or_odd_answer_is_refused() {
    let fixture = Fixture::default();
    let wallet = TestWallet::new(1);
    for answer in [json!("x".repeat(300_000)), json!({"success": "yes"}), json!([])] {
        let liar = liar(&fixture, 200, answer).await;
        let refused = liar.relay(signer(&wallet), &call(), &allowance(0), None).await;
        assert!(matches!(refused, Err(ClientError::Garbage(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_relayer_that_goes_silent_after_the_payment_is_told_with_what_it_may_collect() {
    let fixture = Fixture::new(Config::default());
    let terms = json!({"scheme": "exact", "network": "eip155:338", "asset": fixture.facts().token,
        "payTo": fixture.facts().relayer, "maxAmountRequired": "5"});
    let quote = json!({"gasEstimate": "1", "gasPriceGwei": "1", "croPrice": 0.1, "priceUSDC": "0.000005",
        "priority": "normal", "priorityEmoji": "", "estimatedTime": "", "validUntil": ""});
    let asked = json!({"error": "Payment Required", "x402": {"version": 1, "accepts": [terms]}, "quote": quote});
    let domain = fixture.relayer.domain();
    let routes = Router::new()
        .route("/meta/domain", get(move || async move { Json(domain) }))
        .route("/meta/nonce/{address}", get(async || Json(json!({"address": "0x", "nonce": "0"}))))
        .route(
            "/meta/relay",
            post(move |headers: axum::http::HeaderMap| async move {
                if headers.contains_key("x-payment") {
                    std::future::pending::<()>().await;
                }
                (axum::http::StatusCode::PAYMENT_REQUIRED, Json(asked))
            }),
        );
    let address = serve_routes(routes).await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = RelayClientConfig {
        url: format!("http://{address}"),
        timeout: Duration::from_millis(300),
        forwarder_kind: ForwarderKind::Openzeppelin,
        facts: fixture.facts().clone(),
    };
    let wallet = TestWallet::new(1);
    let silent =
        RelayClient::new(config).unwrap().relay(signer(&wallet), &call(), &allowance(10), None).await.unwrap_err();
    assert!(matches!(silent, ClientError::Unreachable { paid: Some(Usdc(5)), .. }), "{silent:?}");
    assert!(silent.to_string().contains("may yet collect"));
}
