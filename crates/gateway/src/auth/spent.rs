//! The signatures that were spent lately, in memory: a replay of one is refused without
//! asking the store, and counts against nobody. The store has all of them; this is a cache.

use std::collections::HashSet;
use std::mem;
use std::sync::{Mutex, PoisonError};

/// Two generations of keys: when the young one is full it becomes the old one.
pub(crate) struct SpentSignatures {
    generations: Mutex<Generations>,
    most: usize,
}

#[derive(Default)]
struct Generations {
    young: HashSet<[u8; 32]>,
    old: HashSet<[u8; 32]>,
}

impl SpentSignatures {
    /// Remembers at least the last `most` keys, and at most twice as many.
    pub(crate) fn new(most: u32) -> Self {
        Self { generations: Mutex::default(), most: usize::try_from(most).unwrap_or(usize::MAX) }
    }

    /// Whether this one is known to be spent.
    pub(crate) fn contains(&self, key: &[u8; 32]) -> bool {
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.contains(key) || generations.old.contains(key)
    }

    /// Notes one that the store has spent.
    pub(crate) fn insert(&self, key: [u8; 32]) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if generations.young.len() >= self.most {
            generations.old = mem::take(&mut generations.young);
        }
        generations.young.insert(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_known_and_memory_is_bounded() {
        let spent = SpentSignatures::new(100);
        let key = |number: u32| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_le_bytes());
            key
        };
        (0..1000).for_each(|number| spent.insert(key(number)));
        assert!((900..1000).all(|number| spent.contains(&key(number))));
        assert!(!spent.contains(&key(0)) && !spent.contains(&key(1000)));
        let generations = spent.generations.lock().unwrap();
        assert!(generations.young.len() + generations.old.len() <= 200);
    }
}
