//! The record of payments, over the store.

use alloy_primitives::Signature;
use async_trait::async_trait;
use domain::{B256, UnixMillis};
use store::{Payment, PaymentClaim, PaymentMet, PaymentMove, PaymentStage, Store, StoreError};
use x402::{Authorization, Claim, PaymentKey, PaymentState, Payments, RecordError, RequestHash, Reservation};
use x402::{Reserved, Signed};

/// All payments.
#[derive(Clone, Debug)]
pub(crate) struct StorePayments(pub(crate) Store);

#[async_trait]
impl Payments for StorePayments {
    async fn reserve(&self, reservation: &Reservation, claim: Claim, now: UnixMillis) -> Result<Reserved, RecordError> {
        let claim = PaymentClaim { id: claim.id, until: claim.until };
        let met = self.0.reserve_payment(payment(reservation), claim, now).await.map_err(unavailable)?;
        Ok(match met {
            PaymentMet::New => Reserved::New,
            PaymentMet::Claimed => Reserved::InFlight,
            PaymentMet::Other => Reserved::Other,
            PaymentMet::Known(PaymentStage::Reserved) => Reserved::Resumed,
            PaymentMet::Known(PaymentStage::Settled(tx)) => Reserved::Paid { tx },
            PaymentMet::Known(PaymentStage::Answered(tx)) => Reserved::Answered { tx },
            PaymentMet::Known(PaymentStage::Failed(reason)) => Reserved::Failed { reason },
        })
    }

    async fn settled(&self, key: &PaymentKey, tx: B256) -> Result<(), RecordError> {
        self.step(key, PaymentStage::Settled(tx), "settled").await
    }

    async fn failed(&self, key: &PaymentKey, reason: &str) -> Result<(), RecordError> {
        self.step(key, PaymentStage::Failed(reason.to_owned()), "failed").await
    }

    async fn answered(&self, key: &PaymentKey, claim: u64) -> Result<bool, RecordError> {
        let Some((_, PaymentStage::Settled(tx))) = self.0.payment(name(key)).await.map_err(unavailable)? else {
            return Ok(false);
        };
        let moved = self.0.move_payment(name(key), PaymentStage::Answered(tx), Some(claim)).await;
        Ok(moved.map_err(unavailable)? == PaymentMove::Done)
    }

    async fn release(&self, key: &PaymentKey, claim: u64) -> Result<(), RecordError> {
        self.0.release_payment(name(key), claim).await.map_err(unavailable)
    }

    async fn find(&self, key: &PaymentKey) -> Result<Option<(Reservation, PaymentState)>, RecordError> {
        let found = self.0.payment(name(key)).await.map_err(unavailable)?;
        found.map(|(payment, stage)| Ok((reservation(&payment)?, state(stage)))).transpose()
    }

    async fn pending(&self, now: UnixMillis, limit: usize) -> Result<Vec<Reservation>, RecordError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let open = self.0.open_payments(now, limit).await.map_err(unavailable)?;
        open.iter().map(reservation).collect()
    }
}

impl StorePayments {
    async fn step(&self, key: &PaymentKey, to: PaymentStage, wanted: &'static str) -> Result<(), RecordError> {
        match self.0.move_payment(name(key), to, None).await.map_err(unavailable)? {
            PaymentMove::Done => Ok(()),
            PaymentMove::Refused => Err(RecordError::Step { key: Box::new(*key), wanted }),
        }
    }
}

fn unavailable(error: StoreError) -> RecordError {
    RecordError::Unavailable(error.to_string())
}

const fn name(key: &PaymentKey) -> store::PaymentKey {
    store::PaymentKey { chain_id: key.chain_id, asset: key.asset, payer: key.from, nonce: key.nonce }
}

fn payment(reservation: &Reservation) -> Payment {
    let Signed { authorization, signature } = reservation.payment;
    Payment {
        key: name(&authorization.key()),
        payee: authorization.to,
        value: authorization.value,
        valid_after: authorization.valid_after,
        valid_before: authorization.valid_before,
        signature: signature.as_bytes().to_vec(),
        request: reservation.request.0,
        resource: reservation.resource.clone(),
        seen_at: reservation.at,
    }
}

fn reservation(payment: &Payment) -> Result<Reservation, RecordError> {
    let signature = Signature::from_raw(&payment.signature)
        .map_err(|error| RecordError::Unavailable(format!("a stored signature cannot be read: {error}")))?;
    let authorization = Authorization {
        chain_id: payment.key.chain_id,
        asset: payment.key.asset,
        from: payment.key.payer,
        to: payment.payee,
        value: payment.value,
        valid_after: payment.valid_after,
        valid_before: payment.valid_before,
        nonce: payment.key.nonce,
    };
    Ok(Reservation {
        payment: Signed { authorization, signature },
        request: RequestHash(payment.request),
        resource: payment.resource.clone(),
        at: payment.seen_at,
    })
}

fn state(stage: PaymentStage) -> PaymentState {
    match stage {
        PaymentStage::Reserved => PaymentState::Reserved,
        PaymentStage::Settled(tx) => PaymentState::Settled { tx },
        PaymentStage::Answered(tx) => PaymentState::Answered { tx },
        PaymentStage::Failed(reason) => PaymentState::Failed { reason },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn the_record_over_the_store_does_what_every_record_must() {
        let room = tempfile::tempdir().unwrap();
        let config = store::Config { directory: room.path().to_owned(), ..store::Config::default() };
        let store = Store::open(&config).unwrap();
        x402::conformance::record(Arc::new(StorePayments(store))).await;
    }
}
