//! Endpoints that fell behind: what they say is of another day.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long an answer is held against older ones. Then the best that is left
/// counts again, so that one wrong slot cannot blind us for good.
const WINDOW: Duration = Duration::from_secs(600);

/// The newest slot, or block, seen lately.
#[derive(Debug)]
pub(crate) struct LagGuard {
    max_lag: u64,
    seen: Mutex<Option<(u64, Instant)>>,
}

impl LagGuard {
    /// Zero never refuses.
    pub(crate) const fn new(max_lag: u64) -> Self {
        Self { max_lag, seen: Mutex::new(None) }
    }

    /// Refuses a slot that is too far behind, by telling how far, and remembers one
    /// that is ahead.
    pub(crate) fn check(&self, slot: u64, now: Instant) -> Result<(), u64> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match *seen {
            Some((newest, at)) if slot < newest && now.duration_since(at) < WINDOW => {
                let lag = newest - slot;
                if self.max_lag > 0 && lag > self.max_lag { Err(lag) } else { Ok(()) }
            }
            _ => {
                *seen = Some((slot, now));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_too_far_behind_is_refused_until_the_newest_is_forgotten() {
        let newest = LagGuard::new(10);
        let now = Instant::now();
        assert_eq!(newest.check(100, now), Ok(()));
        assert_eq!(newest.check(90, now), Ok(()));
        assert_eq!(newest.check(89, now), Err(11));
        assert_eq!(newest.check(89, now + WINDOW), Ok(()));
        assert_eq!(newest.check(90, now + WINDOW), Ok(()));
    }

    #[test]
    fn zero_asks_nothing() {
        let newest = LagGuard::new(0);
        let now = Instant::now();
        assert_eq!(newest.check(u64::MAX, now), Ok(()));
        assert_eq!(newest.check(0, now), Ok(()));
    }
}
