//! What every record of payments must do: run by the one in memory, and by any
//! other.
#![expect(clippy::unwrap_used, reason = "a record that fails has failed the suite")]

use std::sync::Arc;

use alloy_primitives::{Signature, U256};
use domain::{Address, B256, UnixMillis, Usdc};

use crate::{
    Authorization, PaidRequestHash, Payment, PaymentKey, PaymentLease, PaymentReservation, PaymentState, Payments,
    PaymentsError, SignedAuthorization,
};

const TX: B256 = B256::repeat_byte(0x77);
const NOW: UnixMillis = UnixMillis(1_000_000);

/// Runs every check, each on payments of its own, against one empty record.
pub async fn record(record: Arc<dyn Payments>) {
    a_payment_is_reserved_once(record.as_ref()).await;
    another_request_resource_or_authorization_is_another(record.as_ref()).await;
    a_lease_keeps_copies_out_until_it_ends(record.as_ref()).await;
    a_settled_payment_is_answered_once_by_who_has_the_lease(record.as_ref()).await;
    what_failed_stays_failed(record.as_ref()).await;
    no_other_step_exists(record.as_ref()).await;
    what_is_left_open_is_found_oldest_first(record.as_ref()).await;
    of_a_hundred_at_once_one_is_new(record).await;
}

fn reservation(n: u8) -> Payment {
    let authorization = Authorization {
        chain_id: 338,
        asset: Address::repeat_byte(0xaa),
        from: Address::repeat_byte(n),
        to: Address::repeat_byte(0xee),
        value: Usdc(u64::MAX),
        valid_after: U256::ZERO,
        valid_before: U256::from(u64::MAX),
        nonce: B256::repeat_byte(n),
    };
    let signed =
        SignedAuthorization { authorization, signature: Signature::new(U256::MAX, U256::from(n), n.is_multiple_of(2)) };
    Payment { signed, request: PaidRequestHash(B256::repeat_byte(n)), resource: format!("agent-{n}"), seen_at: NOW }
}

const fn lease(id: u64, until: UnixMillis) -> PaymentLease {
    PaymentLease { id, until }
}

/// Far away.
const fn later() -> UnixMillis {
    NOW.plus(1000)
}

async fn reserve(record: &dyn Payments, reservation: &Payment, id: u64) -> PaymentReservation {
    record.reserve(reservation, lease(id, later()), NOW).await.unwrap()
}

async fn state(record: &dyn Payments, key: &PaymentKey) -> PaymentState {
    record.find(key).await.unwrap().unwrap().1
}

async fn a_payment_is_reserved_once(record: &dyn Payments) {
    let it = reservation(1);
    assert_eq!(record.find(&it.key()).await.unwrap(), None);
    assert_eq!(reserve(record, &it, 1).await, PaymentReservation::New);
    assert_eq!(reserve(record, &it, u64::MAX).await, PaymentReservation::InFlight);
    assert_eq!(record.find(&it.key()).await.unwrap(), Some((it.clone(), PaymentState::Reserved)));
    // When it came does not make it another.
    assert_eq!(reserve(record, &Payment { seen_at: later(), ..it }, 2).await, PaymentReservation::InFlight);
}

async fn another_request_resource_or_authorization_is_another(record: &dyn Payments) {
    let it = reservation(2);
    assert_eq!(reserve(record, &it, 1).await, PaymentReservation::New);
    record.settled(&it.key(), TX).await.unwrap();
    record.release(&it.key(), 1).await.unwrap();
    let mut dearer = it.clone();
    dearer.signed.authorization.value = Usdc(1);
    let mut elsewhere = it.clone();
    elsewhere.signed.authorization.to = Address::ZERO;
    for other in [
        Payment { request: PaidRequestHash(B256::ZERO), ..it.clone() },
        Payment { resource: "agent-0".into(), ..it.clone() },
        dearer,
        elsewhere,
    ] {
        assert_eq!(reserve(record, &other, 2).await, PaymentReservation::Conflict, "{other:?}");
    }
    let mut abroad = it.clone();
    abroad.signed.authorization.chain_id = 25;
    assert_eq!(reserve(record, &abroad, 3).await, PaymentReservation::New, "another chain has nonces of its own");
    record.failed(&abroad.key(), "over").await.unwrap();
    assert_eq!(reserve(record, &it, 4).await, PaymentReservation::Settled { tx: TX });
}

async fn a_lease_keeps_copies_out_until_it_ends(record: &dyn Payments) {
    let it = reservation(3);
    assert_eq!(reserve(record, &it, 1).await, PaymentReservation::New);
    record.release(&it.key(), 9).await.unwrap();
    assert_eq!(reserve(record, &it, 2).await, PaymentReservation::InFlight, "a stranger cannot take a lease off");
    record.release(&it.key(), 1).await.unwrap();
    assert_eq!(reserve(record, &it, 2).await, PaymentReservation::Resumed);
    let again = record.reserve(&it, lease(3, later().plus(9)), later()).await.unwrap();
    assert_eq!(again, PaymentReservation::Resumed, "a lease that has ended is nobody's");
    record.settled(&it.key(), TX).await.unwrap();
    let meanwhile = record.reserve(&it, lease(4, later().plus(9)), later()).await.unwrap();
    assert_eq!(meanwhile, PaymentReservation::InFlight, "settling leaves the lease where it is");
}

async fn a_settled_payment_is_answered_once_by_who_has_the_lease(record: &dyn Payments) {
    let it = reservation(4);
    assert!(!record.answered(&it.key(), 1).await.unwrap(), "a payment that was never seen");
    reserve(record, &it, 1).await;
    assert!(!record.answered(&it.key(), 1).await.unwrap(), "not settled");
    record.settled(&it.key(), TX).await.unwrap();
    assert_eq!(state(record, &it.key()).await, PaymentState::Settled { tx: TX });
    assert!(!record.answered(&it.key(), 2).await.unwrap(), "another's lease");
    let taken = record.reserve(&it, lease(5, later().plus(9)), later()).await.unwrap();
    assert_eq!(taken, PaymentReservation::Settled { tx: TX });
    assert!(!record.answered(&it.key(), 1).await.unwrap(), "a lease that was taken over");
    assert!(record.answered(&it.key(), 5).await.unwrap());
    assert!(!record.answered(&it.key(), 5).await.unwrap(), "one payment, one answer");
    assert_eq!(state(record, &it.key()).await, PaymentState::Answered { tx: TX });
    record.settled(&it.key(), TX).await.unwrap();
    record.release(&it.key(), 5).await.unwrap();
    assert_eq!(reserve(record, &it, 6).await, PaymentReservation::Answered { tx: TX });
}

async fn what_failed_stays_failed(record: &dyn Payments) {
    let it = reservation(5);
    reserve(record, &it, 1).await;
    record.failed(&it.key(), "over").await.unwrap();
    record.failed(&it.key(), "over").await.unwrap();
    assert_eq!(reserve(record, &it, 2).await, PaymentReservation::Failed { reason: "over".into() });
}

async fn no_other_step_exists(record: &dyn Payments) {
    let refused = |result| assert!(matches!(result, Err(PaymentsError::Step { .. })), "{result:?}");
    let never = reservation(6).key();
    refused(record.settled(&never, TX).await);
    refused(record.failed(&never, "x").await);
    let paid = reservation(7);
    reserve(record, &paid, 1).await;
    record.settled(&paid.key(), TX).await.unwrap();
    refused(record.failed(&paid.key(), "x").await);
    refused(record.settled(&paid.key(), B256::ZERO).await);
    let dead = reservation(8);
    reserve(record, &dead, 1).await;
    record.failed(&dead.key(), "x").await.unwrap();
    refused(record.settled(&dead.key(), TX).await);
}

async fn what_is_left_open_is_found_oldest_first(record: &dyn Payments) {
    let ended = later().plus(1_000_000);
    for reservation in record.pending(ended, usize::MAX).await.unwrap() {
        record.failed(&reservation.key(), "of another check").await.unwrap();
    }
    let older = Payment { seen_at: UnixMillis(1), ..reservation(9) };
    let newer = Payment { seen_at: UnixMillis(2), ..reservation(10) };
    reserve(record, &newer, 1).await;
    reserve(record, &older, 1).await;
    assert_eq!(record.pending(NOW, 10).await.unwrap(), [], "somebody is at work on them");
    assert_eq!(record.pending(later(), 10).await.unwrap(), [older.clone(), newer.clone()]);
    assert_eq!(record.pending(later(), 1).await.unwrap(), std::slice::from_ref(&older));
    // Whoever was given waits until the others were.
    for (ms, next) in [(1, &older), (2, &newer), (3, &older)] {
        assert_eq!(record.pending(later().plus(ms), 1).await.unwrap(), std::slice::from_ref(next));
    }
    record.settled(&older.key(), TX).await.unwrap();
    record.release(&newer.key(), 1).await.unwrap();
    assert_eq!(record.pending(NOW, 10).await.unwrap(), [newer]);
}

async fn of_a_hundred_at_once_one_is_new(record: Arc<dyn Payments>) {
    let tasks = (0..100_u64).map(|id| {
        let record = Arc::clone(&record);
        tokio::spawn(async move { reserve(record.as_ref(), &reservation(11), id).await })
    });
    let mut new = 0;
    for task in tasks.collect::<Vec<_>>() {
        match task.await.unwrap() {
            PaymentReservation::New => new += 1,
            met => assert_eq!(met, PaymentReservation::InFlight),
        }
    }
    assert_eq!(new, 1);
}
