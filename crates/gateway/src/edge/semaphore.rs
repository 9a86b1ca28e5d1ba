//! A semaphore for each key: so many at once of one key, whatever the others hold. Memory
//! is taken only by keys that somebody holds, or waits for.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many permits for each key.
#[derive(Debug)]
pub(crate) struct KeyedSemaphore<K> {
    held: Arc<Mutex<HashMap<K, Arc<Semaphore>>>>,
    most: usize,
}

impl<K> Clone for KeyedSemaphore<K> {
    fn clone(&self) -> Self {
        Self { held: Arc::clone(&self.held), most: self.most }
    }
}

impl<K: Clone + Eq + Hash> KeyedSemaphore<K> {
    pub(crate) fn new(most: u32) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { held: Arc::default(), most }
    }

    /// A permit of this key, if one is free.
    pub(crate) fn try_acquire(&self, key: K) -> Option<KeyedPermit<K>> {
        let entry = self.entry(key);
        let permit = Arc::clone(&entry.semaphore).try_acquire_owned().ok()?;
        Some(KeyedPermit { _permit: permit, _entry: entry })
    }

    /// So many permits of this key, if they are free.
    pub(crate) fn try_acquire_many(&self, key: K, count: u32) -> Option<KeyedPermit<K>> {
        let entry = self.entry(key);
        let permit = Arc::clone(&entry.semaphore).try_acquire_many_owned(count).ok()?;
        Some(KeyedPermit { _permit: permit, _entry: entry })
    }

    /// Waits for a permit of this key, first come, first served.
    pub(crate) async fn acquire(&self, key: K) -> Option<KeyedPermit<K>> {
        let entry = self.entry(key);
        let permit = Arc::clone(&entry.semaphore).acquire_owned().await.ok()?;
        Some(KeyedPermit { _permit: permit, _entry: entry })
    }

    fn entry(&self, key: K) -> Entry<K> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let semaphore = held.entry(key.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.most)));
        Entry { held: Arc::clone(&self.held), semaphore: Arc::clone(semaphore), key }
    }
}

/// A permit; given back when dropped.
#[derive(Debug)]
pub(crate) struct KeyedPermit<K: Eq + Hash> {
    // Dropped in this order: the last entry finds the permit gone.
    _permit: OwnedSemaphorePermit,
    _entry: Entry<K>,
}

/// Keeps a key's semaphore while somebody has a permit of it, or waits for one.
#[derive(Debug)]
struct Entry<K: Eq + Hash> {
    held: Arc<Mutex<HashMap<K, Arc<Semaphore>>>>,
    semaphore: Arc<Semaphore>,
    key: K,
}

impl<K: Eq + Hash> Drop for Entry<K> {
    fn drop(&mut self) {
        /// The reference of the map, and this one.
        const LAST: usize = 2;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::strong_count(&self.semaphore) == LAST {
            held.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_permit_is_free_again_when_it_is_dropped_and_nothing_is_kept_of_a_key() {
        let semaphore = KeyedSemaphore::new(1);
        let first = semaphore.try_acquire("a").unwrap();
        assert!(semaphore.try_acquire("a").is_none() && semaphore.try_acquire("b").is_some());
        let waiting = semaphore.acquire("a");
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(first);
        let second = waiting.await.unwrap();
        // One that gives up waiting leaves nothing behind.
        assert!(tokio::time::timeout(Duration::from_millis(1), semaphore.acquire("a")).await.is_err());
        drop(second);
        assert!(semaphore.held.lock().unwrap().is_empty());
    }
}
