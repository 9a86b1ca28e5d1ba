//! When API keys were used last, in memory: the store hears of it now and then, in one write
//! for all of them.

use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use domain::{KeyId, UnixMillis};

/// Keys whose use is noted between two writes; of more, the use is noted later.
const MOST_NOTED: usize = 10_000;

/// When keys were used that the store does not know of yet.
#[derive(Default)]
pub(crate) struct KeyUses(Mutex<HashMap<KeyId, UnixMillis>>);

impl KeyUses {
    /// How often uses are written down, all in one write.
    pub(crate) const WRITE_EVERY: Duration = Duration::from_secs(60);

    pub(crate) fn note(&self, id: KeyId, now: UnixMillis) {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if uses.len() < MOST_NOTED || uses.contains_key(&id) {
            uses.insert(id, now);
        }
    }

    pub(crate) fn of(&self, id: KeyId) -> Option<UnixMillis> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied()
    }

    pub(crate) fn take(&self) -> Vec<(KeyId, UnixMillis)> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_use_of_each_key_is_noted_once_and_memory_is_bounded() {
        let uses = KeyUses::default();
        for n in 0..20_000 {
            uses.note(KeyId::from_bits(n), UnixMillis(1));
        }
        uses.note(KeyId::from_bits(7), UnixMillis(2));
        assert_eq!(uses.of(KeyId::from_bits(7)), Some(UnixMillis(2)));
        assert_eq!(uses.take().len(), MOST_NOTED);
        assert!(uses.take().is_empty());
    }
}
