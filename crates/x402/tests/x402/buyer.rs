//! A buyer signs what he knows, and no more than he may.

use std::sync::Arc;

use domain::{Address, B256, Usdc};
use http::{HeaderMap, HeaderValue};
use palatine_x402::*;
use serde_json::{Value, json};

use crate::common::*;

const CAP: Usdc = Usdc(500_000);
const NONCE: B256 = B256::repeat_byte(7);

fn buyer() -> Buyer<Payer> {
    Buyer::new(payer(), tokens(), 600)
}

fn pay(required: &Value, cap: Usdc) -> Result<SignedPayment, BuyError> {
    let mut headers = HeaderMap::new();
    headers.insert(PAYMENT_REQUIRED, HeaderValue::try_from(base64(required)).unwrap());
    buyer().pay(&headers, b"", cap, NOW, NONCE)
}

fn required(accepts: Vec<Value>) -> Value {
    json!({ "x402Version": 2, "resource": { "url": URL }, "accepts": accepts })
}

fn with(field: &str, value: Value) -> Value {
    let mut terms = accepted();
    terms[field] = value;
    terms
}

#[tokio::test]
async fn a_buyer_and_a_seller_agree_in_both_versions() {
    for version in [1, 2] {
        let server = ResourceServer::new();
        funded_payer(&server);
        let asked = server.buy(&HeaderMap::new()).await.unwrap_err();
        let mut headers = asked.headers().clone();
        if version == 1 {
            headers.remove(PAYMENT_REQUIRED);
        }
        let paying = buyer().pay(&headers, asked.body(), CAP, NOW, NONCE).unwrap();
        assert_eq!((paying.amount, paying.payee, paying.valid_before), (PRICE, PAYEE, NOW + 300));
        let sent = HeaderMap::from_iter([paying.header]);
        let answered = server.buy(&sent).await.unwrap();
        assert!(receipt(&answered).is_some(), "version {version}");
        assert_eq!(server.chain.holds(ASSET, PAYEE), PRICE);
    }
}

#[test]
fn the_cheapest_payable_offer_is_taken() {
    let unknown = with("asset", json!(Address::repeat_byte(0xdd)));
    let dear = with("amount", json!("400000"));
    let paying = pay(&required(vec![unknown, dear, accepted()]), CAP).unwrap();
    assert_eq!(paying.amount, PRICE);
}

#[test]
fn nothing_above_the_cap_is_signed() {
    let dear = required(vec![with("amount", json!("500001"))]);
    assert_eq!(pay(&dear, CAP), Err(BuyError::TooDear { asked: Usdc(500_001), cap: CAP }));
    assert_eq!(pay(&required(vec![accepted()]), Usdc(0)), Err(BuyError::TooDear { asked: PRICE, cap: Usdc(0) }));
    assert!(pay(&required(vec![with("amount", json!("500000"))]), CAP).is_ok());
}

#[test]
fn unknown_tokens_chains_schemes_and_domains_are_not_signed_for() {
    for (field, value) in [
        ("asset", json!(Address::repeat_byte(0xdd))),
        ("network", json!("eip155:1")),
        ("network", json!("eip155:25")),
        ("scheme", json!("upto")),
        ("amount", json!("0.01")),
        ("amount", json!("-1")),
        ("payTo", json!(Address::ZERO)),
        ("extra", json!({ "name": "USD Coin", "version": "1" })),
        ("extra", json!({ "name": NAME, "version": "2" })),
        ("extra", json!({ "name": NAME, "version": "1", "assetTransferMethod": "permit2" })),
    ] {
        assert_eq!(pay(&required(vec![with(field, value)]), CAP), Err(BuyError::NoOffer), "{field}");
    }
}

#[test]
fn a_seller_who_states_no_domain_is_paid_in_the_one_we_know() {
    let paying = pay(&required(vec![with("extra", json!({}))]), CAP).unwrap();
    assert_eq!(paying.token.name(), NAME);
}

#[test]
fn a_payment_that_would_be_valid_for_too_long_is_not_signed() {
    let long = required(vec![with("maxTimeoutSeconds", json!(601))]);
    assert_eq!(pay(&long, CAP), Err(BuyError::TooLong { asked_s: 601, limit_s: 600 }));
}

#[test]
fn what_states_no_terms_is_no_offer() {
    let none = HeaderMap::new();
    for body in ["", "{}", "null", "{\"x402Version\":2,\"accepts\":[]}", "[1]"] {
        assert_eq!(buyer().pay(&none, body.as_bytes(), CAP, NOW, NONCE), Err(BuyError::NoTerms), "{body}");
    }
    assert_eq!(pay(&json!({ "x402Version": 2 }), CAP), Err(BuyError::NoOffer));
}

#[test]
fn the_decimal_prices_of_0rcas_sdk_are_read_exactly_or_not_at_all() {
    let challenge = |price: &str| {
        json!({ "accepts": [{
            "scheme": "exact", "network": "eip155:338", "token": ASSET, "resource": "/agent",
            "maxAmountRequired": price, "beneficiary": PAYEE,
        }] })
    };
    let paying = pay(&challenge("2.01"), Usdc(2_010_000)).unwrap();
    assert_eq!((paying.amount, paying.payee, &paying.header.0), (Usdc(2_010_000), PAYEE, &X_PAYMENT));
    for price in ["0.0000001", "1e-2", "", ".5", "2,01"] {
        assert_eq!(pay(&challenge(price), CAP), Err(BuyError::NoOffer), "{price}");
    }
    assert!(matches!(pay(&challenge("0.51"), CAP), Err(BuyError::TooDear { .. })));
}

#[test]
fn a_receipt_that_says_no_is_none() {
    let said = |json: Value| header(&PAYMENT_RESPONSE, &json);
    let tx = B256::repeat_byte(3);
    let good = json!({ "success": true, "transaction": tx, "network": "eip155:338", "payer": PAYEE });
    assert_eq!(receipt(&said(good)), Some(tx));
    let bad = json!({ "success": false, "errorReason": "x", "transaction": tx, "network": "eip155:338" });
    assert_eq!(receipt(&said(bad)), None);
    assert_eq!(receipt(&said(json!({ "success": true }))), None);
    assert_eq!(receipt(&HeaderMap::new()), None);
}

#[test]
fn a_buyer_may_be_shared() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&Arc::new(buyer()));
}
