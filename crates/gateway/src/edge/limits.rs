//! How often one wallet or one address may ask. Memory is bounded whoever asks.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use domain::ClientAddr;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// Checks between two looks at how many keys are held: so many more than the
/// configured number there can be at most.
const LOOK_EVERY: u32 = 1024;
/// Groups that new keys share while the table is full.
const SHARED: u64 = 1024;

/// Asked too often; whole seconds to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateExceeded(pub(crate) u64);

/// A rate limiter over a bounded number of keys.
pub(crate) struct KeyedRateLimiter {
    limiter: DefaultKeyedRateLimiter<u64>,
    clock: DefaultClock,
    hasher: RandomState,
    tracked: usize,
    checks: AtomicU32,
    full: AtomicBool,
}

impl KeyedRateLimiter {
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
    pub(crate) fn check(&self, key: impl Hash) -> Result<(), RateExceeded> {
        let hash = self.hasher.hash_one(key);
        let key = if self.is_full() { hash % SHARED } else { hash };
        self.limiter.check_key(&key).map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            RateExceeded(wait.as_secs().saturating_add(1))
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
pub(crate) struct RateLimits {
    pub(crate) wallets: KeyedRateLimiter,
    pub(crate) addresses: KeyedRateLimiter,
    /// Apart from the rest, so that stopping works when everything else is spent.
    pub(crate) stops: KeyedRateLimiter,
    pub(crate) ingress: KeyedRateLimiter,
}

impl RateLimits {
    /// How often keys that are whole again are forgotten.
    pub(crate) const FORGET_EVERY: Duration = Duration::from_secs(30);

    pub(crate) fn new(limits: &crate::Limits) -> Self {
        Self {
            wallets: KeyedRateLimiter::per_minute(limits.wallet_per_minute, limits.tracked),
            addresses: KeyedRateLimiter::per_second(limits.address_per_second, limits.tracked),
            stops: KeyedRateLimiter::per_second(limits.address_per_second, limits.tracked),
            ingress: KeyedRateLimiter::per_second(limits.ingress_per_second, limits.tracked),
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
    ClientAddr::of(address).0
}

/// The wider block of an IPv6 address: the /48 that a provider gives to one site,
/// which holds 65,536 of what counts as one address.
pub(crate) fn client_block(address: IpAddr) -> Option<u128> {
    match address.to_canonical() {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(u128::from(address) >> 80),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_is_limited_and_another_is_not() {
        let rate = KeyedRateLimiter::per_minute(3, 100);
        for _ in 0..3 {
            assert_eq!(rate.check("a"), Ok(()));
        }
        assert!(matches!(rate.check("a"), Err(RateExceeded(1..=20))));
        assert_eq!(rate.check("b"), Ok(()));
    }

    #[test]
    fn a_flood_of_keys_takes_no_more_memory_than_was_given() {
        let rate = KeyedRateLimiter::per_minute(1, 5_000);
        let passed = (0..50_000_u32).filter(|key| rate.check(key).is_ok()).count();
        let bound = 5_000 + usize::try_from(u64::from(LOOK_EVERY) + SHARED).unwrap();
        assert!(rate.limiter.len() <= bound, "{}", rate.limiter.len());
        assert!(passed <= bound, "{passed}");
    }

    #[test]
    fn keys_that_are_whole_again_are_forgotten() {
        let rate = KeyedRateLimiter::per_second(1_000_000, 100);
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
}
