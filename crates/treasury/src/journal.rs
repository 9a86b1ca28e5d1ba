//! The relayer's journal, over the store.

use std::sync::Arc;

use alloy_primitives::B256;
use async_trait::async_trait;
use relay::journal::{Admission, Charge, Counts, End, Entry, Journal, JournalError, Lane, Quota, State};
use relay::payment::Authorization;
use store::{PaymentKey, RelayMet, RelayPayment, RelayProgress, RelayQuota, RelayRow, RelayWish, Store, StoreError};

/// Tries to step an entry that others step at the same time.
const MAX_TRIES: usize = 16;

/// The journal of a relayer on this chain.
#[must_use]
pub fn journal(store: &Store, chain_id: u64) -> Arc<dyn Journal> {
    Arc::new(StoreJournal { store: store.clone(), chain_id })
}

/// All entries.
#[derive(Clone, Debug)]
pub(crate) struct StoreJournal {
    store: Store,
    chain_id: u64,
}

#[async_trait]
impl Journal for StoreJournal {
    async fn admit(&self, entries: &[Entry], quotas: &[Quota]) -> Result<Admission, JournalError> {
        let wish = RelayWish {
            rows: entries.iter().map(row).collect::<Result<_, _>>()?,
            payments: entries
                .iter()
                .filter_map(|entry| entry.payment.as_ref())
                .map(|it| payment(self.chain_id, it))
                .collect(),
            quotas: quotas.iter().map(quota).collect(),
        };
        Ok(match self.store.relay_admit(wish).await.map_err(unavailable)? {
            RelayMet::New => Admission::New,
            RelayMet::Known(row) => Admission::Known(Box::new(entry(&row)?)),
            RelayMet::LaneTaken(at) => match entries.get(at).and_then(|entry| entry.lane) {
                Some(lane) => Admission::LaneTaken(lane),
                None => return Err(JournalError("a lane is taken that nobody asked for".to_owned())),
            },
            RelayMet::PaymentUsed => Admission::PaymentUsed,
            RelayMet::OverQuota(at) => {
                Admission::OverQuota(quotas.get(at).map(|quota| quota.subject.clone()).unwrap_or_default())
            }
        })
    }

    async fn count(&self, once: &str, quotas: &[Quota]) -> Result<Option<String>, JournalError> {
        let over = self.store.relay_count(once, quotas.iter().map(quota).collect()).await.map_err(unavailable)?;
        Ok(over.map(|at| quotas.get(at).map(|quota| quota.subject.clone()).unwrap_or_default()))
    }

    async fn find(&self, id: B256) -> Result<Option<Entry>, JournalError> {
        self.store.relay_find(id).await.map_err(unavailable)?.as_ref().map(entry).transpose()
    }

    async fn step(&self, id: B256, next: &State) -> Result<Entry, JournalError> {
        for _ in 0..MAX_TRIES {
            let held = self.store.relay_find(id).await.map_err(unavailable)?;
            let held = held.ok_or_else(|| JournalError(format!("nothing was taken on as {id}")))?;
            let known = entry(&held)?;
            if !known.state.may_become(next) {
                return Ok(known);
            }
            let stepped = Entry { state: next.clone(), ..known };
            if self.store.relay_step(held, row(&stepped)?).await.map_err(unavailable)? {
                return Ok(stepped);
            }
        }
        Err(JournalError(format!("{id} changes faster than it can be stepped")))
    }

    async fn open(&self, limit: usize) -> Result<Vec<Entry>, JournalError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        self.store.relay_open(limit).await.map_err(unavailable)?.iter().map(entry).collect()
    }

    async fn counts(&self) -> Result<Counts, JournalError> {
        let counts = self.store.relay_counts().await.map_err(unavailable)?;
        Ok(Counts { pending: counts.open, executed: counts.executed, failed: counts.failed })
    }
}

fn unavailable(error: StoreError) -> JournalError {
    JournalError(error.to_string())
}

fn entry(row: &RelayRow) -> Result<Entry, JournalError> {
    serde_json::from_str(&row.body).map_err(|error| JournalError(format!("an entry cannot be read: {error}")))
}

fn row(entry: &Entry) -> Result<RelayRow, JournalError> {
    let body = serde_json::to_string(entry).map_err(|error| JournalError(format!("write an entry: {error}")))?;
    Ok(RelayRow {
        id: entry.id,
        attempt: entry.attempt,
        at: entry.at,
        lane: entry.lane.as_ref().map(lane),
        holds: entry.state.holds(),
        gives_way: entry.gives_way(),
        progress: progress(&entry.state),
        body,
    })
}

const fn progress(state: &State) -> RelayProgress {
    match state {
        State::Paying | State::Sending { .. } => RelayProgress::Open,
        State::Unpaid { .. } => RelayProgress::Unpaid,
        State::Done { verdict, .. } => match verdict.status {
            End::Executed => RelayProgress::Executed,
            End::Reverted | End::Failed | End::Superseded => RelayProgress::Failed,
        },
    }
}

fn lane(lane: &Lane) -> Vec<u8> {
    [lane.forwarder.as_slice(), lane.from.as_slice(), &lane.nonce.to_be_bytes::<32>()].concat()
}

fn payment(chain_id: u64, charge: &Charge) -> RelayPayment {
    let Authorization { from, nonce, valid_before, .. } = &charge.payment.authorization;
    let key = PaymentKey { chain_id, asset: charge.payment.token, payer: *from, nonce: *nonce };
    RelayPayment { key, group: charge.group, valid_before: valid_before.saturating_to() }
}

fn quota(quota: &Quota) -> RelayQuota {
    RelayQuota { subject: quota.subject.clone(), day: quota.day, add: quota.add, limit: quota.limit }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Signature, U256};
    use domain::UnixMillis;
    use relay::conformance;
    use x402::{Claim, Payments, RequestHash, Reservation, Reserved, Signed};

    use super::*;
    use crate::payments::StorePayments;

    #[tokio::test]
    async fn the_journal_over_the_store_does_what_every_journal_must() {
        let room = tempfile::tempdir().unwrap();
        let config = store::Config { directory: room.path().to_owned(), ..store::Config::default() };
        let store = Store::open(&config).unwrap();
        conformance::run(&StoreJournal { store, chain_id: CHAIN_ID }).await.unwrap();
    }

    const CHAIN_ID: u64 = 338;

    /// A relayed call of this number, and a request that the same authorization pays.
    fn both(number: u8) -> (Entry, Reservation) {
        let charge = conformance::charge(number, number);
        let fee = &charge.payment.authorization;
        let authorization = x402::Authorization {
            chain_id: CHAIN_ID,
            asset: charge.payment.token,
            from: fee.from,
            to: fee.to,
            value: fee.value,
            valid_after: 0,
            valid_before: u64::MAX,
            nonce: fee.nonce,
        };
        let signature = Signature::new(U256::from(1), U256::from(1), false);
        let request = Reservation {
            payment: Signed { authorization, signature },
            request: RequestHash(B256::repeat_byte(number)),
            resource: "agent".to_owned(),
            at: UnixMillis(1),
        };
        (Entry { payment: Some(charge), state: State::Paying, ..conformance::entry(number) }, request)
    }

    #[tokio::test]
    async fn fault_2_9_relayer_and_seller_share_one_record_of_what_was_paid() {
        let room = tempfile::tempdir().unwrap();
        let config = store::Config { directory: room.path().to_owned(), ..store::Config::default() };
        let store = Store::open(&config).unwrap();
        let (seller, relayer) = (StorePayments(store.clone()), StoreJournal { store, chain_id: CHAIN_ID });
        let claim = Claim { id: 1, until: UnixMillis(9) };
        let (call, request) = both(1);
        assert_eq!(seller.reserve(&request, claim, UnixMillis(1)).await.unwrap(), Reserved::New);
        assert_eq!(relayer.admit(&[call], &[]).await.unwrap(), Admission::PaymentUsed);
        let (call, request) = both(2);
        assert_eq!(relayer.admit(&[call], &[]).await.unwrap(), Admission::New);
        assert_eq!(seller.reserve(&request, claim, UnixMillis(1)).await.unwrap(), Reserved::Other);
        assert_eq!(seller.find(&request.key()).await.unwrap(), None);
    }
}
