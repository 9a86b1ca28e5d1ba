//! When the agent's process is started again, and when no more. Pure.

use std::time::Duration;

/// How often and how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// The pause after the first quick death; doubles with each.
    pub(crate) first: Duration,
    /// The longest pause.
    pub(crate) longest: Duration,
    /// A life shorter than this is a quick death; a longer one forgives all.
    pub(crate) quick: Duration,
    /// Quick deaths in a row after which no more is tried.
    pub(crate) limit: u32,
}

impl Policy {
    /// What every guest uses.
    pub(crate) const POD: Self = Self {
        first: Duration::from_millis(200),
        longest: Duration::from_secs(10),
        quick: Duration::from_secs(10),
        limit: 6,
    };
}

/// What to do after a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Start again after this pause.
    Again(Duration),
    /// Give up.
    Enough,
}

/// The deaths so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deaths {
    policy: Policy,
    quick: u32,
}

impl Deaths {
    /// None so far.
    pub(crate) const fn new(policy: Policy) -> Self {
        Self { policy, quick: 0 }
    }

    /// Counts a death after a life of this length.
    pub(crate) fn count(&mut self, lived: Duration) -> Verdict {
        self.quick = if lived < self.policy.quick { self.quick + 1 } else { 0 };
        if self.quick >= self.policy.limit {
            return Verdict::Enough;
        }
        let doublings = self.quick.saturating_sub(1);
        let pause = self.policy.first.saturating_mul(2_u32.saturating_pow(doublings));
        Verdict::Again(pause.min(self.policy.longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUICK: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn pauses_double_and_then_it_is_enough() {
        let mut deaths = Deaths::new(Policy { limit: 5, ..Policy::POD });
        let pauses: Vec<Verdict> = (0..5).map(|_| deaths.count(QUICK)).collect();
        let again = |millis| Verdict::Again(Duration::from_millis(millis));
        assert_eq!(pauses, [again(200), again(400), again(800), again(1600), Verdict::Enough]);
    }

    #[test]
    fn a_long_life_forgives_the_deaths_before_it() {
        let mut deaths = Deaths::new(Policy { limit: 2, ..Policy::POD });
        for _ in 0..10 {
            assert_ne!(deaths.count(QUICK), Verdict::Enough);
            assert_ne!(deaths.count(LONG), Verdict::Enough);
        }
    }

    proptest! {
        #[test]
        fn every_pause_is_within_its_bounds_and_quick_deaths_end(lives in proptest::collection::vec(any::<bool>(), 0..100)) {
            let mut deaths = Deaths::new(Policy::POD);
            let mut in_a_row = 0;
            for quick in lives {
                in_a_row = if quick { in_a_row + 1 } else { 0 };
                match deaths.count(if quick { QUICK } else { LONG }) {
                    Verdict::Again(pause) => {
                        prop_assert!(pause >= Policy::POD.first && pause <= Policy::POD.longest);
                        prop_assert!(in_a_row < Policy::POD.limit);
                    }
                    Verdict::Enough => { prop_assert!(in_a_row >= Policy::POD.limit); break; }
                }
            }
        }
    }
}
