//! What the relayer took on: unique names, forwarder nonces with one holder,
//! authorizations with one purpose (see `purposes`), daily quotas. An entry is JSON of
//! the domain's type; what is asked for has columns of its own.

use async_trait::async_trait;
use domain::B256;
use domain::payment::PaymentKey;
use domain::relay::{
    DailyQuota, FeePayment, FinalStatus, ForwarderNonce, RelayAdmission, RelayCounts, RelayEntry, RelayJournal,
    RelayJournalError, RelayState,
};

use crate::error::StoreError;
use crate::port::port;
use crate::store::Store;

/// Days for which quotas are kept.
pub(crate) const QUOTA_DAYS: u64 = 2;

/// How far an entry is, as the table counts it.
#[derive(Clone, Copy)]
pub(crate) enum Progress {
    Open,
    Executed,
    Failed,
    Unpaid,
}

impl Progress {
    pub(crate) const fn of(state: &RelayState) -> Self {
        match state {
            RelayState::Paying | RelayState::Sending { .. } => Self::Open,
            RelayState::Unpaid { .. } => Self::Unpaid,
            RelayState::Done { outcome, .. } => match outcome.status {
                FinalStatus::Executed => Self::Executed,
                FinalStatus::Reverted | FinalStatus::Failed | FinalStatus::Superseded => Self::Failed,
            },
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Executed => "executed",
            Self::Failed => "failed",
            Self::Unpaid => "unpaid",
        }
    }
}

port! {
    /// The relayer's journal, as [`RelayJournal`] speaks of it.
    RelayStore {
        /// Takes entries on, all or none.
        fn relay_admit(&self, entries: Vec<RelayEntry>, quotas: Vec<DailyQuota>) -> RelayAdmission;

        /// Counts, all or none; answers whose quota would be passed. What was counted on
        /// that day under the name `once` is not again.
        fn relay_count(&self, once: &str, quotas: Vec<DailyQuota>) -> Option<String>;

        /// Steps an entry on where it may go; the entry as it stands then.
        fn relay_step(&self, id: B256, next: RelayState) -> Option<RelayEntry>;

        /// The entry of this name.
        fn relay_find(&self, id: B256) -> Option<RelayEntry>;

        /// Open entries, the oldest first.
        fn relay_open(&self, limit: u32) -> Vec<RelayEntry>;

        /// How many entries there are.
        fn relay_counts(&self) -> RelayCounts;
    }
}

/// The nonces that these entries are to hold; one that two of them ask for is the error.
pub(crate) fn nonces(entries: &[RelayEntry]) -> Result<Vec<(B256, ForwarderNonce)>, ForwarderNonce> {
    let mut asked: Vec<(B256, ForwarderNonce)> = Vec::new();
    for entry in entries.iter().filter(|entry| entry.state.holds_nonce()) {
        let Some(nonce) = entry.nonce else { continue };
        if asked.iter().any(|(_, earlier)| *earlier == nonce) {
            return Err(nonce);
        }
        asked.push((entry.id, nonce));
    }
    Ok(asked)
}

/// What pays for these entries; `None` if two of them name one authorization for two
/// groups.
pub(crate) fn payments(entries: &[RelayEntry]) -> Option<Vec<(PaymentKey, &FeePayment)>> {
    let mut found: Vec<(PaymentKey, &FeePayment)> = Vec::new();
    for payment in entries.iter().filter_map(|entry| entry.payment.as_ref()) {
        let key = payment.signed.authorization.key();
        if found.iter().any(|(earlier, other)| *earlier == key && other.group != payment.group) {
            return None;
        }
        found.push((key, payment));
    }
    Some(found)
}

/// How much these quotas would add up to the one at this place, itself included.
pub(crate) fn added(quotas: &[DailyQuota], at: usize) -> u64 {
    let same = |other: &&DailyQuota| (&other.subject, other.day) == (&quotas[at].subject, quotas[at].day);
    quotas[..=at].iter().filter(same).fold(0, |sum: u64, quota| sum.saturating_add(quota.add))
}

/// The mark that something is counted once on the day of these quotas.
pub(crate) fn once(name: &str, quotas: &[DailyQuota]) -> DailyQuota {
    let day = quotas.first().map_or(0, |quota| quota.day);
    DailyQuota { subject: format!("once:{name}"), day, add: 1, limit: 1 }
}

/// The journal of one chain's relayer in this store.
#[derive(Clone, Debug)]
pub struct StoreRelayJournal {
    store: Store,
    chain_id: u64,
}

impl Store {
    /// The journal of the relayer on this chain.
    #[must_use]
    pub fn relay_journal(&self, chain_id: u64) -> StoreRelayJournal {
        StoreRelayJournal { store: self.clone(), chain_id }
    }
}

impl StoreRelayJournal {
    /// The last version wrote fees down without their chain: it is this one.
    fn here(&self, mut entry: RelayEntry) -> RelayEntry {
        if let Some(payment) = &mut entry.payment {
            payment.signed.authorization = payment.signed.authorization.on_chain(self.chain_id);
        }
        entry
    }
}

#[async_trait]
impl RelayJournal for StoreRelayJournal {
    async fn admit(&self, entries: &[RelayEntry], quotas: &[DailyQuota]) -> Result<RelayAdmission, RelayJournalError> {
        let admitted = self.store.relay_admit(entries.to_vec(), quotas.to_vec()).await;
        Ok(match admitted.map_err(unavailable)? {
            RelayAdmission::Known(entry) => RelayAdmission::Known(Box::new(self.here(*entry))),
            other => other,
        })
    }

    async fn count(&self, once: &str, quotas: &[DailyQuota]) -> Result<Option<String>, RelayJournalError> {
        self.store.relay_count(once, quotas.to_vec()).await.map_err(unavailable)
    }

    async fn find(&self, id: B256) -> Result<Option<RelayEntry>, RelayJournalError> {
        Ok(self.store.relay_find(id).await.map_err(unavailable)?.map(|entry| self.here(entry)))
    }

    async fn step(&self, id: B256, next: &RelayState) -> Result<RelayEntry, RelayJournalError> {
        let stepped = self.store.relay_step(id, next.clone()).await.map_err(unavailable)?;
        let missing = || RelayJournalError(format!("nothing was taken on as {id}"));
        stepped.map(|entry| self.here(entry)).ok_or_else(missing)
    }

    async fn open(&self, limit: usize) -> Result<Vec<RelayEntry>, RelayJournalError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let open = self.store.relay_open(limit).await.map_err(unavailable)?;
        Ok(open.into_iter().map(|entry| self.here(entry)).collect())
    }

    async fn counts(&self) -> Result<RelayCounts, RelayJournalError> {
        self.store.relay_counts().await.map_err(unavailable)
    }
}

fn unavailable(error: StoreError) -> RelayJournalError {
    RelayJournalError(error.to_string())
}
