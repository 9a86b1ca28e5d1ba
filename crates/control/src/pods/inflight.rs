//! Which runs a task of this process is working on.
//!
//! A round of reconciliation takes time, and what it saw of the nodes is old when it is
//! compared with the store. Whatever was being spawned at any moment of that round is
//! left to the task that spawns it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::RunId;

#[derive(Debug, Default)]
struct Sets {
    active: HashSet<RunId>,
    /// Active now, or at some moment since the round began.
    touched: HashSet<RunId>,
}

/// The runs being worked on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inflight(Arc<Mutex<Sets>>);

/// One run is being worked on while this lives.
#[derive(Debug)]
pub(crate) struct Permit {
    inflight: Inflight,
    id: RunId,
}

/// Why work was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotPermitted {
    /// A task works on it already.
    Inflight,
    /// As many as may be are being worked on.
    TooMany,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.inflight.sets().active.remove(&self.id);
    }
}

impl Inflight {
    fn sets(&self) -> MutexGuard<'_, Sets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins work on a run, unless it is being worked on or `most` are.
    pub(crate) fn enter(&self, id: RunId, most: usize) -> Result<Permit, NotPermitted> {
        let mut sets = self.sets();
        if sets.active.contains(&id) {
            return Err(NotPermitted::Inflight);
        }
        if sets.active.len() >= most {
            return Err(NotPermitted::TooMany);
        }
        sets.active.insert(id);
        sets.touched.insert(id);
        Ok(Permit { inflight: self.clone(), id })
    }

    /// A round of reconciliation begins.
    pub(crate) fn begin_round(&self) {
        let mut sets = self.sets();
        sets.touched = sets.active.clone();
    }

    /// What was being worked on since the round began.
    pub(crate) fn touched(&self) -> HashSet<RunId> {
        self.sets().touched.clone()
    }

    /// Whether it is being worked on now.
    pub(crate) fn has(&self, id: RunId) -> bool {
        self.sets().active.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_flight_during_a_round_is_remembered_until_the_next() {
        let inflight = Inflight::default();
        let [before, during, after] = [1, 2, 3].map(RunId::from_bits);
        let first = inflight.enter(before, 9);
        inflight.begin_round();
        drop(first);
        drop(inflight.enter(during, 9));
        assert_eq!(inflight.touched(), HashSet::from([before, during]));
        inflight.begin_round();
        assert!(inflight.touched().is_empty());
        drop(inflight.enter(after, 9));
        assert!(!inflight.has(after));
    }

    #[test]
    fn one_more_than_allowed_is_refused() {
        let inflight = Inflight::default();
        let _one = inflight.enter(RunId::from_bits(1), 1).unwrap();
        assert_eq!(inflight.enter(RunId::from_bits(2), 1).unwrap_err(), NotPermitted::TooMany);
        assert_eq!(inflight.enter(RunId::from_bits(1), 9).unwrap_err(), NotPermitted::Inflight);
    }
}
