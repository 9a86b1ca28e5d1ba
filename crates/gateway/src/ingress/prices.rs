//! The agents' prices, cached: never older than the last change that was answered, and
//! read again now and then.
//!
//! A read may begin before a change of prices and end after it. So each is cached under
//! the count of changes from before it began: whoever asks after a change looks under
//! another count, where the old prices are not.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::{PodId, Usdc};
use moka::future::Cache;
use store::StoreError;

/// Agents whose prices are cached, at most.
const HELD: u64 = 10_000;
/// How long prices are cached at most.
const LASTS: Duration = Duration::from_secs(30);
/// Counters of changes: agents share one whose ids end alike.
const COUNTS: u64 = 1024;
/// Prices by the beginning of a path.
pub(crate) type Prices = BTreeMap<String, Usdc>;

/// All agents' prices, as far as they are cached.
pub(crate) struct PriceCache {
    held: Cache<(PodId, u64), Arc<Prices>>,
    changes: Vec<AtomicU64>,
    /// Of a seed of its own: nobody chooses ids that fall on one count.
    hasher: RandomState,
}

impl PriceCache {
    pub(crate) fn new() -> Self {
        Self::holding(LASTS)
    }

    fn holding(lasts: Duration) -> Self {
        Self {
            held: Cache::builder().max_capacity(HELD).time_to_live(lasts).build(),
            changes: (0..COUNTS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }

    /// An agent's prices. Whoever asks at the same time waits for the same read.
    pub(crate) async fn of(
        &self,
        agent: PodId,
        read: impl Future<Output = Result<Prices, StoreError>>,
    ) -> Result<Arc<Prices>, StoreError> {
        let changes = self.count(agent).load(Ordering::SeqCst);
        let reading = async { read.await.map(Arc::new) };
        self.held.try_get_with((agent, changes), reading).await.map_err(|error| (*error).clone())
    }

    /// Says that an agent's prices have changed, once they have.
    pub(crate) fn changed(&self, agent: PodId) {
        self.count(agent).fetch_add(1, Ordering::SeqCst);
    }

    fn count(&self, agent: PodId) -> &AtomicU64 {
        let hash = self.hasher.hash_one(agent);
        &self.changes[usize::try_from(hash % COUNTS).unwrap_or_default()]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Semaphore;

    use super::*;

    fn agent() -> PodId {
        PodId::minted(domain::RunId::from_bits(7))
    }

    /// A store whose readings take what is in it when they begin, and end when they
    /// are let.
    struct SlowStore {
        price: Mutex<u64>,
        begun: AtomicUsize,
        ends: Semaphore,
    }

    impl SlowStore {
        fn new() -> Self {
            Self { price: Mutex::new(1), begun: AtomicUsize::new(0), ends: Semaphore::new(0) }
        }

        async fn read(&self) -> Result<Prices, StoreError> {
            let price = *self.price.lock().unwrap();
            self.begun.fetch_add(1, Ordering::SeqCst);
            self.ends.acquire().await.unwrap().forget();
            Ok([("/".to_owned(), Usdc(price))].into())
        }

        fn set(&self, price: u64, table: &PriceCache) {
            *self.price.lock().unwrap() = price;
            table.changed(agent());
        }
    }

    async fn ask(table: &PriceCache, store: &SlowStore) -> Usdc {
        table.of(agent(), store.read()).await.unwrap()["/"]
    }

    #[tokio::test]
    async fn fault_2_10_a_reading_that_a_change_overtakes_is_not_held() {
        let (table, store) = (PriceCache::new(), SlowStore::new());
        let change = async {
            while store.begun.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            store.set(2, &table);
            store.ends.add_permits(1);
        };
        // The reading ends after the change, with what was before it.
        let (early, ()) = tokio::join!(ask(&table, &store), change);
        assert_eq!(early, Usdc(1));
        store.ends.add_permits(1);
        let (one, two) = tokio::join!(ask(&table, &store), ask(&table, &store));
        assert_eq!((one, two, ask(&table, &store).await), (Usdc(2), Usdc(2), Usdc(2)));
        assert_eq!(store.begun.load(Ordering::SeqCst), 2, "read once after the change, and held");
    }

    #[tokio::test]
    async fn fault_2_10_prices_are_held_for_a_time_only() {
        let (table, store) = (PriceCache::holding(Duration::from_millis(20)), SlowStore::new());
        store.ends.add_permits(Semaphore::MAX_PERMITS / 2);
        assert_eq!(ask(&table, &store).await, Usdc(1));
        // Another gateway on this store has changed them: nobody says so here.
        *store.price.lock().unwrap() = 2;
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while ask(&table, &store).await != Usdc(2) {
            assert!(std::time::Instant::now() < deadline, "they are held for ever");
            tokio::task::yield_now().await;
        }
    }
}
