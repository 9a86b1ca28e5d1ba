//! The journal's rules over plain maps.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use alloy_primitives::B256;
use async_trait::async_trait;
use domain::relay::{
    DailyQuota, FinalStatus, ForwarderNonce, RelayAdmission, RelayCounts, RelayEntry, RelayJournal, RelayJournalError,
    RelayState,
};
use serde::{Deserialize, Serialize};

/// The journal's rules, and all it holds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct JournalState {
    entries: HashMap<B256, RelayEntry>,
    payments: HashMap<B256, B256>,
    counts: HashMap<String, u64>,
}

impl JournalState {
    /// See [`RelayJournal::admit`].
    pub fn admit(&mut self, entries: &[RelayEntry], quotas: &[DailyQuota]) -> RelayAdmission {
        if let Some(known) = entries.iter().find_map(|entry| self.in_the_way(entry)) {
            return RelayAdmission::Known(Box::new(known.clone()));
        }
        if let Some(nonce) = entries.iter().filter_map(|entry| entry.nonce).find(|nonce| self.holds(nonce, entries)) {
            return RelayAdmission::NonceTaken(nonce);
        }
        let fees = || entries.iter().filter_map(|entry| entry.payment.as_ref());
        if fees().any(|fee| self.payments.get(&fee.key()).is_some_and(|group| *group != fee.group)) {
            return RelayAdmission::PaymentUsed;
        }
        let fees: Vec<_> = fees().map(|fee| (fee.key(), fee.group)).collect();
        if let Some(subject) = self.count(quotas) {
            return RelayAdmission::OverQuota(subject);
        }
        self.payments.extend(fees);
        self.entries.extend(entries.iter().map(|entry| (entry.id, entry.clone())));
        RelayAdmission::New
    }

    /// See [`RelayJournal::count`].
    pub fn count_once(&mut self, once: &str, quotas: &[DailyQuota]) -> Option<String> {
        let day = quotas.first().map_or(0, |quota| quota.day);
        let once = DailyQuota { subject: format!("once:{once}"), day, add: 1, limit: 1 };
        if self.counts.contains_key(&name(&once)) {
            return None;
        }
        let over = self.count(quotas);
        if over.is_none() {
            self.counts.insert(name(&once), 1);
        }
        over
    }

    fn count(&mut self, quotas: &[DailyQuota]) -> Option<String> {
        let over =
            |quota: &&DailyQuota| self.counts.get(&name(quota)).unwrap_or(&0).saturating_add(quota.add) > quota.limit;
        if let Some(quota) = quotas.iter().find(over) {
            return Some(quota.subject.clone());
        }
        for quota in quotas {
            *self.counts.entry(name(quota)).or_default() += quota.add;
        }
        None
    }

    fn in_the_way(&self, new: &RelayEntry) -> Option<&RelayEntry> {
        let old = self.entries.get(&new.id)?;
        (!old.is_replaced_by(new)).then_some(old)
    }

    fn holds(&self, nonce: &ForwarderNonce, new: &[RelayEntry]) -> bool {
        let others = self.entries.values().filter(|it| new.iter().all(|entry| entry.id != it.id));
        others.filter(|it| it.state.holds_nonce()).any(|it| it.nonce.as_ref() == Some(nonce))
    }

    /// See [`RelayJournal::step`].
    pub fn step(&mut self, id: B256, next: &RelayState) -> Option<RelayEntry> {
        let entry = self.entries.get_mut(&id)?;
        if entry.state.may_become(next) {
            entry.state = next.clone();
        }
        Some(entry.clone())
    }

    /// See [`RelayJournal::find`].
    #[must_use]
    pub fn find(&self, id: B256) -> Option<RelayEntry> {
        self.entries.get(&id).cloned()
    }

    /// See [`RelayJournal::open`].
    #[must_use]
    pub fn open(&self, limit: usize) -> Vec<RelayEntry> {
        let mut open: Vec<RelayEntry> = self.entries.values().filter(|it| it.state.is_open()).cloned().collect();
        open.sort_by_key(|entry| entry.at);
        open.truncate(limit);
        open
    }

    /// See [`RelayJournal::counts`].
    #[must_use]
    pub fn counts(&self) -> RelayCounts {
        let count = |is: &dyn Fn(&RelayState) -> bool| {
            u64::try_from(self.entries.values().filter(|it| is(&it.state)).count()).unwrap_or(u64::MAX)
        };
        let executed =
            |it: &RelayState| matches!(it, RelayState::Done { outcome, .. } if outcome.status == FinalStatus::Executed);
        RelayCounts {
            pending: count(&RelayState::is_open),
            executed: count(&executed),
            failed: count(&|it| !it.is_open() && !executed(it) && !matches!(it, RelayState::Unpaid { .. })),
        }
    }
}

fn name(quota: &DailyQuota) -> String {
    format!("{} {}", quota.day, quota.subject)
}

/// A journal that forgets all when the process ends.
#[derive(Debug, Default)]
pub struct MemoryJournal(Mutex<JournalState>);

impl MemoryJournal {
    /// A journal that holds this already.
    #[must_use]
    pub fn with(state: JournalState) -> Self {
        Self(Mutex::new(state))
    }

    /// All it holds: what a journal would find after a crash right now.
    #[must_use]
    pub fn state(&self) -> JournalState {
        self.locked(|state| state.clone())
    }

    fn locked<T>(&self, work: impl FnOnce(&mut JournalState) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl RelayJournal for MemoryJournal {
    async fn admit(&self, entries: &[RelayEntry], quotas: &[DailyQuota]) -> Result<RelayAdmission, RelayJournalError> {
        Ok(self.locked(|state| state.admit(entries, quotas)))
    }

    async fn count(&self, once: &str, quotas: &[DailyQuota]) -> Result<Option<String>, RelayJournalError> {
        Ok(self.locked(|state| state.count_once(once, quotas)))
    }

    async fn find(&self, id: B256) -> Result<Option<RelayEntry>, RelayJournalError> {
        Ok(self.locked(|state| state.find(id)))
    }

    async fn step(&self, id: B256, next: &RelayState) -> Result<RelayEntry, RelayJournalError> {
        self.locked(|state| state.step(id, next)).ok_or_else(|| RelayJournalError("no such entry".to_owned()))
    }

    async fn open(&self, limit: usize) -> Result<Vec<RelayEntry>, RelayJournalError> {
        Ok(self.locked(|state| state.open(limit)))
    }

    async fn counts(&self) -> Result<RelayCounts, RelayJournalError> {
        Ok(self.locked(|state| state.counts()))
    }
}
