//! Idle connections. Each ends after a while; while there is no room for a new one, the
//! one that has been idle longest is evicted.
//!
//! A request does not touch the order of the connections: it is put right only when one
//! has to be evicted.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// After so long a connection that was active is looked at again; until then others are evicted.
const RECHECK_AFTER: Duration = Duration::from_secs(1);

/// All connections, by the earliest instant since which each can have been idle.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionsByIdleTime(Arc<Mutex<Rows>>);

#[derive(Debug, Default)]
struct Rows {
    next: u64,
    /// No connection has been idle for longer than since then: it may have been active meanwhile.
    order: BTreeSet<(Instant, u64)>,
    all: HashMap<u64, (Instant, Weak<ConnectionActivity>)>,
}

impl Rows {
    fn insert(&mut self, row: u64, since: Instant, activity: Weak<ConnectionActivity>) {
        self.order.insert((since, row));
        self.all.insert(row, (since, activity));
    }

    fn remove(&mut self, row: u64) -> Option<Weak<ConnectionActivity>> {
        let (since, activity) = self.all.remove(&row)?;
        self.order.remove(&(since, row));
        Some(activity)
    }
}

impl ConnectionsByIdleTime {
    /// A connection that has just begun.
    pub(crate) fn register(&self) -> Arc<ConnectionActivity> {
        let since = Instant::now();
        let mut rows = self.rows();
        let row = rows.next;
        rows.next += 1;
        let state = Mutex::new(State::Idle { since });
        let activity = ConnectionActivity { connections: self.clone(), row, evicted: CancellationToken::new(), state };
        let activity = Arc::new(activity);
        rows.insert(row, since, Arc::downgrade(&activity));
        activity
    }

    /// Ends the connection that has been idle longest.
    pub(crate) fn evict(&self) {
        if let Some(connection) = self.take_longest_idle() {
            metrics::counter!("palatine_gateway_connections_evicted_total").increment(1);
            connection.evicted.cancel();
        }
    }

    /// Takes out the one that has been idle longest. Those that were active since they
    /// were put in order are put where they belong.
    fn take_longest_idle(&self) -> Option<Arc<ConnectionActivity>> {
        let now = Instant::now();
        loop {
            let mut rows = self.rows();
            let (since, row) = rows.order.first().copied().filter(|(since, _)| *since <= now)?;
            let activity = rows.remove(row)?.upgrade();
            let idle_since = activity.as_ref().map(|activity| activity.idle_since());
            match (activity, idle_since) {
                (Some(activity), Some(Some(actual))) if actual <= since => return Some(activity),
                (Some(activity), Some(actual)) => {
                    // An active one is looked at again after a while: many active ones are not
                    // gone through for each connection that needs room.
                    let since = actual.unwrap_or(now + RECHECK_AFTER);
                    rows.insert(row, since, Arc::downgrade(&activity));
                    // This may be the last reference: dropping it removes the row, which needs the lock.
                    drop(rows);
                }
                _ => {}
            }
        }
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is under way on one connection.
#[derive(Debug)]
pub(crate) struct ConnectionActivity {
    connections: ConnectionsByIdleTime,
    row: u64,
    evicted: CancellationToken,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Idle { since: Instant },
    Active { requests: usize },
}

impl ConnectionActivity {
    /// A request has come. It is under way until what this returns is dropped.
    pub(crate) fn start_request(self: &Arc<Self>) -> ActiveRequest {
        let mut state = self.state();
        *state = match *state {
            State::Idle { .. } => State::Active { requests: 1 },
            State::Active { requests } => State::Active { requests: requests + 1 },
        };
        ActiveRequest(Arc::clone(self))
    }

    fn done(&self) {
        let mut state = self.state();
        *state = match *state {
            State::Active { requests } if requests > 1 => State::Active { requests: requests - 1 },
            State::Active { .. } | State::Idle { .. } => State::Idle { since: Instant::now() },
        };
    }

    fn idle_since(&self) -> Option<Instant> {
        match *self.state() {
            State::Idle { since } => Some(since),
            State::Active { .. } => None,
        }
    }

    /// Waits until it has been idle for so long. It looks when that can be at the
    /// earliest, and is not woken by each request.
    pub(crate) async fn idle_for(&self, most: Duration) {
        loop {
            match self.idle_since() {
                None => tokio::time::sleep(most).await,
                Some(since) if since.elapsed() >= most => return,
                Some(since) => tokio::time::sleep_until(since + most).await,
            }
        }
    }

    /// Waits until it is evicted.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionActivity {
    fn drop(&mut self) {
        self.connections.rows().remove(self.row);
    }
}

/// A request that is under way.
#[derive(Debug)]
pub(crate) struct ActiveRequest(Arc<ConnectionActivity>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.done();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(15);

    #[tokio::test(start_paused = true)]
    async fn fault_2_4_a_connection_is_idle_from_the_end_of_its_last_request() {
        let (began, activity) = (Instant::now(), ConnectionsByIdleTime::default().register());
        let (first, second) = (activity.start_request(), activity.start_request());
        let idle = activity.idle_for(IDLE);
        tokio::pin!(idle);
        drop(first);
        assert!(tokio::time::timeout(Duration::from_secs(60), &mut idle).await.is_err());
        drop(second);
        idle.await;
        assert_eq!(began.elapsed(), Duration::from_secs(75));
    }

    #[tokio::test(start_paused = true)]
    async fn fault_2_4_the_one_that_has_rested_longest_makes_room_and_none_that_works() {
        let connections = ConnectionsByIdleTime::default();
        let all = [connections.register(), connections.register(), connections.register()];
        let is_evicted = || all.iter().map(|one| one.evicted.is_cancelled()).collect::<Vec<_>>();
        let works = all[1].start_request();
        tokio::time::advance(Duration::from_millis(1)).await;
        drop(all[0].start_request());
        connections.evict();
        assert_eq!(is_evicted(), [false, false, true]);
        connections.evict();
        connections.evict();
        assert_eq!(is_evicted(), [true, false, true]);
        // The one that works is not taken, however often somebody looks.
        connections.evict();
        assert_eq!(is_evicted(), [true, false, true]);
        drop(works);
        connections.evict();
        assert_eq!(is_evicted(), [true, false, true]);
        tokio::time::advance(RECHECK_AFTER).await;
        connections.evict();
        assert_eq!(is_evicted(), [true, true, true]);
        drop((all, connections.register()));
        let rows = connections.rows();
        assert!(rows.order.is_empty() && rows.all.is_empty());
    }
}
