//! What each may take of the places for payments, and what is said when none can be
//! taken.

use std::sync::Arc;
use std::time::Duration;

use domain::B256;
use http::StatusCode;
use palatine_x402::fake::{FakeChain, TransferBehavior};
use palatine_x402::*;

use crate::common::*;

#[tokio::test(start_paused = true)]
async fn more_payments_than_there_are_places_wait_and_are_refused_before_anything_is_reserved() {
    let (chain, payments) = (Arc::new(FakeChain::default()), Arc::<palatine_x402::fake::FakePayments>::default());
    let limits = SettlementLimits { settle_timeout: Duration::from_secs(60), ..limits(1) };
    let settlements = Arc::new(Settlements::new(payments.clone(), chain.clone(), chain.clone(), limits));
    let seller = Seller::new(settlements.clone(), tokens(), TERMS);
    let server = ResourceServer { chain, payments, settlements, seller, quote: quote_at(URL) };
    let payer = funded_payer(&server);
    server.chain.set_behavior(TransferBehavior::NeverAnswers);
    let first = server.buy_in_the_background(signs_for(&payer, &authorization(&payer)));
    server.until_settling().await;
    let second = Authorization { nonce: B256::repeat_byte(2), ..authorization(&payer) };
    let refusal = server.buy(&signs_for(&payer, &second)).await.unwrap_err();
    assert_eq!((refusal.status(), server.chain.settlements()), (StatusCode::SERVICE_UNAVAILABLE, 1));
    assert_eq!(server.payments.len(), 1);
    first.abort();
}

#[tokio::test]
async fn fault_2_3_payments_by_empty_wallets_reserve_nothing_and_keep_nobody_out() {
    let server = Arc::new(ResourceServer::with_places(4));
    let payer = funded_payer(&server);
    let empty = (1..=150_u8).filter(|n| *n != 0x42).map(|n| {
        let server = Arc::clone(&server);
        let headers = signs_for(&unfunded_payer(n), &authorization(&unfunded_payer(n)));
        tokio::spawn(async move { server.buy(&headers).await })
    });
    let empty: Vec<_> = empty.collect();
    // He comes in the middle of them.
    let honest = server.buy(&signs_for(&payer, &authorization(&payer))).await;
    assert!(honest.is_ok(), "{honest:?}");
    for outcome in empty {
        refused_for(InvalidReason::Funds, outcome.await.unwrap());
    }
    assert_eq!((server.payments.len(), server.chain.settlements()), (1, 1), "the honest one's alone");
}

#[tokio::test]
async fn fault_2_3_a_token_is_asked_once_for_all_who_ask_at_once() {
    let server = Arc::new(ResourceServer::with_places(100));
    let poor = unfunded_payer(1);
    let headers = signs_for(&poor, &authorization(&poor));
    let copies = (0..100).map(|_| {
        let (server, headers) = (Arc::clone(&server), headers.clone());
        tokio::spawn(async move { server.buy(&headers).await })
    });
    for copy in copies.collect::<Vec<_>>() {
        refused_for(InvalidReason::Funds, copy.await.unwrap());
    }
    assert_eq!(server.chain.readings(), 2, "the authorization's state and the balance, once each");
}

#[tokio::test(start_paused = true)]
async fn fault_2_3_old_open_payments_do_not_starve_new_ones() {
    let server = ResourceServer::new();
    server.chain.set_behavior(TransferBehavior::NeverAnswers);
    for n in 1..=3 {
        let payer = unfunded_payer(n);
        server.chain.give(ASSET, payer.address(), PRICE);
        server.buy(&signs_for(&payer, &authorization(&payer))).await.unwrap_err();
    }
    // The newest was made after all.
    server.chain.execute(&authorization(&unfunded_payer(3))).unwrap();
    let mut settled = 0;
    for ms in 0..3 {
        settled += server.settlements.reconcile(now().plus(TERMS.lease_ms + ms), 1).await.unwrap().settled;
    }
    assert_eq!(settled, 1, "each has had its turn");
}

#[tokio::test]
async fn fault_2_6_who_makes_a_transfer_knows_for_which_client() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    server.buy(&signs_for(&payer, &authorization(&payer))).await.unwrap();
    assert!(server.chain.served(CLIENT));
}

#[tokio::test]
async fn fault_2_3_a_payment_that_was_checked_holds_no_place() {
    let server = ResourceServer::with_places(1);
    let payer = funded_payer(&server);
    let slow = signs_for(&payer, &authorization(&payer));
    let order = PricedRequest { quote: &server.quote, resource: "agent-1", now: now(), client: CLIENT };
    // His body comes slowly, or the agent is busy.
    let checked = server.seller.check(order, &slow).await.unwrap();
    let other = Authorization { nonce: B256::repeat_byte(2), ..authorization(&payer) };
    server.buy(&signs_for(&payer, &other)).await.unwrap();
    server.seller.take(checked, bound(b"hello")).await.unwrap();
}

#[tokio::test]
async fn fault_2_3_where_nothing_was_sent_nothing_is_on_its_way() {
    let server = ResourceServer::new();
    let payer = funded_payer(&server);
    let headers = signs_for(&payer, &authorization(&payer));
    server.chain.set_behavior(TransferBehavior::Unavailable);
    for _ in 0..2 {
        let unsold = server.ask_for("hello", &headers, now()).await.unwrap_err();
        let PaymentRejection::Unavailable(SettlementUnknown::Unavailable { retry_after_s, .. }) = unsold else {
            panic!("{unsold:?}")
        };
        assert_eq!(retry_after_s, Some(FakeChain::UNAVAILABLE_S), "as long as its quota is used up");
    }
}

/// One that cannot tell what it has sent.
struct Forgetful(Arc<FakeChain>);

#[async_trait::async_trait]
impl Transfers for Forgetful {
    async fn transfer(&self, payment: &SignedAuthorization, client: ClientAddr) -> Result<B256, TransferError> {
        self.0.transfer(payment, client).await
    }

    async fn submission(&self, _: &SignedAuthorization) -> SubmissionState {
        SubmissionState::Unknown
    }
}

#[tokio::test]
async fn fault_2_3_what_may_have_been_sent_before_may_be_on_its_way() {
    let mut server = ResourceServer::new();
    let settlement = Arc::new(Forgetful(server.chain.clone()));
    let settlements = Settlements::new(server.payments.clone(), settlement, server.chain.clone(), limits(8));
    server.seller = Seller::new(Arc::new(settlements), tokens(), TERMS);
    let payer = funded_payer(&server);
    let headers = signs_for(&payer, &authorization(&payer));
    server.chain.set_behavior(TransferBehavior::Unavailable);
    let first = server.ask_for("hello", &headers, now()).await.unwrap_err();
    assert!(matches!(first, PaymentRejection::Unavailable(SettlementUnknown::Unavailable { .. })), "{first:?}");
    let second = server.ask_for("hello", &headers, now()).await.unwrap_err();
    assert!(matches!(second, PaymentRejection::Unsettled), "{second:?}");
}
