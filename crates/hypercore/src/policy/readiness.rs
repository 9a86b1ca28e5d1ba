//! How often a guest may become ready again: each time costs the node two synced
//! writes and two places in the journal, and a guest decides when. Counted boot by
//! boot: how often a guest boots is bounded by the restart policy.

use std::collections::VecDeque;

use domain::UnixMillis;

/// When a guest became ready, as far back as it counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness(VecDeque<UnixMillis>);

impl Readiness {
    /// Times in one window, at most.
    pub(crate) const MOST: usize = 10;
    /// The window, in milliseconds.
    pub(crate) const WINDOW_MS: u64 = 600_000;

    /// For how many milliseconds another readiness is not believed, if it is not.
    pub(crate) fn held_ms(&mut self, now: UnixMillis) -> Option<u64> {
        // A clock that went back makes an old time count for longer, never for less.
        self.0.retain(|at| now.since(*at) < Self::WINDOW_MS);
        let oldest = (self.0.len() >= Self::MOST).then(|| self.0.front()).flatten()?;
        Some(oldest.plus(Self::WINDOW_MS).since(now).clamp(1, Self::WINDOW_MS))
    }

    /// It became ready.
    pub(crate) fn note(&mut self, now: UnixMillis) {
        self.0.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fault_1_9_no_window_holds_more_than_the_most(gaps in proptest::collection::vec(0_u64..200_000, 1..120)) {
            let (mut readiness, mut now, mut times) = (Readiness::default(), UnixMillis(0), Vec::new());
            for gap in gaps {
                now = now.plus(gap);
                if let Some(wait) = readiness.held_ms(now) {
                    now = now.plus(wait);
                    prop_assert_eq!(readiness.held_ms(now), None, "a wait of {} ms was not enough", wait);
                }
                readiness.note(now);
                times.push(now);
                let recent = times.iter().filter(|at| now.since(**at) < Readiness::WINDOW_MS).count();
                prop_assert!(recent <= Readiness::MOST);
                prop_assert!(readiness.0.len() <= Readiness::MOST);
            }
        }
    }
}
