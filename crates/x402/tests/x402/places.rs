//! What each may take of the places for payments, and what is said when none can be
//! taken.

use std::sync::Arc;
use std::time::Duration;

use domain::B256;
use http::StatusCode;
use palatine_x402::fake::{FakeChain, Weather};
use palatine_x402::*;

use crate::common::*;

#[tokio::test(start_paused = true)]
async fn more_payments_than_there_are_places_wait_and_are_refused_before_anything_is_reserved() {
    let (chain, payments) = (Arc::new(FakeChain::default()), Arc::<palatine_x402::fake::FakePayments>::default());
    let limits = Limits { settle_timeout: Duration::from_secs(60), ..limits(1) };
    let till = Arc::new(Till::new(payments.clone(), chain.clone(), chain.clone(), limits));
    let seller = Seller::new(till.clone(), tokens(), TERMS);
    let shop = Shop { chain, payments, till, seller, quote: quote_at(URL) };
    let payer = rich(&shop);
    shop.chain.weather(Weather::Silence);
    let first = shop.buy_in_the_background(signs_for(&payer, &authorization(&payer)));
    shop.until_settling().await;
    let second = Authorization { nonce: B256::repeat_byte(2), ..authorization(&payer) };
    let refusal = shop.buy(&signs_for(&payer, &second)).await.unwrap_err();
    assert_eq!((refusal.status(), shop.chain.settlements()), (StatusCode::SERVICE_UNAVAILABLE, 1));
    assert_eq!(shop.payments.len(), 1);
    first.abort();
}

#[tokio::test]
async fn fault_2_3_payments_by_empty_wallets_reserve_nothing_and_keep_nobody_out() {
    let shop = Arc::new(Shop::with_places(4));
    let payer = rich(&shop);
    let empty = (1..=150_u8).filter(|n| *n != 0x42).map(|n| {
        let shop = Arc::clone(&shop);
        let headers = signs_for(&nobody(n), &authorization(&nobody(n)));
        tokio::spawn(async move { shop.buy(&headers).await })
    });
    let empty: Vec<_> = empty.collect();
    // He comes in the middle of them.
    let honest = shop.buy(&signs_for(&payer, &authorization(&payer))).await;
    assert!(honest.is_ok(), "{honest:?}");
    for outcome in empty {
        refused_for(Reason::Funds, outcome.await.unwrap());
    }
    assert_eq!((shop.payments.len(), shop.chain.settlements()), (1, 1), "the honest one's alone");
}

#[tokio::test]
async fn fault_2_3_a_token_is_asked_once_for_all_who_ask_at_once() {
    let shop = Arc::new(Shop::with_places(100));
    let poor = nobody(1);
    let headers = signs_for(&poor, &authorization(&poor));
    let copies = (0..100).map(|_| {
        let (shop, headers) = (Arc::clone(&shop), headers.clone());
        tokio::spawn(async move { shop.buy(&headers).await })
    });
    for copy in copies.collect::<Vec<_>>() {
        refused_for(Reason::Funds, copy.await.unwrap());
    }
    assert_eq!(shop.chain.readings(), 2, "the authorization's state and the balance, once each");
}

#[tokio::test(start_paused = true)]
async fn fault_2_3_old_open_payments_do_not_starve_new_ones() {
    let shop = Shop::new();
    shop.chain.weather(Weather::Silence);
    for n in 1..=3 {
        let payer = nobody(n);
        shop.chain.give(ASSET, payer.address(), PRICE);
        shop.buy(&signs_for(&payer, &authorization(&payer))).await.unwrap_err();
    }
    // The newest was made after all.
    shop.chain.execute(&authorization(&nobody(3))).unwrap();
    let mut settled = 0;
    for ms in 0..3 {
        settled += shop.till.reconcile(now().plus(TERMS.claim_ms + ms), 1).await.unwrap().settled;
    }
    assert_eq!(settled, 1, "each has had its turn");
}

#[tokio::test]
async fn fault_2_6_who_makes_a_transfer_knows_for_which_client() {
    let shop = Shop::new();
    let payer = rich(&shop);
    shop.buy(&signs_for(&payer, &authorization(&payer))).await.unwrap();
    assert!(shop.chain.served(CLIENT));
}

#[tokio::test]
async fn fault_2_3_a_payment_that_was_checked_holds_no_place() {
    let shop = Shop::with_places(1);
    let payer = rich(&shop);
    let slow = signs_for(&payer, &authorization(&payer));
    let order = Order { quote: &shop.quote, resource: "agent-1", now: now(), client: CLIENT };
    // His body comes slowly, or the agent is busy.
    let checked = shop.seller.check(order, &slow).await.unwrap();
    let other = Authorization { nonce: B256::repeat_byte(2), ..authorization(&payer) };
    shop.buy(&signs_for(&payer, &other)).await.unwrap();
    shop.seller.take(checked, bound(b"hello")).await.unwrap();
}

#[tokio::test]
async fn fault_2_3_where_nothing_was_sent_nothing_is_on_its_way() {
    let shop = Shop::new();
    let payer = rich(&shop);
    let headers = signs_for(&payer, &authorization(&payer));
    shop.chain.weather(Weather::Down);
    for _ in 0..2 {
        let unsold = shop.ask_for("hello", &headers, now()).await.unwrap_err();
        let Unsold::Unavailable(TillError::Unavailable { retry_after_s, .. }) = unsold else { panic!("{unsold:?}") };
        assert_eq!(retry_after_s, Some(FakeChain::DOWN_S), "as long as its quota is used up");
    }
}

/// One that cannot tell what it has sent.
struct Forgetful(Arc<FakeChain>);

#[async_trait::async_trait]
impl Settlement for Forgetful {
    async fn settle(&self, payment: &SignedAuthorization, client: Client) -> Result<Settled, SettleError> {
        self.0.settle(payment, client).await
    }

    async fn sent(&self, _: &SignedAuthorization) -> Sent {
        Sent::Unknown
    }
}

#[tokio::test]
async fn fault_2_3_what_may_have_been_sent_before_may_be_on_its_way() {
    let mut shop = Shop::new();
    let settlement = Arc::new(Forgetful(shop.chain.clone()));
    let till = Till::new(shop.payments.clone(), settlement, shop.chain.clone(), limits(8));
    shop.seller = Seller::new(Arc::new(till), tokens(), TERMS);
    let payer = rich(&shop);
    let headers = signs_for(&payer, &authorization(&payer));
    shop.chain.weather(Weather::Down);
    let first = shop.ask_for("hello", &headers, now()).await.unwrap_err();
    assert!(matches!(first, Unsold::Unavailable(TillError::Unavailable { .. })), "{first:?}");
    let second = shop.ask_for("hello", &headers, now()).await.unwrap_err();
    assert!(matches!(second, Unsold::Unsettled), "{second:?}");
}
