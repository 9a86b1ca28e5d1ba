//! Those who want an answer without paying for it, or two for one payment; and
//! what fails at the worst moment. (See arXiv 2605.11781 and 2605.30998.)

use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::U256;
use domain::{Address, B256, UnixMillis, Usdc};
use http::header::CACHE_CONTROL;
use http::{HeaderMap, StatusCode};
use palatine_x402::fake::{FakeChain, TransferBehavior};
use palatine_x402::*;
use serde_json::json;

use crate::common::*;

#[tokio::test]
async fn a_paid_request_is_answered_once_and_its_payee_has_the_money() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let headers = server.buy(&signs_for(&payer, &authorization(&payer))).await.unwrap();
    assert!(receipt(&headers).is_some());
    assert_eq!(server.chain.holds(ASSET, PAYEE), PRICE);
}

#[tokio::test]
async fn who_brings_no_payment_gets_the_terms_in_both_versions() {
    let server = ResourceServer::new();
    let refusal = server.buy(&HeaderMap::new()).await.unwrap_err();
    assert_eq!(refusal.status(), StatusCode::PAYMENT_REQUIRED);
    assert!(refusal.headers().contains_key(PAYMENT_REQUIRED));
    let body: serde_json::Value = serde_json::from_slice(refusal.body()).unwrap();
    assert_eq!((&body["x402Version"], &body["accepts"][0]["network"]), (&json!(1), &json!("cronos-testnet")));
    assert!(server.payments.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_concurrent_copies_of_one_payment_buy_one_answer() {
    let server = Arc::new(ResourceServer::new());
    let headers = {
        let payer = funded_payer(&server);
        signs_for(&payer, &authorization(&payer))
    };
    let copies = (0..100).map(|_| {
        let (server, headers) = (server.clone(), headers.clone());
        tokio::spawn(async move { server.buy(&headers).await })
    });
    let mut answers = 0;
    for copy in copies.collect::<Vec<_>>() {
        match copy.await.unwrap() {
            Ok(_) => answers += 1,
            Err(refusal) => {
                assert!([StatusCode::PAYMENT_REQUIRED, StatusCode::CONFLICT].contains(&refusal.status()));
            }
        }
    }
    assert_eq!((answers, server.chain.settlements()), (1, 1));
    assert_eq!(server.chain.holds(ASSET, PAYEE), PRICE);
}

#[tokio::test]
async fn a_payment_that_bought_its_answer_buys_no_other() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let headers = signs_for(&payer, &authorization(&payer));
    server.buy(&headers).await.unwrap();
    refused_for(InvalidReason::Used, server.buy(&headers).await);
    // Nor when the record is asked after the payment has expired.
    let late = UnixMillis((NOW + 1000) * 1000);
    refused_for(InvalidReason::ValidBefore, answer(server.ask_for("hello", &headers, late).await).await);
}

#[tokio::test]
async fn a_payment_is_bound_to_the_request_it_came_with() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let headers = signs_for(&payer, &authorization(&payer));
    // Settled, and not yet answered.
    let Ok(permit) = server.ask_for("hello", &headers, now()).await else { panic!("paid") };
    refused_for(InvalidReason::Used, answer(server.ask_for("another question", &headers, now()).await).await);
    refused_for(
        InvalidReason::Used,
        answer(server.ask(&server.quote, "agent-2", "hello", &headers, now()).await).await,
    );
    permit.answer().await.unwrap();
}

#[tokio::test]
async fn a_payment_for_one_resource_does_not_pay_for_another() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let elsewhere = quote_at("https://agent.example/v1/dearer");
    let headers = signs_for(&payer, &authorization(&payer));
    refused_for(
        InvalidReason::Requirements,
        answer(server.ask(&elsewhere, "agent-1", "", &headers, now()).await).await,
    );
    assert_eq!(server.chain.settlements(), 0);
}

#[tokio::test]
async fn terms_that_were_not_offered_are_not_accepted() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    for (field, value) in [
        ("amount", json!("1")),
        ("payTo", json!(payer.address())),
        ("asset", json!(Address::repeat_byte(0xbb))),
        ("maxTimeoutSeconds", json!(100_000)),
        ("extra", json!({ "name": NAME, "version": "2" })),
        ("extra", json!(null)),
    ] {
        let signed = authorization(&payer);
        let mut payment = v2(&signed, &sign_here(&payer, &signed));
        payment["accepted"][field] = value;
        let refusal = server.buy(&header(&PAYMENT_SIGNATURE, &payment)).await.unwrap_err();
        assert_eq!(refusal.status(), StatusCode::PAYMENT_REQUIRED, "{field}");
    }
    assert_eq!((server.chain.settlements(), server.payments.len()), (0, 0));
}

#[tokio::test]
async fn neither_more_nor_less_than_the_price_is_taken() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    for value in [Usdc(0), Usdc(PRICE.0 - 1), Usdc(PRICE.0 + 1), Usdc(u64::MAX)] {
        let signed = Authorization { value, ..authorization(&payer) };
        refused_for(InvalidReason::Value, server.buy(&signs_for(&payer, &signed)).await);
    }
}

#[tokio::test]
async fn a_payment_to_somebody_else_is_not_taken() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let signed = Authorization { to: payer.address(), ..authorization(&payer) };
    refused_for(InvalidReason::Recipient, server.buy(&signs_for(&payer, &signed)).await);
}

#[tokio::test]
async fn a_forged_signature_is_not_taken() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let thief = unfunded_payer(0x66);
    let signed = authorization(&payer);
    let forged = header(&PAYMENT_SIGNATURE, &v2(&signed, &sign_here(&thief, &signed)));
    refused_for(InvalidReason::Signature, server.buy(&forged).await);
    for rs in [(U256::ZERO, U256::ZERO), (U256::MAX, U256::from(1)), (U256::from(1), U256::from(1))] {
        let invalid = alloy_primitives::Signature::new(rs.0, rs.1, false);
        refused_for(InvalidReason::Signature, server.buy(&header(&PAYMENT_SIGNATURE, &v2(&signed, &invalid))).await);
    }
}

#[tokio::test]
async fn the_other_form_of_a_signature_is_no_second_payment() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let signed = authorization(&payer);
    let signature = sign_here(&payer, &signed);
    server.buy(&header(&PAYMENT_SIGNATURE, &v2(&signed, &signature))).await.unwrap();
    let order = U256::from_str_radix("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16).unwrap();
    let other = alloy_primitives::Signature::new(signature.r(), order - signature.s(), !signature.v());
    refused_for(InvalidReason::Signature, server.buy(&header(&PAYMENT_SIGNATURE, &v2(&signed, &other))).await);
}

#[tokio::test]
async fn a_payment_is_valid_in_its_time_only() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let with = |after: u64, before: u64| {
        let (valid_after, valid_before) = (U256::from(after), U256::from(before));
        Authorization { valid_after, valid_before, ..authorization(&payer) }
    };
    for (signed, reason) in [
        (with(NOW, NOW + 300), InvalidReason::ValidAfter),
        (with(NOW + 10, NOW + 300), InvalidReason::ValidAfter),
        (with(0, NOW - 1), InvalidReason::ValidBefore),
        (with(0, NOW + 10), InvalidReason::ValidBefore),
        (with(0, NOW + 331), InvalidReason::ValidBefore),
        (with(0, u64::MAX), InvalidReason::ValidBefore),
    ] {
        refused_for(reason, server.buy(&signs_for(&payer, &signed)).await);
    }
    server.buy(&signs_for(&payer, &with(NOW - 1, NOW + 11))).await.unwrap();
}

#[tokio::test]
async fn a_signature_for_another_chain_is_not_taken() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let signed = authorization(&payer);
    let mainnet = Token::new(25, "cronos-mainnet", ASSET, NAME, "1");
    let abroad = sign(&payer, &mainnet, &signed);
    refused_for(InvalidReason::Signature, server.buy(&header(&PAYMENT_SIGNATURE, &v2(&signed, &abroad))).await);
    let mut payment = v2(&signed, &abroad);
    payment["accepted"]["network"] = json!("eip155:25");
    refused_for(InvalidReason::Network, server.buy(&header(&PAYMENT_SIGNATURE, &payment)).await);
    for network in ["eip155:0338", "eip155:1", "EIP155:338", "solana:338", "eip155:", ""] {
        payment["accepted"]["network"] = json!(network);
        let refusal = server.buy(&header(&PAYMENT_SIGNATURE, &payment)).await.unwrap_err();
        assert!(refusal.status().is_client_error(), "{network}");
    }
    assert_eq!(server.chain.settlements(), 0);
}

#[tokio::test]
async fn another_token_with_the_same_name_is_not_taken() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let twin = Token::new(338, "cronos-testnet", Address::repeat_byte(0xcc), NAME, "1");
    let signed = Authorization { asset: twin.address(), ..authorization(&payer) };
    let mut payment = v2(&signed, &sign(&payer, &twin, &signed));
    refused_for(InvalidReason::Signature, server.buy(&header(&PAYMENT_SIGNATURE, &payment)).await);
    payment["accepted"]["asset"] = json!(twin.address());
    refused_for(InvalidReason::Requirements, server.buy(&header(&PAYMENT_SIGNATURE, &payment)).await);
}

#[tokio::test]
async fn two_payment_headers_are_refused_whatever_they_say() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let signed = authorization(&payer);
    let signature = sign_here(&payer, &signed);
    let good = header(&PAYMENT_SIGNATURE, &v2(&signed, &signature));
    let mut both = good.clone();
    both.extend(header(&X_PAYMENT, &v1(&signed, &signature)));
    let mut twice = good.clone();
    twice.append(PAYMENT_SIGNATURE, good[PAYMENT_SIGNATURE].clone());
    for headers in [both, twice] {
        assert_eq!(server.buy(&headers).await.unwrap_err().status(), StatusCode::BAD_REQUEST);
    }
    server.buy(&good).await.unwrap();
}

#[tokio::test]
async fn what_was_paid_for_is_kept_out_of_shared_caches() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let headers = server.buy(&signs_for(&payer, &authorization(&payer))).await.unwrap();
    assert_eq!(headers[CACHE_CONTROL], "private, no-store");
    assert_eq!(server.buy(&HeaderMap::new()).await.unwrap_err().headers()[CACHE_CONTROL], "no-store");
}

#[tokio::test]
async fn money_for_one_answer_buys_one_of_ten() {
    let server = ResourceServer::new();
    let payer = payer();
    server.chain.give(ASSET, payer.address(), PRICE);
    let mut answers = 0;
    for n in 1..=10 {
        let signed = Authorization { nonce: B256::repeat_byte(n), ..authorization(&payer) };
        match answer(server.ask_for(&n.to_string(), &signs_for(&payer, &signed), now()).await).await {
            Ok(_) => answers += 1,
            outcome => refused_for(InvalidReason::Funds, outcome),
        }
    }
    assert_eq!((answers, server.chain.holds(ASSET, PAYEE)), (1, PRICE));
}

#[tokio::test]
async fn a_payer_who_lacked_money_may_send_the_same_payment_again() {
    let server = ResourceServer::new();
    let payer = payer();
    let headers = signs_for(&payer, &authorization(&payer));
    refused_for(InvalidReason::Funds, server.buy(&headers).await);
    server.chain.give(ASSET, payer.address(), PRICE);
    // What the token said a moment ago is remembered for a moment.
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(refusal) = server.buy(&headers).await {
        refused_for(InvalidReason::Funds, Err(refusal));
        assert!(Instant::now() < deadline, "his money is not seen");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_nonce_that_was_cancelled_or_spent_elsewhere_buys_nothing_and_leaves_no_row() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let cancelled = Authorization { nonce: B256::repeat_byte(1), ..authorization(&payer) };
    server.chain.cancel(cancelled.key());
    refused_for(InvalidReason::Used, server.buy(&signs_for(&payer, &cancelled)).await);
    // Paid to this very payee, but for an answer of another gateway.
    let elsewhere = Authorization { nonce: B256::repeat_byte(2), ..authorization(&payer) };
    server.chain.execute(&elsewhere).unwrap();
    refused_for(InvalidReason::Used, server.buy(&signs_for(&payer, &elsewhere)).await);
    assert_eq!((server.payments.len(), server.chain.settlements()), (0, 0));
}

#[tokio::test]
async fn a_nonce_spent_on_oneself_while_it_settles_buys_nothing() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let signed = authorization(&payer);
    let headers = signs_for(&payer, &signed);
    server.chain.set_behavior(TransferBehavior::UnknownOutcome);
    assert_eq!(server.buy(&headers).await.unwrap_err().status(), StatusCode::SERVICE_UNAVAILABLE);
    server.chain.execute(&Authorization { to: payer.address(), ..signed }).unwrap();
    server.chain.set_behavior(TransferBehavior::Settles);
    refused_for(InvalidReason::Used, server.buy(&headers).await);
    assert_eq!(server.chain.holds(ASSET, PAYEE), Usdc(0));
}

#[tokio::test(start_paused = true)]
async fn a_payment_that_somebody_else_puts_on_the_chain_first_is_paid_all_the_same() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let signed = authorization(&payer);
    server.chain.set_behavior(TransferBehavior::NeverAnswers);
    let buying = server.buy_in_the_background(signs_for(&payer, &signed));
    server.until_settling().await;
    server.chain.execute(&signed).unwrap();
    buying.await.unwrap().unwrap();
    assert_eq!(server.chain.holds(ASSET, PAYEE), PRICE);
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_times_out_and_succeeded_is_found_on_the_chain() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    server.chain.set_behavior(TransferBehavior::SettlesWithoutAnswer);
    server.buy(&signs_for(&payer, &authorization(&payer))).await.unwrap();
    assert_eq!((server.chain.settlements(), server.chain.holds(ASSET, PAYEE)), (1, PRICE));
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_times_out_and_failed_serves_nobody_and_ends_as_failed() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let signed = authorization(&payer);
    let headers = signs_for(&payer, &signed);
    server.chain.set_behavior(TransferBehavior::NeverAnswers);
    let refusal = server.buy(&headers).await.unwrap_err();
    assert_eq!(refusal.status(), StatusCode::SERVICE_UNAVAILABLE);
    server.chain.set_time(NOW + 100);
    assert_eq!(
        server.settlements.reconcile(now(), 10).await.unwrap(),
        ReconcileReport { open: 1, ..ReconcileReport::default() }
    );
    server.chain.set_time(NOW + 300);
    assert_eq!(
        server.settlements.reconcile(now(), 10).await.unwrap(),
        ReconcileReport { failed: 1, ..ReconcileReport::default() }
    );
    server.chain.set_behavior(TransferBehavior::Settles);
    refused_for(InvalidReason::Used, server.buy(&headers).await);
    assert_eq!((server.chain.settlements(), server.chain.holds(ASSET, PAYEE)), (1, Usdc(0)));
}

#[tokio::test(start_paused = true)]
async fn a_settlement_whose_end_nobody_saw_is_served_to_the_retry_even_after_it_expired() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let signed = authorization(&payer);
    let headers = signs_for(&payer, &signed);
    server.chain.set_behavior(TransferBehavior::SettlesWithoutAnswer);
    // The chain settles, and cannot be read when the time-out comes.
    let buying = server.buy_in_the_background(headers.clone());
    server.until_settling().await;
    server.chain.hide(true);
    assert_eq!(buying.await.unwrap().unwrap_err().status(), StatusCode::SERVICE_UNAVAILABLE);
    server.chain.hide(false);
    assert_eq!(
        server.settlements.reconcile(now(), 10).await.unwrap(),
        ReconcileReport { settled: 1, ..ReconcileReport::default() }
    );
    let late = UnixMillis((NOW + 5000) * 1000);
    answer(server.ask_for("hello", &headers, late).await).await.unwrap();
    refused_for(InvalidReason::ValidBefore, answer(server.ask_for("hello", &headers, late).await).await);
    assert_eq!(server.chain.settlements(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_payer_who_hangs_up_while_it_settles_is_served_when_he_comes_back() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let headers = signs_for(&payer, &authorization(&payer));
    server.chain.set_behavior(TransferBehavior::SettlesWithoutAnswer);
    let buying = server.buy_in_the_background(headers.clone());
    server.until_settling().await;
    buying.abort();
    tokio::time::advance(Duration::from_secs(5)).await;
    let key = authorization(&payer).key();
    until(async || matches!(server.payments.find(&key).await, Ok(Some((_, PaymentState::Settled { .. }))))).await;
    // The dead request's lease still holds; then it does not.
    assert_eq!(server.buy(&headers).await.unwrap_err().status(), StatusCode::CONFLICT);
    let later = now().plus(TERMS.lease_ms);
    answer(server.ask_for("hello", &headers, later).await).await.unwrap();
    assert_eq!(server.chain.settlements(), 1);
}

#[tokio::test]
async fn a_crash_between_reserving_and_settling_serves_the_retry_once_and_charges_once() {
    let before = ResourceServer::new();
    let payer = funded_payer(&before);
    let signed = authorization(&payer);
    let payment = SignedAuthorization { authorization: signed, signature: sign_here(&payer, &signed) };
    for sent in [false, true] {
        let (payments, chain) = (Arc::default(), Arc::new(FakeChain::default()));
        chain.give(ASSET, payer.address(), Usdc(1_000_000));
        let server = ResourceServer::over(chain.clone(), payments);
        let request = PaidRequestHash::of("POST", URL, b"hello");
        let reservation = Payment { signed: payment, request, resource: "agent-1".into(), seen_at: now() };
        // What the dead process has done: reserved, and perhaps sent.
        server.payments.reserve(&reservation, PaymentLease { id: 1, until: now().plus(500) }, now()).await.unwrap();
        if sent {
            chain.execute(&signed).unwrap();
        }
        let headers = signs_for(&payer, &signed);
        assert_eq!(server.buy(&headers).await.unwrap_err().status(), StatusCode::CONFLICT);
        answer(server.ask_for("hello", &headers, now().plus(500)).await).await.unwrap();
        refused_for(InvalidReason::Used, answer(server.ask_for("hello", &headers, now().plus(500)).await).await);
        assert_eq!((chain.holds(ASSET, PAYEE), chain.settlements()), (PRICE, usize::from(!sent)));
    }
}

#[tokio::test]
async fn an_answer_whose_payment_was_taken_over_does_not_leave() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let headers = signs_for(&payer, &authorization(&payer));
    let Ok(slow) = server.ask_for("hello", &headers, now()).await else { panic!("paid") };
    let Ok(quick) = server.ask_for("hello", &headers, now().plus(TERMS.lease_ms)).await else { panic!("paid") };
    assert_eq!(slow.answer().await.unwrap_err(), AnswerWithheld::Lost);
    quick.answer().await.unwrap();
    assert_eq!(server.chain.settlements(), 1);
}

#[tokio::test]
async fn an_agent_that_failed_to_answer_owes_the_answer_still() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let headers = signs_for(&payer, &authorization(&payer));
    let Ok(permit) = server.ask_for("hello", &headers, now()).await else { panic!("paid") };
    permit.give_back().await.unwrap();
    server.buy(&headers).await.unwrap();
    refused_for(InvalidReason::Used, server.buy(&headers).await);
    assert_eq!(server.chain.settlements(), 1);
}

#[tokio::test]
async fn with_the_record_out_of_order_nothing_is_charged() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    server.payments.break_down(true);
    let refusal = server.buy(&signs_for(&payer, &authorization(&payer))).await.unwrap_err();
    assert_eq!((refusal.status(), server.chain.settlements()), (StatusCode::SERVICE_UNAVAILABLE, 0));
}

#[tokio::test]
async fn fault_2_2_who_brings_no_payment_or_a_forged_one_is_turned_away_before_the_body() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let refused = async |headers: &HeaderMap| {
        let order = PricedRequest { quote: &server.quote, resource: "agent-1", now: now(), client: CLIENT };
        server.seller.check(order, headers).await.map_err(told).err()
    };
    let terms = refused(&HeaderMap::new()).await.unwrap();
    assert_eq!(terms.status(), StatusCode::PAYMENT_REQUIRED);
    assert!(terms.headers().contains_key(PAYMENT_REQUIRED));
    let authorization = authorization(&payer);
    let other = Authorization { nonce: B256::repeat_byte(8), ..authorization };
    let forged = header(&PAYMENT_SIGNATURE, &v2(&authorization, &sign_here(&payer, &other)));
    refused_for(InvalidReason::Signature, refused(&forged).await.map_or(Ok(HeaderMap::new()), Err));
    assert!(refused(&signs_for(&payer, &authorization)).await.is_none());
    let poor = unfunded_payer(1);
    let unfunded = refused(&signs_for(&poor, &self::authorization(&poor))).await;
    refused_for(InvalidReason::Funds, unfunded.map_or(Ok(HeaderMap::new()), Err));
    assert!(server.payments.is_empty(), "nothing is taken yet");
}

#[tokio::test]
async fn fault_2_8_a_payment_that_was_only_checked_is_not_charged() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let headers = signs_for(&payer, &authorization(&payer));
    let order = PricedRequest { quote: &server.quote, resource: "agent-1", now: now(), client: CLIENT };
    let checked = server.seller.check(order, &headers).await.unwrap();
    // Whatever else the request needed was not to be had.
    drop(checked);
    assert_eq!((server.payments.len(), server.chain.settlements()), (0, 0));
    server.buy(&headers).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn fault_2_8_the_receipt_goes_with_whatever_a_payment_is_answered() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let headers = signs_for(&payer, &authorization(&payer));
    server.chain.set_behavior(TransferBehavior::StaysPending);
    let Err(PaymentRejection::Pending(told)) = server.ask_for("hello", &headers, now()).await else {
        panic!("not mined")
    };
    let said = base64_json(&told[PAYMENT_RESPONSE]);
    assert_eq!((&said["success"], &said["errorReason"]), (&json!(false), &json!("settlement_pending")));
    server.chain.set_behavior(TransferBehavior::Settles);
    let permit = server.ask_for("hello", &headers, now()).await.unwrap();
    // Before it is booked, for an answer that is an error.
    let unbooked = permit.headers();
    assert_eq!(base64_json(&unbooked[PAYMENT_RESPONSE])["success"], true);
    assert_eq!(permit.answer().await.unwrap(), unbooked);
    let again = server.buy(&headers).await.unwrap_err();
    let known = base64_json(&again.headers()[PAYMENT_RESPONSE]);
    let paid = base64_json(&unbooked[PAYMENT_RESPONSE]);
    assert_eq!((&known["errorReason"], &known["transaction"]), (&json!("duplicate_settlement"), &paid["transaction"]));
}

#[tokio::test]
async fn case_x402_bad_header_what_cannot_be_read_is_no_payment() {
    let server = ResourceServer::new();
    for (name, text) in [(PAYMENT_SIGNATURE, "!"), (X_PAYMENT, "e30="), (PAYMENT_SIGNATURE, "bm8gSlNPTg==")] {
        let mut headers = HeaderMap::new();
        headers.insert(name.clone(), text.parse().unwrap());
        let refused = server.ask_for("hello", &headers, now()).await.unwrap_err();
        assert!(matches!(&refused, PaymentRejection::Malformed(header) if *header == name), "{text}: {refused:?}");
    }
    let payer = funded_payer(&server);
    let mut payment = v2(&authorization(&payer), &sign_here(&payer, &authorization(&payer)));
    payment["accepted"]["amount"] = json!("010000");
    let refused = server.ask_for("hello", &header(&PAYMENT_SIGNATURE, &payment), now()).await.unwrap_err();
    assert!(matches!(refused, PaymentRejection::Malformed(_)), "{refused:?}");
}

#[tokio::test]
async fn fault_2_6_a_payer_who_has_spent_his_money_meanwhile_is_not_settled_for_again() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let headers = signs_for(&payer, &authorization(&payer));
    server.chain.set_behavior(TransferBehavior::Unavailable);
    assert_eq!(server.buy(&headers).await.unwrap_err().status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(server.payments.len(), 1, "it has its row");
    server.chain.give(ASSET, payer.address(), Usdc(0));
    server.chain.set_behavior(TransferBehavior::Settles);
    let refused = async || refused_for(InvalidReason::Funds, server.buy(&headers).await);
    let deadline = Instant::now() + Duration::from_secs(10);
    // What the token said a moment ago is remembered for a moment.
    loop {
        let asked = server.chain.settlements();
        refused().await;
        if server.chain.settlements() == asked {
            break;
        }
        assert!(Instant::now() < deadline, "that he holds too little is not seen");
    }
    let asked = server.chain.settlements();
    for _ in 0..10 {
        refused().await;
    }
    assert_eq!(server.chain.settlements(), asked, "whatever he sends, it costs no transfer");
    server.chain.give(ASSET, payer.address(), PRICE);
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.buy(&headers).await.is_err() {
        assert!(Instant::now() < deadline, "his money is not seen");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn fault_2_6_nobody_pays_himself() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let mut quote = quote_at(URL);
    quote.offers[0].pay_to = payer.address();
    let signed = Authorization { to: payer.address(), ..authorization(&payer) };
    let mut payment = v2(&signed, &sign_here(&payer, &signed));
    payment["accepted"]["payTo"] = json!(payer.address());
    let headers = header(&PAYMENT_SIGNATURE, &payment);
    refused_for(
        InvalidReason::SelfPayment,
        answer(server.ask(&quote, "agent-1", "hello", &headers, now()).await).await,
    );
    assert_eq!((server.payments.len(), server.chain.settlements()), (0, 0));
}

#[tokio::test]
async fn fault_2_2_a_payment_that_ran_out_while_its_body_came_is_not_taken() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let headers = signs_for(&payer, &authorization(&payer));
    let order = PricedRequest { quote: &server.quote, resource: "agent-1", now: now(), client: CLIENT };
    let checked = server.seller.check(order, &headers).await.unwrap();
    let late = RequestBinding { now: now().plus(300_000), ..bound(b"hello") };
    refused_for(InvalidReason::ValidBefore, answer(server.seller.take(checked, late).await).await);
    assert_eq!((server.payments.len(), server.chain.settlements()), (0, 0));
}
