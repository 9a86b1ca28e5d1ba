//! The agents' ids: in one run of a gateway, each is larger than the last.

use std::sync::atomic::{AtomicU64, Ordering};

use domain::{RunId, UnixMillis};

#[derive(Default)]
pub(crate) struct RunIdGenerator {
    last: AtomicU64,
}

impl RunIdGenerator {
    /// The id of an agent asked for at `now`. Should the clock stand still or go
    /// back, the ids count on.
    pub(crate) fn next(&self, now: UnixMillis, random: u64) -> RunId {
        let fresh = RunId::at(now, random).bits();
        let mut id = fresh;
        self.last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                id = fresh.max(last.saturating_add(1));
                Some(id)
            })
            .ok();
        RunId::from_bits(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_even_when_the_clock_goes_back() {
        let ids = RunIdGenerator::default();
        let now = UnixMillis(1_795_000_000_000);
        let first = ids.next(now, u64::MAX);
        let all = [first, ids.next(now, 0), ids.next(UnixMillis(0), 7), ids.next(now.plus(1), 0)];
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
        assert_eq!(first, RunId::at(now, u64::MAX));
        assert!(all[3] >= RunId::at(now.plus(1), 0));
    }
}
