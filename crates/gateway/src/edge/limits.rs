//! How often one wallet or one address may ask, and how many connections it
//! may hold. Memory is bounded whoever asks.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::Client;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Checks between two looks at how many keys are held: so many more than the
/// configured number there can be at most.
const LOOK_EVERY: u32 = 1024;
/// Groups that new keys share while the table is full.
const SHARED: u64 = 1024;

/// Asked too often; whole seconds to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooOften(pub(crate) u64);

/// A rate limiter over a bounded number of keys.
pub(crate) struct Rate {
    limiter: DefaultKeyedRateLimiter<u64>,
    clock: DefaultClock,
    hasher: RandomState,
    tracked: usize,
    checks: AtomicU32,
    full: AtomicBool,
}

impl Rate {
    pub(crate) fn new(quota: Quota, tracked: u32) -> Self {
        Self {
            limiter: RateLimiter::keyed(quota),
            clock: DefaultClock::default(),
            hasher: RandomState::new(),
            tracked: usize::try_from(tracked).unwrap_or(usize::MAX),
            checks: AtomicU32::new(0),
            full: AtomicBool::new(false),
        }
    }

    /// So many a second, twice as many at once.
    pub(crate) fn per_second(count: u32, tracked: u32) -> Self {
        let count = NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        Self::new(
            Quota::per_second(count).allow_burst(count.saturating_mul(NonZeroU32::MIN.saturating_add(1))),
            tracked,
        )
    }

    /// So many a minute, and as many at once.
    pub(crate) fn per_minute(count: u32, tracked: u32) -> Self {
        Self::new(Quota::per_minute(NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN)), tracked)
    }

    /// Counts one request.
    pub(crate) fn check(&self, key: impl Hash) -> Result<(), TooOften> {
        let hash = self.hasher.hash_one(key);
        let key = if self.is_full() { hash % SHARED } else { hash };
        self.limiter.check_key(&key).map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            TooOften(wait.as_secs().saturating_add(1))
        })
    }

    /// Whether new keys must share; looks only now and then, since looking locks
    /// the whole table.
    fn is_full(&self) -> bool {
        if self.checks.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOK_EVERY) {
            let mut full = self.limiter.len() >= self.tracked;
            if full {
                self.forget();
                full = self.limiter.len() >= self.tracked;
            }
            self.full.store(full, Ordering::Relaxed);
        }
        self.full.load(Ordering::Relaxed)
    }

    /// Forgets the keys whose allowance is whole again.
    pub(crate) fn forget(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

/// The limits of one gateway.
pub(crate) struct Rates {
    pub(crate) wallets: Rate,
    pub(crate) addresses: Rate,
    /// Apart from the rest, so that stopping works when everything else is spent.
    pub(crate) stops: Rate,
    pub(crate) ingress: Rate,
}

impl Rates {
    /// How often keys that are whole again are forgotten.
    pub(crate) const FORGET_EVERY: Duration = Duration::from_secs(30);

    pub(crate) fn new(limits: &crate::Limits) -> Self {
        Self {
            wallets: Rate::per_minute(limits.wallet_per_minute, limits.tracked),
            addresses: Rate::per_second(limits.address_per_second, limits.tracked),
            stops: Rate::per_second(limits.address_per_second, limits.tracked),
            ingress: Rate::per_second(limits.ingress_per_second, limits.tracked),
        }
    }

    pub(crate) fn forget(&self) {
        for rate in [&self.wallets, &self.addresses, &self.stops, &self.ingress] {
            rate.forget();
        }
    }
}

/// What counts as one address: an IPv4 address, or the /64 a provider gives to
/// one customer.
pub(crate) fn client_key(address: IpAddr) -> u128 {
    Client::of(address).0
}

/// The wider block of an IPv6 address: the /48 that a provider gives to one site,
/// which holds 65,536 of what counts as one address.
pub(crate) fn client_block(address: IpAddr) -> Option<u128> {
    match address.to_canonical() {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(u128::from(address) >> 80),
    }
}

/// Places: so many at once for each key, whatever the others hold.
#[derive(Debug)]
pub(crate) struct Crowd<K> {
    held: Arc<Mutex<HashMap<K, Arc<Semaphore>>>>,
    most: usize,
}

impl<K> Clone for Crowd<K> {
    fn clone(&self) -> Self {
        Self { held: Arc::clone(&self.held), most: self.most }
    }
}

impl<K: Clone + Eq + Hash> Crowd<K> {
    pub(crate) fn new(most: u32) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { held: Arc::default(), most }
    }

    /// A place for one more of this key, if one is free.
    pub(crate) fn enter(&self, key: K) -> Option<Place<K>> {
        let mention = self.mention(key);
        let permit = Arc::clone(&mention.places).try_acquire_owned().ok()?;
        Some(Place { _permit: permit, _mention: mention })
    }

    /// So many places at once for this key, if they are free.
    pub(crate) fn enter_many(&self, key: K, count: u32) -> Option<Place<K>> {
        let mention = self.mention(key);
        let permit = Arc::clone(&mention.places).try_acquire_many_owned(count).ok()?;
        Some(Place { _permit: permit, _mention: mention })
    }

    /// Waits for a place for one more of this key, in the order of coming.
    pub(crate) async fn wait(&self, key: K) -> Option<Place<K>> {
        let mention = self.mention(key);
        let permit = Arc::clone(&mention.places).acquire_owned().await.ok()?;
        Some(Place { _permit: permit, _mention: mention })
    }

    fn mention(&self, key: K) -> Mention<K> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let places = held.entry(key.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.most)));
        Mention { held: Arc::clone(&self.held), places: Arc::clone(places), key }
    }
}

/// A place; freed when dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Eq + Hash> {
    // Dropped in this order: the last mention finds the permit gone.
    _permit: OwnedSemaphorePermit,
    _mention: Mention<K>,
}

/// Keeps a key's row while somebody has a place there, or waits for one.
#[derive(Debug)]
struct Mention<K: Eq + Hash> {
    held: Arc<Mutex<HashMap<K, Arc<Semaphore>>>>,
    places: Arc<Semaphore>,
    key: K,
}

impl<K: Eq + Hash> Drop for Mention<K> {
    fn drop(&mut self) {
        /// The row's own, and this one.
        const LAST: usize = 2;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::strong_count(&self.places) == LAST {
            held.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_is_limited_and_another_is_not() {
        let rate = Rate::per_minute(3, 100);
        for _ in 0..3 {
            assert_eq!(rate.check("a"), Ok(()));
        }
        assert!(matches!(rate.check("a"), Err(TooOften(1..=20))));
        assert_eq!(rate.check("b"), Ok(()));
    }

    #[test]
    fn a_flood_of_keys_takes_no_more_memory_than_was_given() {
        let rate = Rate::per_minute(1, 5_000);
        let passed = (0..50_000_u32).filter(|key| rate.check(key).is_ok()).count();
        let bound = 5_000 + usize::try_from(u64::from(LOOK_EVERY) + SHARED).unwrap();
        assert!(rate.limiter.len() <= bound, "{}", rate.limiter.len());
        assert!(passed <= bound, "{passed}");
    }

    #[test]
    fn keys_that_are_whole_again_are_forgotten() {
        let rate = Rate::per_second(1_000_000, 100);
        assert_eq!(rate.check("a"), Ok(()));
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while !rate.limiter.is_empty() && std::time::Instant::now() < deadline {
            rate.forget();
        }
        assert!(rate.limiter.is_empty());
    }

    #[test]
    fn fault_2_4_a_site_of_many_addresses_is_one_block() {
        let block = |text: &str| client_block(text.parse().unwrap());
        assert_eq!(block("2001:db8:1:2::1"), block("2001:db8:1:3::1"));
        assert_ne!(block("2001:db8:1:2::1"), block("2001:db8:2:2::1"));
        assert_eq!(block("::ffff:10.0.0.1"), None);
    }

    #[tokio::test]
    async fn a_place_is_free_again_when_its_holder_ends_and_nothing_is_kept_of_a_key() {
        let crowd = Crowd::new(1);
        let first = crowd.enter("a").unwrap();
        assert!(crowd.enter("a").is_none() && crowd.enter("b").is_some());
        let waiting = crowd.wait("a");
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(first);
        let second = waiting.await.unwrap();
        // One that gives up waiting leaves nothing behind.
        assert!(tokio::time::timeout(Duration::from_millis(1), crowd.wait("a")).await.is_err());
        drop(second);
        assert!(crowd.held.lock().unwrap().is_empty());
    }
}
