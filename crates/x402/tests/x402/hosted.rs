//! The hosted facilitator: its shape, and that its word is not taken.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::routing::post;
use domain::{B256, Usdc};
use palatine_x402::fake::FakeChain;
use palatine_x402::*;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::common::*;

/// What the facilitator was sent.
type Seen = Arc<Mutex<Vec<(HeaderMap, Value)>>>;

/// A facilitator that answers this; it settles nothing.
async fn facilitator(status: u16, answer: String) -> (String, Seen) {
    let seen = Seen::default();
    let kept = seen.clone();
    let handler = move |headers: HeaderMap, body: Bytes| {
        let (kept, answer) = (kept.clone(), answer.clone());
        async move {
            kept.lock().unwrap().push((headers, serde_json::from_slice(&body).unwrap()));
            (axum::http::StatusCode::from_u16(status).unwrap(), answer)
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/v2/x402", listener.local_addr().unwrap());
    let app = Router::new().route("/v2/x402/settle", post(handler));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (base, seen)
}

fn hosted(base: &str, chain: &Arc<FakeChain>) -> HostedFacilitator {
    let _ = rustls::crypto::ring::default_provider().install_default();
    HostedFacilitator::new(base, Duration::from_secs(5), 300, tokens(), chain.clone()).unwrap()
}

fn payment(chain: &FakeChain) -> SignedAuthorization {
    let payer = payer();
    chain.give(ASSET, payer.address(), Usdc(1_000_000));
    let authorization = authorization(&payer);
    SignedAuthorization { authorization, signature: sign_here(&payer, &authorization) }
}

fn settled() -> String {
    json!({
        "x402Version": 1, "event": "payment.settled", "txHash": B256::repeat_byte(5), "from": PAYEE, "to": PAYEE,
        "value": "1", "blockNumber": 17352, "network": "cronos-testnet", "timestamp": "2026-11-04T20:19:11.000Z",
    })
    .to_string()
}

#[tokio::test]
async fn it_is_asked_in_its_own_shape() {
    let chain = Arc::new(FakeChain::default());
    let payment = payment(&chain);
    let (base, seen) = facilitator(200, settled()).await;
    chain.execute(&payment.authorization).unwrap();
    hosted(&base, &chain).transfer(&payment, CLIENT).await.unwrap();
    let (headers, body) = seen.lock().unwrap().pop().unwrap();
    assert_eq!(headers["x402-version"], "1");
    assert_eq!((&body["x402Version"], &body["paymentRequirements"]["network"]), (&json!(1), &json!("cronos-testnet")));
    // Our own facilitator reads it as it is.
    let policy =
        FacilitatorPolicy { payees: AllowedPayees::Anyone, least: Usdc(1), most: Usdc(1_000_000), max_timeout_s: 300 };
    let server = ResourceServer::new();
    server.chain.give(ASSET, payment.authorization.from, Usdc(1_000_000));
    let ours = Facilitator::new(server.settlements.clone(), tokens(), TERMS, policy);
    let answer = ours.verify(body.to_string().as_bytes(), now(), CLIENT).await;
    assert!(String::from_utf8_lossy(&answer.body).contains("\"isValid\":true"));
}

#[tokio::test]
async fn a_facilitator_that_lies_about_success_sells_nothing() {
    let chain = Arc::new(FakeChain::default());
    let payment = payment(&chain);
    let (base, _) = facilitator(200, settled()).await;
    let lying = Arc::new(hosted(&base, &chain));
    assert!(matches!(lying.transfer(&payment, CLIENT).await, Err(TransferError::Unknown(_))));
    let settlements = Arc::new(Settlements::new(Arc::<fake::FakePayments>::default(), lying, chain.clone(), limits(8)));
    let seller = Seller::new(settlements, tokens(), TERMS);
    let quote = quote_at(URL);
    let request = PaidRequestHash::of("GET", URL, b"");
    let order = PricedRequest { quote: &quote, resource: "a", now: now(), client: CLIENT };
    let bound = RequestBinding { request, now: now(), lease: 1 };
    let headers = signs_for(&payer(), &payment.authorization);
    let refusal = answer(seller.sell(order, bound, &headers).await).await.unwrap_err();
    assert_eq!(refusal.status(), 503);
    assert_eq!(chain.holds(ASSET, PAYEE), Usdc(0));
}

#[tokio::test]
async fn a_facilitator_that_lies_about_failure_is_not_believed_either() {
    let chain = Arc::new(FakeChain::default());
    let payment = payment(&chain);
    chain.execute(&payment.authorization).unwrap();
    let (base, _) = facilitator(200, json!({ "event": "payment.failed", "error": "no" }).to_string()).await;
    hosted(&base, &chain).transfer(&payment, CLIENT).await.unwrap();
}

#[tokio::test]
async fn what_it_refuses_is_refused_and_what_it_stammers_is_unknown() {
    let chain = Arc::new(FakeChain::default());
    let payment = payment(&chain);
    for (status, answer) in
        [(200, json!({ "event": "payment.failed", "error": "no funds" })), (400, json!({ "error": "x" }))]
    {
        let (base, _) = facilitator(status, answer.to_string()).await;
        assert!(matches!(hosted(&base, &chain).transfer(&payment, CLIENT).await, Err(TransferError::Refused(_))));
    }
    for answer in
        ["", "{}", "ok", "{\"event\":\"payment.settled\"}", "{\"event\":\"payment.settled\",\"txHash\":\"0x1\"}"]
    {
        let (base, _) = facilitator(200, answer.to_owned()).await;
        assert!(
            matches!(hosted(&base, &chain).transfer(&payment, CLIENT).await, Err(TransferError::Unknown(_))),
            "{answer}"
        );
    }
    let (base, _) = facilitator(200, "x".repeat(70_000)).await;
    assert!(matches!(hosted(&base, &chain).transfer(&payment, CLIENT).await, Err(TransferError::Unknown(_))));
}

#[tokio::test]
async fn a_facilitator_that_is_not_there_or_busy_has_sent_nothing() {
    let chain = Arc::new(FakeChain::default());
    let payment = payment(&chain);
    let (base, _) = facilitator(429, String::new()).await;
    assert!(matches!(hosted(&base, &chain).transfer(&payment, CLIENT).await, Err(TransferError::Unavailable { .. })));
    let nobody = hosted("http://127.0.0.1:1/v2/x402", &chain);
    assert!(matches!(nobody.transfer(&payment, CLIENT).await, Err(TransferError::Unavailable { .. })));
    assert!(HostedFacilitator::new("ftp://x", Duration::from_secs(1), 1, tokens(), chain).is_err());
}
