//! Payments: each buys one thing once.

use domain::{Address, B256, Usdc};
use palatine_store::{
    Payment, PaymentClaim, PaymentKey, PaymentMet, PaymentMove, PaymentStage, RelayMet, RelayPayment, RelayProgress,
    RelayRow, RelayWish, Store,
};

use crate::help::{NOW, open, room};

const TX: B256 = B256::repeat_byte(7);

fn key() -> PaymentKey {
    PaymentKey {
        chain_id: 338,
        asset: Address::repeat_byte(1),
        payer: Address::repeat_byte(2),
        nonce: B256::repeat_byte(3),
    }
}

fn payment() -> Payment {
    Payment {
        key: key(),
        payee: Address::repeat_byte(4),
        value: Usdc(10),
        valid_after: 1,
        valid_before: 2,
        signature: vec![1; 65],
        request: B256::repeat_byte(5),
        resource: "agent".to_owned(),
        seen_at: NOW,
    }
}

fn claim(id: u64) -> PaymentClaim {
    PaymentClaim { id, until: NOW.plus(1000) }
}

async fn reserve(store: &Store, id: u64) -> PaymentMet {
    store.reserve_payment(payment(), claim(id), NOW).await.unwrap()
}

#[tokio::test]
async fn of_a_hundred_concurrent_copies_one_has_the_claim() {
    let room = room();
    let store = open(&room);
    let copies = (0..100).map(|id| {
        let store = store.clone();
        tokio::spawn(async move { reserve(&store, id).await })
    });
    let mut new = 0;
    for copy in copies.collect::<Vec<_>>() {
        match copy.await.unwrap() {
            PaymentMet::New => new += 1,
            other => assert_eq!(other, PaymentMet::Claimed),
        }
    }
    assert_eq!(new, 1);
}

#[tokio::test]
async fn a_payment_for_one_thing_buys_no_other() {
    let room = room();
    let store = open(&room);
    reserve(&store, 1).await;
    let others = [
        Payment { request: B256::ZERO, ..payment() },
        Payment { resource: "other".to_owned(), ..payment() },
        Payment { payee: Address::ZERO, ..payment() },
        Payment { value: Usdc(11), ..payment() },
        Payment { valid_before: 3, ..payment() },
    ];
    for other in others {
        assert_eq!(store.reserve_payment(other, claim(2), NOW).await.unwrap(), PaymentMet::Other);
    }
    let signed_again = Payment { signature: vec![2; 65], ..payment() };
    assert_eq!(store.reserve_payment(signed_again, claim(2), NOW).await.unwrap(), PaymentMet::Claimed);
}

#[tokio::test]
async fn a_claim_that_ended_or_was_let_go_of_is_taken_by_the_next() {
    let room = room();
    let store = open(&room);
    reserve(&store, 1).await;
    assert!(store.open_payments(NOW, 9).await.unwrap().is_empty());
    assert_eq!(store.open_payments(NOW.plus(1000), 9).await.unwrap(), [payment()]);
    store.release_payment(key(), 2).await.unwrap();
    assert_eq!(reserve(&store, 2).await, PaymentMet::Claimed);
    store.release_payment(key(), 1).await.unwrap();
    assert_eq!(reserve(&store, 2).await, PaymentMet::Known(PaymentStage::Reserved));
    let later = NOW.plus(1000);
    let met = store.reserve_payment(payment(), claim(3), later).await.unwrap();
    assert_eq!(met, PaymentMet::Known(PaymentStage::Reserved));
}

#[tokio::test]
async fn stages_go_one_way_and_the_answer_needs_the_claim() {
    let room = room();
    let store = open(&room);
    let to = |stage, holding| store.move_payment(key(), stage, holding);
    assert_eq!(to(PaymentStage::Settled(TX), None).await.unwrap(), PaymentMove::Refused);
    reserve(&store, 1).await;
    assert_eq!(to(PaymentStage::Answered(TX), Some(1)).await.unwrap(), PaymentMove::Refused);
    assert_eq!(to(PaymentStage::Settled(TX), None).await.unwrap(), PaymentMove::Done);
    assert_eq!(to(PaymentStage::Settled(TX), None).await.unwrap(), PaymentMove::Done);
    assert_eq!(to(PaymentStage::Settled(B256::ZERO), None).await.unwrap(), PaymentMove::Refused);
    assert_eq!(to(PaymentStage::Failed("x".to_owned()), None).await.unwrap(), PaymentMove::Refused);
    assert_eq!(to(PaymentStage::Answered(TX), Some(2)).await.unwrap(), PaymentMove::Refused);
    assert_eq!(to(PaymentStage::Answered(TX), Some(1)).await.unwrap(), PaymentMove::Done);
    assert_eq!(to(PaymentStage::Answered(TX), Some(1)).await.unwrap(), PaymentMove::Refused);
    drop(store);
    let store = open(&room);
    assert_eq!(reserve(&store, 9).await, PaymentMet::Known(PaymentStage::Answered(TX)));
    assert_eq!(store.payment(key()).await.unwrap(), Some((payment(), PaymentStage::Answered(TX))));
}

/// A relayed call whose fee this authorization pays.
fn call(id: u8, key: PaymentKey, group: u8) -> RelayWish {
    let row = RelayRow {
        id: B256::repeat_byte(id),
        attempt: 0,
        at: NOW,
        lane: None,
        holds: false,
        gives_way: false,
        progress: RelayProgress::Open,
        body: String::new(),
    };
    let payment = RelayPayment { key, group: B256::repeat_byte(group), valid_before: 2 };
    RelayWish { rows: vec![row], payments: vec![payment], quotas: Vec::new() }
}

#[tokio::test]
async fn fault_2_9_an_authorization_that_pays_a_fee_buys_no_request_and_the_other_way_round() {
    let room = room();
    let store = open(&room);
    let fee = PaymentKey { nonce: B256::repeat_byte(8), ..key() };
    reserve(&store, 1).await;
    assert_eq!(store.relay_admit(call(1, key(), 1)).await.unwrap(), RelayMet::PaymentUsed);
    assert_eq!(store.relay_find(B256::repeat_byte(1)).await.unwrap(), None, "nothing was taken on");
    assert_eq!(store.relay_admit(call(1, fee, 1)).await.unwrap(), RelayMet::New);
    let bought = Payment { key: fee, ..payment() };
    assert_eq!(store.reserve_payment(bought, claim(2), NOW).await.unwrap(), PaymentMet::Other);
    assert_eq!(store.payment(fee).await.unwrap(), None, "no row was reserved");
    // Other chains and tokens have numbers of their own.
    let abroad = PaymentKey { chain_id: 25, ..key() };
    assert_eq!(store.relay_admit(call(2, abroad, 2)).await.unwrap(), RelayMet::New);
    let elsewhere = PaymentKey { asset: Address::repeat_byte(9), ..fee };
    let bought = Payment { key: elsewhere, ..payment() };
    assert_eq!(store.reserve_payment(bought, claim(3), NOW).await.unwrap(), PaymentMet::New);
}

#[tokio::test]
async fn fault_2_9_of_both_at_once_one_takes_the_authorization() {
    let room = room();
    let store = open(&room);
    for n in 0..50 {
        let key = PaymentKey { nonce: B256::repeat_byte(n), ..key() };
        let (bought, paid) = tokio::join!(
            store.reserve_payment(Payment { key, ..payment() }, claim(1), NOW),
            store.relay_admit(call(n, key, n)),
        );
        let taken = (bought.unwrap() == PaymentMet::New, paid.unwrap() == RelayMet::New);
        assert!(taken.0 != taken.1, "{taken:?}");
    }
}

#[tokio::test]
async fn fault_2_9_what_was_paid_is_known_after_a_restart_and_until_no_token_takes_it() {
    let room = room();
    let store = open(&room);
    reserve(&store, 1).await;
    assert_eq!(store.relay_admit(call(1, PaymentKey { chain_id: 25, ..key() }, 1)).await.unwrap(), RelayMet::New);
    drop(store);
    let store = open(&room);
    assert_eq!(store.relay_admit(call(2, key(), 2)).await.unwrap(), RelayMet::PaymentUsed);
    assert_eq!(store.prune(NOW).await.unwrap().purposes, 2, "both ended at second 2");
    assert_eq!(reserve(&store, 2).await, PaymentMet::Claimed, "its own row says so all the same");
}
