//! Permits for payments that are checked or settled: so many in all, and a share of
//! them for each client and each payer. Whoever finds none waits for his turn, for a
//! while.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::{Address, ClientAddr};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Payments that wait for a permit at once; more are refused.
const MAX_WAITING: usize = 4096;
/// Of these, those of one client, and those of one payer.
const MAX_WAITING_EACH: usize = 256;
/// How long one waits for a permit.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// How many permits there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PermitLimits {
    pub(crate) all: usize,
    pub(crate) per_client: usize,
    pub(crate) per_payer: usize,
}

/// All permits.
pub(crate) struct Permits {
    all: Arc<Semaphore>,
    clients: Arc<KeyedPermits<ClientAddr>>,
    payers: Arc<KeyedPermits<Address>>,
    waiting: AtomicUsize,
}

/// One payment's permit; free again when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _payer: KeyedPermit<Address>,
    _client: KeyedPermit<ClientAddr>,
    _all: OwnedSemaphorePermit,
}

impl Permits {
    pub(crate) fn new(limits: PermitLimits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.all)),
            clients: Arc::new(KeyedPermits::new(limits.per_client)),
            payers: Arc::new(KeyedPermits::new(limits.per_payer)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// A permit for a payment of this payer, which this client has brought; none if
    /// too many wait, or it does not come free in time.
    pub(crate) async fn acquire(&self, client: ClientAddr, payer: Address) -> Option<Permit> {
        let _queued = WaitGuard::join(&self.waiting)?;
        // The shares first, the payer's before that of its address, which others have too:
        // a wait holds nobody else up.
        let taking = async {
            let payer = self.payers.take(payer).await?;
            let client = self.clients.take(client).await?;
            let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
            Some(Permit { _payer: payer, _client: client, _all: all })
        };
        timeout(MAX_WAIT, taking).await.ok().flatten()
    }
}

/// Counts one that waits, until dropped.
struct WaitGuard<'a>(&'a AtomicUsize);

impl<'a> WaitGuard<'a> {
    fn join(waiting: &'a AtomicUsize) -> Option<Self> {
        let more = |count: usize| (count < MAX_WAITING).then_some(count + 1);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self(waiting))
    }
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The same number of permits for each key. A key that nobody uses takes no memory.
#[derive(Debug)]
struct KeyedPermits<K> {
    each: usize,
    held: Mutex<HashMap<K, KeyEntry>>,
}

#[derive(Debug)]
struct KeyEntry {
    permits: Arc<Semaphore>,
    users: usize,
}

/// One of a key's permits.
#[derive(Debug)]
struct KeyedPermit<K: Hash + Eq + Copy> {
    _permit: OwnedSemaphorePermit,
    _user: KeyUser<K>,
}

/// Somebody who has a permit of a key, or waits for one.
#[derive(Debug)]
struct KeyUser<K: Hash + Eq + Copy> {
    shares: Arc<KeyedPermits<K>>,
    key: K,
}

impl<K: Hash + Eq + Copy> KeyedPermits<K> {
    fn new(each: usize) -> Self {
        Self { each, held: Mutex::default() }
    }

    async fn take(self: &Arc<Self>, key: K) -> Option<KeyedPermit<K>> {
        let (permits, user) = self.join(key)?;
        let permit = permits.acquire_owned().await.ok()?;
        Some(KeyedPermit { _permit: permit, _user: user })
    }

    /// Nothing, where as many of this key wait as may.
    fn join(self: &Arc<Self>, key: K) -> Option<(Arc<Semaphore>, KeyUser<K>)> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || KeyEntry { permits: Arc::new(Semaphore::new(self.each)), users: 0 };
        let shared = held.entry(key).or_insert_with(fresh);
        if shared.users >= self.each.saturating_add(MAX_WAITING_EACH) {
            return None;
        }
        shared.users += 1;
        Some((Arc::clone(&shared.permits), KeyUser { shares: Arc::clone(self), key }))
    }
}

impl<K: Hash + Eq + Copy> Drop for KeyUser<K> {
    fn drop(&mut self) {
        let mut held = self.shares.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = held.get_mut(&self.key) {
            shared.users -= 1;
            if shared.users == 0 {
                held.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::iter::repeat;

    use futures_util::FutureExt;
    use tokio::task::JoinHandle;

    use super::*;

    fn payer(n: u16) -> Address {
        Address::left_padding_from(&n.to_be_bytes())
    }

    #[tokio::test(start_paused = true)]
    async fn fault_2_3_neither_a_client_nor_a_payer_has_more_than_its_share() {
        let permits = Permits::new(PermitLimits { all: 100, per_client: 2, per_payer: 1 });
        let first = permits.acquire(ClientAddr(1), payer(1)).await.unwrap();
        let second = permits.acquire(ClientAddr(1), payer(2)).await.unwrap();
        assert!(permits.acquire(ClientAddr(1), payer(3)).now_or_never().is_none(), "the client's share is used up");
        assert!(permits.acquire(ClientAddr(2), payer(1)).now_or_never().is_none(), "the payer's share is used up");
        let other = permits.acquire(ClientAddr(2), payer(3)).await.unwrap();
        assert!(permits.acquire(ClientAddr(1), payer(4)).await.is_none(), "nobody made room in time");
        drop(first);
        drop(permits.acquire(ClientAddr(1), payer(4)).await.unwrap());
        drop((second, other));
        assert!(permits.clients.held.lock().unwrap().is_empty() && permits.payers.held.lock().unwrap().is_empty());
        assert_eq!((permits.all.available_permits(), permits.waiting.load(Ordering::Relaxed)), (100, 0));
    }

    /// Has so many more wait, of each of these clients and payers in turn.
    async fn queue_up(
        permits: &Arc<Permits>,
        count: usize,
        keys: impl Iterator<Item = (u128, u16)>,
    ) -> Vec<JoinHandle<bool>> {
        let before = permits.waiting.load(Ordering::Relaxed);
        let wait = |(client, of)| {
            let permits = Arc::clone(permits);
            tokio::spawn(async move { permits.acquire(ClientAddr(client), payer(of)).await.is_some() })
        };
        let waiting = keys.take(count).map(wait).collect();
        while permits.waiting.load(Ordering::Relaxed) < before + count {
            tokio::task::yield_now().await;
        }
        waiting
    }

    fn is_refused_at_once(permits: &Permits, client: u128, of: u16) -> bool {
        permits.acquire(ClientAddr(client), payer(of)).now_or_never().is_some_and(|permit| permit.is_none())
    }

    #[tokio::test(start_paused = true)]
    async fn fault_2_3_one_who_has_many_wait_leaves_others_room_to_wait() {
        let permits = Arc::new(Permits::new(PermitLimits { all: 2, per_client: 1, per_payer: 1 }));
        let held = permits.acquire(ClientAddr(1), payer(1)).await.unwrap();
        let mut waiting = queue_up(&permits, MAX_WAITING_EACH, repeat((1, 1))).await;
        assert!(is_refused_at_once(&permits, 2, 1), "the payer's share of the permits to wait");
        waiting.extend(queue_up(&permits, MAX_WAITING_EACH, (2..).map(|of| (1, of))).await);
        assert!(is_refused_at_once(&permits, 1, 999), "the client's share of the permits to wait");
        drop(permits.acquire(ClientAddr(2), payer(999)).await.unwrap());
        drop(held);
        for waiter in waiting {
            assert!(waiter.await.unwrap());
        }
        assert!(permits.clients.held.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_wait_than_may() {
        let permits = Arc::new(Permits::new(PermitLimits { all: 1, per_client: 1, per_payer: 1 }));
        let held = permits.acquire(ClientAddr(0), payer(0)).await.unwrap();
        let waiting = queue_up(&permits, MAX_WAITING, (1..18_u16).map(|n| (n.into(), n)).cycle()).await;
        assert!(is_refused_at_once(&permits, 20, 20));
        drop(held);
        for waiter in waiting {
            assert!(waiter.await.unwrap());
        }
    }
}
