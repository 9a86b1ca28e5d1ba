//! Payments for requests: each buys one answer, whatever races.
//!
//! A row is named by chain, token, payer and the payer's number, and goes
//! `reserved → settled → answered`, or `reserved → failed`. A lease keeps copies
//! of one payment apart while one of them is worked on. That its authorization pays
//! for nothing else stands in `purposes`.

use async_trait::async_trait;
use domain::payment::{Payment, PaymentKey, PaymentLease, PaymentReservation, PaymentState, Payments, PaymentsError};
use domain::{B256, U256, UnixMillis};

use crate::error::StoreError;
use crate::port::port;
use crate::store::Store;

/// What a payment is to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextPaymentState {
    /// Paid by this transaction.
    Settle(B256),
    /// Never to be paid.
    Fail(String),
    /// Answered, under this lease.
    Answer(u64),
}

port! {
    /// Payments for requests, as [`Payments`] speaks of them.
    PaymentStore {
        /// Reserves a payment, or says what it met. An ended lease is nobody's.
        fn reserve_payment(&self, payment: Payment, lease: PaymentLease, now: UnixMillis) -> PaymentReservation;

        /// Takes a payment to a state; `false` if it may not go there.
        fn step_payment(&self, key: PaymentKey, step: NextPaymentState) -> bool;

        /// Takes a lease off, if it is still there.
        fn release_payment(&self, key: PaymentKey, lease: u64) -> ();

        /// Takes the leases of gateways off that have ended.
        fn release_payments(&self) -> ();

        /// A payment, and where it stands.
        fn find_payment(&self, key: PaymentKey) -> Option<(Payment, PaymentState)>;

        /// Payments that are not known to be paid and that nobody works on, those first
        /// that this has not given for longest: however many stay open, each has its turn.
        fn open_payments(&self, now: UnixMillis, limit: u32) -> Vec<Payment>;
    }
}

/// A payment as it is recorded.
pub(crate) struct RecordedPayment {
    pub(crate) payment: Payment,
    pub(crate) state: PaymentState,
    pub(crate) lease: Option<PaymentLease>,
}

impl RecordedPayment {
    /// What whoever comes with this payment meets, and whether the lease becomes theirs.
    pub(crate) fn meet(self, payment: &Payment, now: UnixMillis) -> (PaymentReservation, bool) {
        if !self.payment.is_same(payment) {
            return (PaymentReservation::Conflict, false);
        }
        let outcome = match self.state {
            PaymentState::Answered { tx } => return (PaymentReservation::Answered { tx }, false),
            PaymentState::Failed { reason } => return (PaymentReservation::Failed { reason }, false),
            PaymentState::Reserved => PaymentReservation::Resumed,
            PaymentState::Settled { tx } => PaymentReservation::Settled { tx },
        };
        if self.lease.is_some_and(|lease| lease.until > now) {
            return (PaymentReservation::InFlight, false);
        }
        (outcome, true)
    }

    /// What the step makes of it.
    pub(crate) fn take(&self, step: &NextPaymentState) -> PaymentStepOutcome {
        use PaymentState::{Answered, Failed, Reserved, Settled};
        let is = |done| if done { PaymentStepOutcome::Done } else { PaymentStepOutcome::Refused };
        match (&self.state, step) {
            (Reserved, NextPaymentState::Settle(tx)) => PaymentStepOutcome::To(Settled { tx: *tx }),
            (Reserved, NextPaymentState::Fail(reason)) => PaymentStepOutcome::To(Failed { reason: reason.clone() }),
            (Settled { tx }, NextPaymentState::Answer(lease)) if self.lease.is_some_and(|held| held.id == *lease) => {
                PaymentStepOutcome::To(Answered { tx: *tx })
            }
            (Settled { tx } | Answered { tx }, NextPaymentState::Settle(again)) => is(tx == again),
            (Failed { .. }, NextPaymentState::Fail(_)) => is(true),
            (Settled { .. } | Answered { .. }, NextPaymentState::Fail(_) | NextPaymentState::Answer(_))
            | (Failed { .. }, NextPaymentState::Settle(_) | NextPaymentState::Answer(_))
            | (Reserved, NextPaymentState::Answer(_)) => is(false),
        }
    }
}

/// What comes of a step.
pub(crate) enum PaymentStepOutcome {
    /// It was there before.
    Done,
    /// This is to be written.
    To(PaymentState),
    /// It may not go there.
    Refused,
}

/// The columns of a state besides its name: its transaction, and why it failed.
pub(crate) fn state_columns(state: &PaymentState) -> (Option<B256>, Option<&str>) {
    match state {
        PaymentState::Reserved => (None, None),
        PaymentState::Settled { tx } | PaymentState::Answered { tx } => (Some(*tx), None),
        PaymentState::Failed { reason } => (None, Some(reason)),
    }
}

/// A payment that is recorded is valid for minutes: whoever verified it has bounded it.
pub(crate) fn seconds(time: U256) -> Option<i64> {
    u64::try_from(time).ok().map(u64::cast_signed)
}

/// The record of payments in this store.
#[derive(Clone, Debug)]
pub struct StorePayments(Store);

impl Store {
    /// The record of payments for requests.
    #[must_use]
    pub fn payments(&self) -> StorePayments {
        StorePayments(self.clone())
    }
}

impl StorePayments {
    async fn take(&self, key: &PaymentKey, step: NextPaymentState) -> Result<bool, PaymentsError> {
        self.0.step_payment(*key, step).await.map_err(unavailable)
    }
}

#[async_trait]
impl Payments for StorePayments {
    async fn reserve(
        &self,
        payment: &Payment,
        lease: PaymentLease,
        now: UnixMillis,
    ) -> Result<PaymentReservation, PaymentsError> {
        self.0.reserve_payment(payment.clone(), lease, now).await.map_err(unavailable)
    }

    async fn settled(&self, key: &PaymentKey, tx: B256) -> Result<(), PaymentsError> {
        let taken = self.take(key, NextPaymentState::Settle(tx)).await?;
        if taken { Ok(()) } else { Err(PaymentsError::Step { key: Box::new(*key), wanted: "settled" }) }
    }

    async fn failed(&self, key: &PaymentKey, reason: &str) -> Result<(), PaymentsError> {
        let taken = self.take(key, NextPaymentState::Fail(without_nul(reason))).await?;
        if taken { Ok(()) } else { Err(PaymentsError::Step { key: Box::new(*key), wanted: "failed" }) }
    }

    async fn answered(&self, key: &PaymentKey, lease: u64) -> Result<bool, PaymentsError> {
        self.take(key, NextPaymentState::Answer(lease)).await
    }

    async fn release(&self, key: &PaymentKey, lease: u64) -> Result<(), PaymentsError> {
        self.0.release_payment(*key, lease).await.map_err(unavailable)
    }

    async fn find(&self, key: &PaymentKey) -> Result<Option<(Payment, PaymentState)>, PaymentsError> {
        self.0.find_payment(*key).await.map_err(unavailable)
    }

    async fn pending(&self, now: UnixMillis, limit: usize) -> Result<Vec<Payment>, PaymentsError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        self.0.open_payments(now, limit).await.map_err(unavailable)
    }
}

/// PostgreSQL's texts hold none, and an endpoint's words may.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn unavailable(error: StoreError) -> PaymentsError {
    PaymentsError::Unavailable(error.to_string())
}
