//! The relayer's journal, over the store.

use std::sync::Arc;

use alloy_primitives::B256;
use async_trait::async_trait;
use relay::journal::{Admission, Charge, Counts, End, Entry, Journal, JournalError, Lane, Quota, State};
use store::{RelayMet, RelayPayment, RelayProgress, RelayQuota, RelayRow, RelayWish, Store, StoreError};

/// Tries to step an entry that others step at the same time.
const MAX_TRIES: usize = 16;

/// The relayer's journal.
#[must_use]
pub fn journal(store: &Store) -> Arc<dyn Journal> {
    Arc::new(StoreJournal(store.clone()))
}

/// All entries.
#[derive(Clone, Debug)]
pub(crate) struct StoreJournal(pub(crate) Store);

#[async_trait]
impl Journal for StoreJournal {
    async fn admit(&self, entries: &[Entry], quotas: &[Quota]) -> Result<Admission, JournalError> {
        let wish = RelayWish {
            rows: entries.iter().map(row).collect::<Result<_, _>>()?,
            payments: entries.iter().filter_map(|entry| entry.payment.as_ref()).map(payment).collect(),
            quotas: quotas.iter().map(quota).collect(),
        };
        Ok(match self.0.relay_admit(wish).await.map_err(unavailable)? {
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

    async fn find(&self, id: B256) -> Result<Option<Entry>, JournalError> {
        self.0.relay_find(id).await.map_err(unavailable)?.as_ref().map(entry).transpose()
    }

    async fn step(&self, id: B256, next: &State) -> Result<Entry, JournalError> {
        for _ in 0..MAX_TRIES {
            let held = self.0.relay_find(id).await.map_err(unavailable)?;
            let held = held.ok_or_else(|| JournalError(format!("nothing was taken on as {id}")))?;
            let known = entry(&held)?;
            if !known.state.may_become(next) {
                return Ok(known);
            }
            let stepped = Entry { state: next.clone(), ..known };
            if self.0.relay_step(held, row(&stepped)?).await.map_err(unavailable)? {
                return Ok(stepped);
            }
        }
        Err(JournalError(format!("{id} changes faster than it can be stepped")))
    }

    async fn open(&self, limit: usize) -> Result<Vec<Entry>, JournalError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        self.0.relay_open(limit).await.map_err(unavailable)?.iter().map(entry).collect()
    }

    async fn counts(&self) -> Result<Counts, JournalError> {
        let counts = self.0.relay_counts().await.map_err(unavailable)?;
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

fn payment(charge: &Charge) -> RelayPayment {
    let authorization = &charge.payment.authorization;
    let name = [charge.payment.token.as_slice(), authorization.from.as_slice(), authorization.nonce.as_slice()];
    RelayPayment { name: name.concat(), group: charge.group }
}

fn quota(quota: &Quota) -> RelayQuota {
    RelayQuota { subject: quota.subject.clone(), day: quota.day, add: quota.add, limit: quota.limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_journal_over_the_store_does_what_every_journal_must() {
        let room = tempfile::tempdir().unwrap();
        let config = store::Config { directory: room.path().to_owned(), ..store::Config::default() };
        let store = Store::open(&config).unwrap();
        relay::conformance::run(&StoreJournal(store)).await.unwrap();
    }
}
