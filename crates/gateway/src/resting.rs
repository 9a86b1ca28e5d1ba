//! Connections on which nothing is under way. Each ends after a while, and the one
//! that has rested longest makes room for a new one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// All that rest, in the order in which they began to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resting(Arc<Mutex<Rows>>);

#[derive(Debug, Default)]
struct Rows {
    next: u64,
    rows: BTreeMap<u64, CancellationToken>,
}

impl Resting {
    /// A connection that has just begun.
    pub(crate) fn begin(&self) -> Arc<Activity> {
        let evicted = CancellationToken::new();
        let state = State::Rests { since: Instant::now(), row: self.enter(&evicted) };
        Arc::new(Activity { resting: self.clone(), evicted, state: Mutex::new(state) })
    }

    /// Ends the connection that has rested longest.
    pub(crate) fn evict(&self) {
        if let Some((_, evicted)) = self.rows().rows.pop_first() {
            metrics::counter!("palatine_gateway_connections_evicted_total").increment(1);
            evicted.cancel();
        }
    }

    fn enter(&self, evicted: &CancellationToken) -> u64 {
        let mut rows = self.rows();
        let row = rows.next;
        rows.next += 1;
        rows.rows.insert(row, evicted.clone());
        row
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is under way on one connection.
#[derive(Debug)]
pub(crate) struct Activity {
    resting: Resting,
    evicted: CancellationToken,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Rests { since: Instant, row: u64 },
    Works { requests: usize },
}

impl Activity {
    /// A request has come. It is under way until what this returns is dropped.
    pub(crate) fn work(self: &Arc<Self>) -> Work {
        let mut state = self.state();
        *state = match *state {
            State::Rests { row, .. } => {
                self.resting.rows().rows.remove(&row);
                State::Works { requests: 1 }
            }
            State::Works { requests } => State::Works { requests: requests + 1 },
        };
        Work(Arc::clone(self))
    }

    fn done(&self) {
        let mut state = self.state();
        *state = match *state {
            State::Works { requests } if requests > 1 => State::Works { requests: requests - 1 },
            State::Works { .. } | State::Rests { .. } => {
                State::Rests { since: Instant::now(), row: self.resting.enter(&self.evicted) }
            }
        };
    }

    /// Waits until it has rested for so long. It looks when that can be at the
    /// earliest, and is not woken by each request.
    pub(crate) async fn rested(&self, most: Duration) {
        loop {
            let state = *self.state();
            match state {
                State::Works { .. } => tokio::time::sleep(most).await,
                State::Rests { since, .. } if since.elapsed() >= most => return,
                State::Rests { since, .. } => tokio::time::sleep_until(since + most).await,
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
        if let State::Rests { row, .. } = *self.state() {
            self.resting.rows().rows.remove(&row);
        }
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

    #[tokio::test]
    async fn fault_2_4_the_one_that_has_rested_longest_makes_room_and_none_that_works() {
        let resting = Resting::default();
        let all = [resting.begin(), resting.begin(), resting.begin()];
        let is_evicted = || all.iter().map(|one| one.evicted.is_cancelled()).collect::<Vec<_>>();
        let works = all[1].work();
        drop(all[0].work());
        resting.evict();
        assert_eq!(is_evicted(), [false, false, true]);
        resting.evict();
        resting.evict();
        assert_eq!(is_evicted(), [true, false, true]);
        drop(works);
        drop(all);
        assert!(resting.rows().rows.is_empty());
    }
}
