//! Payments: each buys one thing once.

use std::sync::Arc;

use domain::payment::{
    Authorization, PaidRequestHash, Payment, PaymentLease, PaymentReservation, PaymentState, Payments, PaymentsError,
};
use domain::relay::{RelayAdmission, RelayEntry, RelayJournal, RelayState};
use domain::{Address, B256, U256, Usdc};
use palatine_store::Store;
use relay::conformance;
use rusqlite::Connection;

use crate::help::{NOW, Place, config, folder, open, reopen};

const TX: B256 = B256::repeat_byte(7);
const CHAIN_ID: u64 = 338;

/// A relayed call of this number, and a request that the same authorization pays.
fn both(number: u8) -> (RelayEntry, Payment) {
    let mut fee = conformance::fee_payment(number, number);
    fee.signed.authorization.valid_before = U256::from(2);
    let request = Payment {
        signed: fee.signed,
        request: PaidRequestHash(B256::repeat_byte(5)),
        resource: "agent".to_owned(),
        seen_at: NOW,
    };
    (RelayEntry { payment: Some(fee), state: RelayState::Paying, ..conformance::entry(number) }, request)
}

fn payment() -> Payment {
    both(1).1
}

fn with(change: impl FnOnce(&mut Authorization)) -> Payment {
    let mut payment = payment();
    change(&mut payment.signed.authorization);
    payment
}

fn lease(id: u64) -> PaymentLease {
    PaymentLease { id, until: NOW.plus(1000) }
}

async fn reserve(store: &Store, payment: &Payment, id: u64) -> PaymentReservation {
    store.payments().reserve(payment, lease(id), NOW).await.unwrap()
}

async fn admit(store: &Store, entry: RelayEntry) -> RelayAdmission {
    store.relay_journal(CHAIN_ID).admit(&[entry], &[]).await.unwrap()
}

pub(crate) async fn the_record_does_what_every_record_must(place: &Place) {
    x402::conformance::record(Arc::new(open(place).await.payments())).await;
}

pub(crate) async fn a_payment_for_one_thing_buys_no_other(place: &Place) {
    let store = open(place).await;
    reserve(&store, &payment(), 1).await;
    let others = [
        Payment { request: PaidRequestHash(B256::ZERO), ..payment() },
        Payment { resource: "other".to_owned(), ..payment() },
        with(|it| it.to = Address::ZERO),
        with(|it| it.value = Usdc(11)),
        with(|it| it.valid_before = U256::from(3)),
        with(|it| it.valid_after = U256::from(1)),
    ];
    for other in others {
        assert_eq!(reserve(&store, &other, 2).await, PaymentReservation::Conflict);
    }
    let mut signed_again = payment();
    signed_again.signed.signature = conformance::fee_payment(2, 2).signed.signature;
    assert_eq!(reserve(&store, &signed_again, 2).await, PaymentReservation::InFlight);
}

pub(crate) async fn a_validity_of_more_than_64_bits_is_refused_and_nothing_is_recorded(place: &Place) {
    let store = open(place).await;
    let endless = with(|it| it.valid_before = U256::MAX);
    let refused = store.payments().reserve(&endless, lease(1), NOW).await;
    assert!(matches!(refused, Err(PaymentsError::Unavailable(_))), "{refused:?}");
    assert_eq!(store.payments().find(&endless.key()).await.unwrap(), None);
    assert_eq!(reserve(&store, &payment(), 1).await, PaymentReservation::New, "its number is free");
}

pub(crate) async fn what_was_answered_is_so_after_a_restart(place: &Place) {
    let store = open(place).await;
    reserve(&store, &payment(), 1).await;
    store.payments().settled(&payment().key(), TX).await.unwrap();
    assert!(store.payments().answered(&payment().key(), 1).await.unwrap());
    drop(store);
    let store = open(place).await;
    assert_eq!(reserve(&store, &payment(), 9).await, PaymentReservation::Answered { tx: TX });
    let found = store.payments().find(&payment().key()).await.unwrap();
    assert_eq!(found, Some((payment(), PaymentState::Answered { tx: TX })));
}

#[tokio::test]
async fn a_row_of_the_last_version_is_read() {
    let folder = folder();
    drop(reopen(&folder).await);
    let conn = Connection::open(config(&folder).directory.join("palatine.db")).unwrap();
    let of = payment().signed.authorization;
    let sql = "INSERT INTO payments (chain_id, asset, payer, nonce, payee, value, valid_after, valid_before, \
               signature, request, resource, seen_at, looked_at, stage, tx, claim, claim_until) \
               VALUES (338, ?1, ?2, ?3, ?4, -1, 0, -1, ?5, ?6, 'agent', ?7, 0, 'settled', ?8, -1, ?9)";
    let now = i64::try_from(NOW.0).unwrap();
    let row = (of.asset.0.0, of.from.0.0, of.nonce.0, of.to.0.0, payment().signed.signature.as_bytes().to_vec());
    let rest = (payment().request.0.0, now, TX.0, now + 1000);
    conn.execute(sql, (row.0, row.1, row.2, row.3, row.4, rest.0, rest.1, rest.2, rest.3)).unwrap();
    drop(conn);
    let payments = reopen(&folder).await.payments();
    let known = with(|it| (it.value, it.valid_before) = (Usdc(u64::MAX), U256::from(u64::MAX)));
    let found = payments.find(&known.key()).await.unwrap();
    assert_eq!(found, Some((known.clone(), PaymentState::Settled { tx: TX })));
    assert!(payments.answered(&known.key(), u64::MAX).await.unwrap(), "its lease holds");
}

pub(crate) async fn fault_2_9_an_authorization_that_pays_a_fee_buys_no_request_and_the_other_way_round(place: &Place) {
    let store = open(place).await;
    let (call, request) = both(1);
    assert_eq!(reserve(&store, &request, 1).await, PaymentReservation::New);
    assert_eq!(admit(&store, call.clone()).await, RelayAdmission::PaymentUsed);
    assert_eq!(store.relay_journal(CHAIN_ID).find(call.id).await.unwrap(), None, "nothing was taken on");
    let (call, request) = both(2);
    assert_eq!(admit(&store, call).await, RelayAdmission::New);
    assert_eq!(reserve(&store, &request, 2).await, PaymentReservation::Conflict);
    assert_eq!(store.payments().find(&request.key()).await.unwrap(), None, "no row was reserved");
    // Other chains and tokens have numbers of their own.
    let (mut abroad, mut elsewhere) = (both(1).0, both(2).1);
    abroad.payment.as_mut().unwrap().signed.authorization.chain_id = 25;
    assert_eq!(admit(&store, abroad).await, RelayAdmission::New);
    elsewhere.signed.authorization.asset = Address::repeat_byte(9);
    assert_eq!(reserve(&store, &elsewhere, 3).await, PaymentReservation::New);
}

pub(crate) async fn fault_2_9_of_both_at_once_one_takes_the_authorization(place: &Place) {
    let store = open(place).await;
    for number in 0..50 {
        let (call, request) = both(number);
        let (bought, paid) = tokio::join!(reserve(&store, &request, 1), admit(&store, call));
        let taken = (bought == PaymentReservation::New, paid == RelayAdmission::New);
        assert!(taken.0 != taken.1, "{taken:?}");
    }
}

pub(crate) async fn fault_2_9_what_was_paid_is_known_after_a_restart_and_until_no_token_takes_it(place: &Place) {
    let store = open(place).await;
    let (mut abroad, request) = both(1);
    reserve(&store, &request, 1).await;
    abroad.payment.as_mut().unwrap().signed.authorization.chain_id = 25;
    assert_eq!(admit(&store, abroad).await, RelayAdmission::New);
    drop(store);
    let store = open(place).await;
    let again = RelayEntry { id: B256::repeat_byte(9), nonce: None, ..both(1).0 };
    assert_eq!(admit(&store, again).await, RelayAdmission::PaymentUsed);
    assert_eq!(store.prune(NOW).await.unwrap().purposes, 2, "both ended at second 2");
    assert_eq!(reserve(&store, &request, 2).await, PaymentReservation::InFlight, "its own row says so all the same");
}
