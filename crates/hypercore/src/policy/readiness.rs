//! How often a guest may become ready again, and for how long it may be unready: each
//! time costs the node two synced writes and two places in the journal, and while it is
//! unready nobody pays for it; a guest decides when. What is more than its share is a
//! death. Counted boot by boot: how often a guest boots is bounded by the restart policy.

use std::collections::VecDeque;
use std::time::Duration;

use domain::UnixMillis;

/// When a guest became ready, and for how long it was not, as far back as it counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadinessHistory(VecDeque<(UnixMillis, Duration)>);

impl ReadinessHistory {
    /// Times in one window, at most.
    pub(crate) const MOST: usize = 10;
    /// The window, in milliseconds.
    pub(crate) const WINDOW_MS: u64 = 600_000;

    /// Whether it was ready as often as it may.
    pub(crate) fn is_spent(&mut self, now: UnixMillis) -> bool {
        self.forget(now);
        self.0.len() >= Self::MOST
    }

    /// For how long it may be unready now, when that may be so long in one window.
    pub(crate) fn left(&mut self, now: UnixMillis, most: Duration) -> Duration {
        self.forget(now);
        self.0.iter().fold(most, |left, (_, unready)| left.saturating_sub(*unready))
    }

    /// It became ready, after so long a time.
    pub(crate) fn note(&mut self, now: UnixMillis, unready: Duration) {
        self.0.push_back((now, unready));
    }

    /// A clock that went back makes an old time count for longer, never for less.
    fn forget(&mut self, now: UnixMillis) {
        self.0.retain(|(at, _)| now.since(*at) < Self::WINDOW_MS);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a boot may be unready in one window.
    const DEADLINE: Duration = Duration::from_secs(60);

    proptest! {
        #[test]
        fn fault_1_9_no_window_of_a_boot_holds_more_readinesses_or_more_unpaid_time_than_its_share(
            turns in proptest::collection::vec((0_u64..200_000, 0_u64..70_000), 1..120),
        ) {
            let (mut readiness, mut now, mut times) = (ReadinessHistory::default(), UnixMillis(0), Vec::new());
            for (ready_ms, unready_ms) in turns {
                let unready = Duration::from_millis(unready_ms);
                if unready > readiness.left(now, DEADLINE) {
                    break;
                }
                now = now.plus(unready_ms);
                if readiness.is_spent(now) {
                    break;
                }
                readiness.note(now, unready);
                times.push((now, unready));
                let recent = times.iter().filter(|(at, _)| now.since(*at) < ReadinessHistory::WINDOW_MS);
                prop_assert!(recent.clone().count() <= ReadinessHistory::MOST);
                // The one that just ended began when older ones still counted.
                let unpaid: Duration = recent.map(|(_, unready)| *unready).sum();
                prop_assert!(unpaid <= DEADLINE, "{:?}", unpaid);
                now = now.plus(ready_ms);
            }
        }
    }
}
