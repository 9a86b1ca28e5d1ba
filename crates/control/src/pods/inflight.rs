//! Which runs a task of this process is working on.
//!
//! A round of reconciliation takes time, and what it saw of the nodes is old when it is
//! compared with the store. Whatever was being spawned at any moment of that round is
//! left to the task that spawns it.
//!
//! How many there may be is counted by whom they are for, so that nobody takes the share
//! of another by asking often.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::RunId;

#[derive(Debug)]
struct Sets<K> {
    active: HashMap<RunId, K>,
    /// For whom, and how many.
    counted: HashMap<K, usize>,
    /// Active now, or at some moment since the round began.
    touched: HashSet<RunId>,
}

impl<K> Default for Sets<K> {
    fn default() -> Self {
        Self { active: HashMap::new(), counted: HashMap::new(), touched: HashSet::new() }
    }
}

impl<K: Copy + Eq + Hash> Sets<K> {
    fn leave(&mut self, id: RunId) {
        let Some(key) = self.active.remove(&id) else { return };
        if let Some(count) = self.counted.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.counted.remove(&key);
            }
        }
    }
}

/// The runs being worked on, counted by a key.
#[derive(Debug)]
pub(crate) struct Inflight<K>(Arc<Mutex<Sets<K>>>);

impl<K> Default for Inflight<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// One run is being worked on while this lives.
#[derive(Debug)]
pub(crate) struct Permit<K: Copy + Eq + Hash> {
    inflight: Arc<Mutex<Sets<K>>>,
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

impl<K: Copy + Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        self.inflight.lock().unwrap_or_else(PoisonError::into_inner).leave(self.id);
    }
}

impl<K: Copy + Eq + Hash> Inflight<K> {
    fn sets(&self) -> MutexGuard<'_, Sets<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins work on a run, unless it is being worked on, or runs of `most` others are.
    pub(crate) fn enter(&self, id: RunId, key: K, most: u32) -> Result<Permit<K>, NotPermitted> {
        let mut sets = self.sets();
        if sets.active.contains_key(&id) {
            return Err(NotPermitted::Inflight);
        }
        let has_room = u32::try_from(sets.counted.len()).is_ok_and(|counted| counted < most);
        if !has_room && !sets.counted.contains_key(&key) {
            return Err(NotPermitted::TooMany);
        }
        sets.active.insert(id, key);
        *sets.counted.entry(key).or_default() += 1;
        sets.touched.insert(id);
        Ok(Permit { inflight: Arc::clone(&self.0), id })
    }

    /// A round of reconciliation begins.
    pub(crate) fn begin_round(&self) {
        let mut sets = self.sets();
        sets.touched = sets.active.keys().copied().collect();
    }

    /// What was being worked on since the round began.
    pub(crate) fn touched(&self) -> HashSet<RunId> {
        self.sets().touched.clone()
    }

    /// Whether it is being worked on now.
    pub(crate) fn has(&self, id: RunId) -> bool {
        self.sets().active.contains_key(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_flight_during_a_round_is_remembered_until_the_next() {
        let inflight = Inflight::default();
        let [before, during, after] = [1, 2, 3].map(RunId::from_bits);
        let first = inflight.enter(before, before, 9);
        inflight.begin_round();
        drop(first);
        drop(inflight.enter(during, during, 9));
        assert_eq!(inflight.touched(), HashSet::from([before, during]));
        inflight.begin_round();
        assert!(inflight.touched().is_empty());
        drop(inflight.enter(after, after, 9));
        assert!(!inflight.has(after));
    }

    #[test]
    fn one_more_than_allowed_is_refused() {
        let inflight = Inflight::default();
        let _one = inflight.enter(RunId::from_bits(1), 'a', 1).unwrap();
        assert_eq!(inflight.enter(RunId::from_bits(2), 'b', 1).unwrap_err(), NotPermitted::TooMany);
        assert_eq!(inflight.enter(RunId::from_bits(1), 'a', 9).unwrap_err(), NotPermitted::Inflight);
    }

    #[test]
    fn whoever_asks_often_counts_once_and_until_the_last_is_done() {
        let inflight = Inflight::default();
        let enter = |n, key| inflight.enter(RunId::from_bits(n), key, 2);
        let many: Vec<_> = (1..=100).map(|n| enter(n, 'a').unwrap()).collect();
        let other = enter(101, 'b').unwrap();
        assert_eq!(enter(102, 'c').unwrap_err(), NotPermitted::TooMany);
        let mut many = many.into_iter();
        let last = many.next();
        drop(many);
        assert_eq!(enter(102, 'c').unwrap_err(), NotPermitted::TooMany);
        drop(last);
        assert!(enter(102, 'c').is_ok());
        drop(other);
        assert!(inflight.sets().counted.is_empty());
    }
}
