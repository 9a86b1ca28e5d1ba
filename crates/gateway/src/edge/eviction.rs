//! Connections on which nothing is under way. Each ends after a while, and the one
//! that has rested longest makes room for a new one.
//!
//! A request costs the order of all of them nothing: it is looked after only when
//! somebody has to make room.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// After so long one that worked is looked at again; until then others make room.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// All connections, by since when they rest at the longest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resting(Arc<Mutex<Rows>>);

#[derive(Debug, Default)]
struct Rows {
    next: u64,
    /// A connection has rested since then at the longest: it may have worked meanwhile.
    order: BTreeSet<(Instant, u64)>,
    all: HashMap<u64, (Instant, Weak<Activity>)>,
}

impl Rows {
    fn place(&mut self, row: u64, since: Instant, activity: Weak<Activity>) {
        self.order.insert((since, row));
        self.all.insert(row, (since, activity));
    }

    fn remove(&mut self, row: u64) -> Option<Weak<Activity>> {
        let (since, activity) = self.all.remove(&row)?;
        self.order.remove(&(since, row));
        Some(activity)
    }
}

impl Resting {
    /// A connection that has just begun.
    pub(crate) fn begin(&self) -> Arc<Activity> {
        let since = Instant::now();
        let mut rows = self.rows();
        let row = rows.next;
        rows.next += 1;
        let state = Mutex::new(State::Rests { since });
        let activity = Activity { resting: self.clone(), row, evicted: CancellationToken::new(), state };
        let activity = Arc::new(activity);
        rows.place(row, since, Arc::downgrade(&activity));
        activity
    }

    /// Ends the connection that has rested longest.
    pub(crate) fn evict(&self) {
        if let Some(longest) = self.longest() {
            metrics::counter!("palatine_gateway_connections_evicted_total").increment(1);
            longest.evicted.cancel();
        }
    }

    /// Takes out the one that has rested longest. Those that have worked since they
    /// were put in order are put where they belong.
    fn longest(&self) -> Option<Arc<Activity>> {
        let now = Instant::now();
        loop {
            let mut rows = self.rows();
            let (since, row) = rows.order.first().copied().filter(|(since, _)| *since <= now)?;
            let activity = rows.remove(row)?.upgrade();
            let rests = activity.as_ref().map(|activity| activity.rests_since());
            match (activity, rests) {
                (Some(activity), Some(Some(truly))) if truly <= since => return Some(activity),
                (Some(activity), Some(truly)) => {
                    // One that works is looked at again after a while: many that work are
                    // not gone through for each that wants room.
                    let since = truly.unwrap_or(now + LOOK_AGAIN);
                    rows.place(row, since, Arc::downgrade(&activity));
                    // Its last holder may be gone: it takes itself out, for which it needs the rows.
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
pub(crate) struct Activity {
    resting: Resting,
    row: u64,
    evicted: CancellationToken,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Rests { since: Instant },
    Works { requests: usize },
}

impl Activity {
    /// A request has come. It is under way until what this returns is dropped.
    pub(crate) fn work(self: &Arc<Self>) -> Work {
        let mut state = self.state();
        *state = match *state {
            State::Rests { .. } => State::Works { requests: 1 },
            State::Works { requests } => State::Works { requests: requests + 1 },
        };
        Work(Arc::clone(self))
    }

    fn done(&self) {
        let mut state = self.state();
        *state = match *state {
            State::Works { requests } if requests > 1 => State::Works { requests: requests - 1 },
            State::Works { .. } | State::Rests { .. } => State::Rests { since: Instant::now() },
        };
    }

    fn rests_since(&self) -> Option<Instant> {
        match *self.state() {
            State::Rests { since } => Some(since),
            State::Works { .. } => None,
        }
    }

    /// Waits until it has rested for so long. It looks when that can be at the
    /// earliest, and is not woken by each request.
    pub(crate) async fn rested(&self, most: Duration) {
        loop {
            match self.rests_since() {
                None => tokio::time::sleep(most).await,
                Some(since) if since.elapsed() >= most => return,
                Some(since) => tokio::time::sleep_until(since + most).await,
            }
        }
    }

    /// Waits until it has to make room.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.resting.rows().remove(self.row);
    }
}

/// A request that is under way.
#[derive(Debug)]
pub(crate) struct Work(Arc<Activity>);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.done();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(15);

    #[tokio::test(start_paused = true)]
    async fn fault_2_4_a_connection_rests_from_the_end_of_its_last_request() {
        let (began, activity) = (Instant::now(), Resting::default().begin());
        let (first, second) = (activity.work(), activity.work());
        let rested = activity.rested(IDLE);
        tokio::pin!(rested);
        drop(first);
        assert!(tokio::time::timeout(Duration::from_secs(60), &mut rested).await.is_err());
        drop(second);
        rested.await;
        assert_eq!(began.elapsed(), Duration::from_secs(75));
    }

    #[tokio::test(start_paused = true)]
    async fn fault_2_4_the_one_that_has_rested_longest_makes_room_and_none_that_works() {
        let resting = Resting::default();
        let all = [resting.begin(), resting.begin(), resting.begin()];
        let is_evicted = || all.iter().map(|one| one.evicted.is_cancelled()).collect::<Vec<_>>();
        let works = all[1].work();
        tokio::time::advance(Duration::from_millis(1)).await;
        drop(all[0].work());
        resting.evict();
        assert_eq!(is_evicted(), [false, false, true]);
        resting.evict();
        resting.evict();
        assert_eq!(is_evicted(), [true, false, true]);
        // The one that works is not taken, however often somebody looks.
        resting.evict();
        assert_eq!(is_evicted(), [true, false, true]);
        drop(works);
        resting.evict();
        assert_eq!(is_evicted(), [true, false, true]);
        tokio::time::advance(LOOK_AGAIN).await;
        resting.evict();
        assert_eq!(is_evicted(), [true, true, true]);
        drop((all, resting.begin()));
        let rows = resting.rows();
        assert!(rows.order.is_empty() && rows.all.is_empty());
    }
}
