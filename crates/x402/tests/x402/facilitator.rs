//! Settling for other sellers, in every shape they ask in.

use std::sync::Arc;

use domain::{Address, B256, Usdc};
use palatine_x402::fake::{FakeChain, TransferBehavior};
use palatine_x402::*;
use serde_json::{Value, json};

use crate::common::*;

fn facilitator(server: &ResourceServer, payees: AllowedPayees) -> Facilitator {
    let policy = FacilitatorPolicy { payees, least: Usdc(1000), most: Usdc(1_000_000), max_timeout_s: 300 };
    Facilitator::new(server.settlements.clone(), tokens(), TERMS, policy)
}

fn v1_terms() -> Value {
    json!({
        "scheme": "exact", "network": "cronos-testnet", "maxAmountRequired": PRICE, "resource": URL, "description": "",
        "mimeType": "", "payTo": PAYEE, "maxTimeoutSeconds": 300, "asset": ASSET,
        "extra": { "name": NAME, "version": "1" },
    })
}

/// The same payment in each shape, and how success is told.
fn shapes(payer: &Payer) -> [(Dialect, Value); 3] {
    let signed = authorization(payer);
    let signature = sign_here(payer, &signed);
    let ask = |version, payment| json!({ "x402Version": version, "paymentPayload": payment });
    let mut of_v2 = ask(2, v2(&signed, &signature));
    of_v2["paymentRequirements"] = accepted();
    let mut of_v1 = ask(1, v1(&signed, &signature));
    of_v1["paymentRequirements"] = v1_terms();
    let of_cronos = json!({
        "x402Version": 1, "paymentHeader": base64(&cronos(&signed, &signature)), "paymentRequirements": {
            "scheme": "exact", "network": "cronos-testnet", "payTo": PAYEE, "asset": ASSET,
            "maxAmountRequired": PRICE, "maxTimeoutSeconds": 300,
        },
    });
    [(Dialect::V2, of_v2), (Dialect::V1, of_v1), (Dialect::Cronos, of_cronos)]
}

fn read(answer: &FacilitatorResponse) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

async fn settle(facilitator: &Facilitator, request: &Value) -> (u16, Value) {
    let answer = facilitator.settle(request.to_string().as_bytes(), now(), lease(), CLIENT).await;
    (answer.status, read(&answer))
}

async fn verify(facilitator: &Facilitator, request: &Value) -> (u16, Value) {
    let answer = facilitator.verify(request.to_string().as_bytes(), now(), CLIENT).await;
    (answer.status, read(&answer))
}

#[test]
fn each_chain_is_supported_in_each_version() {
    let said = read(&facilitator(&ResourceServer::new(), AllowedPayees::Anyone).supported());
    let kinds: Vec<_> =
        said["kinds"].as_array().unwrap().iter().map(|kind| kind["network"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["eip155:338", "cronos-testnet", "eip155:25", "cronos-mainnet"]);
    assert_eq!(said["kinds"][0]["x402Version"], 2);
}

#[tokio::test]
async fn every_shape_is_verified_and_settled_in_its_own_words() {
    for at in 0..3 {
        let server = ResourceServer::new();
        let payer = funded_payer(&server);
        let (dialect, request) = shapes(&payer)[at].clone();
        let facilitator = facilitator(&server, AllowedPayees::Only([PAYEE].into()));
        let (status, said) = verify(&facilitator, &request).await;
        assert_eq!(
            (status, &said["isValid"], &said["payer"]),
            (200, &json!(true), &json!(payer.address().to_string()))
        );
        assert_eq!(server.chain.settlements(), 0);
        let (status, said) = settle(&facilitator, &request).await;
        assert_eq!(status, 200, "{said}");
        match dialect {
            Dialect::V2 => assert_eq!((&said["success"], &said["network"]), (&json!(true), &json!("eip155:338"))),
            Dialect::V1 => assert_eq!((&said["success"], &said["network"]), (&json!(true), &json!("cronos-testnet"))),
            Dialect::Cronos => assert_eq!((&said["event"], &said["to"]), (&json!("payment.settled"), &json!(PAYEE))),
        }
        assert_eq!(server.chain.holds(ASSET, PAYEE), PRICE);
    }
}

#[tokio::test]
async fn a_copy_settles_nothing_and_is_no_second_success() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let facilitator = facilitator(&server, AllowedPayees::Anyone);
    let [(_, request), (_, in_v1), _] = shapes(&payer);
    let (_, first) = settle(&facilitator, &request).await;
    for copy in [&request, &in_v1] {
        let (status, said) = settle(&facilitator, copy).await;
        assert_eq!((status, &said["success"]), (200, &json!(false)));
        assert_eq!(
            (&said["errorReason"], &said["transaction"]),
            (&json!("duplicate_settlement"), &first["transaction"])
        );
    }
    let (_, said) = verify(&facilitator, &request).await;
    assert_eq!((&said["isValid"], &said["invalidReason"]), (&json!(false), &json!("duplicate_settlement")));
    assert_eq!(server.chain.settlements(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_concurrent_copies_get_one_success() {
    let server = Arc::new(ResourceServer::new());
    let request = shapes(&funded_payer(&server))[0].1.clone();
    let facilitator = Arc::new(facilitator(&server, AllowedPayees::Anyone));
    let copies = (0..100).map(|_| {
        let (facilitator, request) = (facilitator.clone(), request.clone());
        tokio::spawn(async move { settle(&facilitator, &request).await.1 })
    });
    let mut successes = 0;
    for copy in copies.collect::<Vec<_>>() {
        successes += usize::from(copy.await.unwrap()["success"] == true);
    }
    assert_eq!((successes, server.chain.settlements()), (1, 1));
}

#[tokio::test]
async fn a_payment_settled_for_another_seller_buys_nothing_here() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    settle(&facilitator(&server, AllowedPayees::Anyone), &shapes(&payer)[0].1).await;
    refused_for(InvalidReason::Used, server.buy(&signs_for(&payer, &authorization(&payer))).await);
}

#[tokio::test]
async fn strangers_and_amounts_out_of_bounds_are_not_settled_for() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let request = shapes(&payer)[0].1.clone();
    let only = facilitator(&server, AllowedPayees::Only([Address::repeat_byte(1)].into()));
    let (status, said) = settle(&only, &request).await;
    assert_eq!((status, &said["errorReason"]), (200, &json!("invalid_payment_requirements")));
    let policy = FacilitatorPolicy {
        payees: AllowedPayees::Anyone,
        least: Usdc(10_001),
        most: Usdc(20_000),
        max_timeout_s: 300,
    };
    let dear = Facilitator::new(server.settlements.clone(), tokens(), TERMS, policy);
    assert_eq!(settle(&dear, &request).await.1["success"], false);
    assert_eq!((server.chain.settlements(), server.payments.len()), (0, 0));
}

#[tokio::test]
async fn terms_other_than_the_accepted_ones_are_not_settled() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let facilitator = facilitator(&server, AllowedPayees::Anyone);
    for (field, value) in [
        ("amount", json!("9999")),
        ("payTo", json!(payer.address())),
        ("asset", json!(Address::repeat_byte(0xbb))),
        ("network", json!("eip155:25")),
        ("extra", json!({ "name": "USDC", "version": "2" })),
        ("maxTimeoutSeconds", json!(299)),
    ] {
        let mut request = shapes(&payer)[0].1.clone();
        request["paymentRequirements"][field] = value;
        let (_, said) = verify(&facilitator, &request).await;
        assert_eq!(said["isValid"], false, "{field}");
        assert_eq!(settle(&facilitator, &request).await.1["success"], false, "{field}");
    }
    assert_eq!(server.chain.settlements(), 0);
}

#[tokio::test]
async fn a_payer_without_money_is_told_so() {
    let server = ResourceServer::new();
    let request = shapes(&payer())[0].1.clone();
    let facilitator = facilitator(&server, AllowedPayees::Anyone);
    assert_eq!(verify(&facilitator, &request).await.1["invalidReason"], "insufficient_funds");
    assert_eq!(settle(&facilitator, &request).await.1["errorReason"], "insufficient_funds");
}

#[tokio::test]
async fn what_cannot_be_decided_is_503_and_what_is_no_request_400() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let facilitator = facilitator(&server, AllowedPayees::Anyone);
    server.chain.set_behavior(TransferBehavior::Unavailable);
    let (status, said) = settle(&facilitator, &shapes(&payer)[0].1).await;
    assert_eq!((status, &said["success"], &said["transaction"]), (503, &json!(false), &json!("")));
    // The same may be asked again, and goes on where it was left.
    assert_eq!(verify(&facilitator, &shapes(&payer)[0].1).await.1["isValid"], true);
    server.chain.hide(true);
    let other = Authorization { nonce: B256::repeat_byte(2), ..authorization(&payer) };
    let mut unread = shapes(&payer)[0].1.clone();
    unread["paymentPayload"] = v2(&other, &sign_here(&payer, &other));
    assert_eq!(verify(&facilitator, &unread).await.0, 503);
    server.chain.hide(false);
    server.chain.set_behavior(TransferBehavior::Settles);
    assert_eq!(settle(&facilitator, &shapes(&payer)[0].1).await.1["success"], true);
    let mut both = shapes(&payer)[1].1.clone();
    both["paymentHeader"] = json!("e30=");
    for request in [json!({}), json!([]), json!({ "x402Version": 3 }), both, json!("x".repeat(70_000))] {
        assert_eq!(settle(&facilitator, &request).await.0, 400);
        assert_eq!(verify(&facilitator, &request).await.0, 400);
    }
}

#[tokio::test]
async fn fault_2_8_where_nothing_can_be_decided_it_is_said_when_to_ask_again() {
    for (_, request) in shapes(&payer()) {
        let server = ResourceServer::new();
        let payer = funded_payer(&server);
        let facilitator = facilitator(&server, AllowedPayees::Anyone);
        let (bytes, other) = (request.to_string().into_bytes(), lease());
        let told = |answer: FacilitatorResponse| {
            let said = read(&answer)["retry_after"].as_u64();
            assert_eq!(said, answer.retry_after_s, "{answer:?}");
            (answer.status, said)
        };
        server.chain.hide(true);
        assert_eq!(told(facilitator.settle(&bytes, now(), lease(), CLIENT).await), (503, Some(5)));
        assert_eq!(told(facilitator.verify(&bytes, now(), CLIENT).await), (503, Some(5)));
        server.chain.hide(false);
        // Who cannot send says for how long.
        server.chain.set_behavior(TransferBehavior::Unavailable);
        assert_eq!(
            told(facilitator.settle(&bytes, now(), lease(), CLIENT).await),
            (503, Some(FakeChain::UNAVAILABLE_S))
        );
        server.chain.set_behavior(TransferBehavior::Settles);
        assert_eq!(told(facilitator.settle(b"{}", now(), lease(), CLIENT).await), (400, None));
        // A copy is at work.
        let key = authorization(&payer).key();
        let (begun, _) = server.payments.find(&key).await.unwrap().unwrap();
        server.payments.reserve(&begun, PaymentLease { id: other, until: now().plus(60_000) }, now()).await.unwrap();
        assert_eq!(told(facilitator.settle(&bytes, now(), lease(), CLIENT).await), (409, Some(1)));
        server.payments.release(&key, other).await.unwrap();
        assert_eq!(told(facilitator.settle(&bytes, now(), lease(), CLIENT).await), (200, None));
    }
}

#[tokio::test(start_paused = true)]
async fn case_settle_pending_what_was_sent_and_is_not_mined_is_told_with_its_transaction() {
    for (at, (dialect, request)) in shapes(&payer()).into_iter().enumerate() {
        let server = ResourceServer::new();
        let payer = funded_payer(&server);
        let facilitator = facilitator(&server, AllowedPayees::Anyone);
        server.chain.set_behavior(TransferBehavior::StaysPending);
        let (status, said) = settle(&facilitator, &request).await;
        // Unmodified sellers read `settlement_pending` in a 200 alone, and ask once more.
        let (reason, tx) = match dialect {
            Dialect::Cronos => (&said["error"], &said["txHash"]),
            Dialect::V2 | Dialect::V1 => (&said["errorReason"], &said["transaction"]),
        };
        assert_eq!((status, reason), (200, &json!("settlement_pending")), "{at}: {said}");
        let tx: B256 = tx.as_str().unwrap().parse().unwrap();
        assert_eq!(settle(&facilitator, &request).await.1, said, "a second call says the same");
        assert_eq!(server.chain.execute(&authorization(&payer)).unwrap(), tx);
        let (status, said) = settle(&facilitator, &request).await;
        let settled = said["success"] == true || said["event"] == "payment.settled";
        assert!(status == 200 && settled, "{at}: {said}");
        assert_eq!(server.chain.holds(ASSET, PAYEE), PRICE, "one payment");
    }
}
