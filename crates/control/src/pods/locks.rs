//! One at a time for each run: what is sent to a node about it goes in order,
//! and what was sent without an answer is remembered until it cannot arrive.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::RunId;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

type RunLock = Arc<tokio::sync::Mutex<()>>;

/// A lock for each run that somebody works on.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunLocks(Arc<Mutex<HashMap<RunId, RunLock>>>);

/// Nobody else works on the run while this lives.
#[derive(Debug)]
pub(crate) struct RunGuard {
    locks: RunLocks,
    id: RunId,
    held: Option<OwnedMutexGuard<()>>,
}

impl RunLocks {
    fn table(&self) -> MutexGuard<'_, HashMap<RunId, RunLock>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else works on the run.
    pub(crate) async fn lock(&self, id: RunId) -> RunGuard {
        let lock = self.table().entry(id).or_default().clone();
        // Made before waiting: who gives up waiting tidies up too.
        let mut guard = RunGuard { locks: self.clone(), id, held: None };
        guard.held = Some(lock.lock_owned().await);
        guard
    }
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        self.held = None;
        let mut table = self.locks.table();
        // Nobody can take another copy while the table is held.
        if table.get(&self.id).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            table.remove(&self.id);
        }
    }
}

/// Runs whose creation was sent and never answered, and when that was.
#[derive(Debug, Default)]
pub(crate) struct UnansweredCreations(Mutex<HashMap<RunId, Instant>>);

impl UnansweredCreations {
    fn table(&self) -> MutexGuard<'_, HashMap<RunId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its creation may arrive at the node later than now.
    pub(crate) fn note(&self, id: RunId) {
        self.table().insert(id, Instant::now());
    }

    /// How much longer its creation may be under way, if it still may.
    pub(crate) fn remaining(&self, id: RunId, settle: Duration) -> Option<Duration> {
        let noted = *self.table().get(&id)?;
        settle.checked_sub(noted.elapsed()).filter(|rest| !rest.is_zero())
    }

    /// It has ended.
    pub(crate) fn forget(&self, id: RunId) {
        self.table().remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_run_is_worked_on_by_one_at_a_time_and_nothing_is_left_behind() {
        let locks = RunLocks::default();
        let id = RunId::from_bits(1);
        let first = locks.lock(id).await;
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { drop(locks.lock(id).await) }
        });
        let given_up = tokio::time::timeout(Duration::from_millis(20), locks.lock(id)).await;
        assert!(given_up.is_err());
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
        assert!(locks.table().is_empty());
    }
}
