//! Which agents a task of this process is working on.
//!
//! A look at the nodes takes time, and what it saw is old when it is compared
//! with the store. Whoever was being spawned at any moment of that look is left
//! to the task that spawns it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::RunId;

#[derive(Debug, Default)]
struct Sets {
    active: HashSet<RunId>,
    /// Active now, or at some moment since the look began.
    touched: HashSet<RunId>,
}

/// The agents being worked on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Busy(Arc<Mutex<Sets>>);

/// One agent is being worked on while this lives.
#[derive(Debug)]
pub(crate) struct Working {
    busy: Busy,
    id: RunId,
}

/// Why work was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    /// Somebody works on it.
    Already,
    /// All hands are full.
    TooMany,
}

impl Drop for Working {
    fn drop(&mut self) {
        self.busy.sets().active.remove(&self.id);
    }
}

impl Busy {
    fn sets(&self) -> MutexGuard<'_, Sets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins work on an agent, unless it is being worked on or `most` are.
    pub(crate) fn enter(&self, id: RunId, most: usize) -> Result<Working, Turned> {
        let mut sets = self.sets();
        if sets.active.contains(&id) {
            return Err(Turned::Already);
        }
        if sets.active.len() >= most {
            return Err(Turned::TooMany);
        }
        sets.active.insert(id);
        sets.touched.insert(id);
        Ok(Working { busy: self.clone(), id })
    }

    /// Begins a look at the nodes.
    pub(crate) fn look(&self) {
        let mut sets = self.sets();
        sets.touched = sets.active.clone();
    }

    /// Whoever was being worked on since the look began.
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
    fn whoever_was_busy_during_a_look_is_remembered_until_the_next() {
        let busy = Busy::default();
        let [before, during, after] = [1, 2, 3].map(RunId::from_bits);
        let first = busy.enter(before, 9);
        busy.look();
        drop(first);
        drop(busy.enter(during, 9));
        assert_eq!(busy.touched(), HashSet::from([before, during]));
        busy.look();
        assert!(busy.touched().is_empty());
        drop(busy.enter(after, 9));
        assert!(!busy.has(after));
    }

    #[test]
    fn one_more_than_allowed_is_turned_away() {
        let busy = Busy::default();
        let _one = busy.enter(RunId::from_bits(1), 1).unwrap();
        assert_eq!(busy.enter(RunId::from_bits(2), 1).unwrap_err(), Turned::TooMany);
        assert_eq!(busy.enter(RunId::from_bits(1), 9).unwrap_err(), Turned::Already);
    }
}
