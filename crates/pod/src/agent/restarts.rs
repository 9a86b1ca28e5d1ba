//! When the agent's process is started again, and when no more. Pure.

use std::time::Duration;

use domain::Backoff;

/// How often and how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RestartPolicy {
    /// The pauses after short runs in a row.
    pub(crate) backoff: Backoff,
    /// A run shorter than this counts; a longer one sets the count back to 0.
    pub(crate) short_run: Duration,
    /// Short runs in a row after which no more is tried.
    pub(crate) max_short_runs: u32,
}

impl RestartPolicy {
    /// What every pod uses.
    pub(crate) const DEFAULT: Self = Self {
        backoff: Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(10) },
        short_run: Duration::from_secs(10),
        max_short_runs: 6,
    };
}

/// What to do after an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestartDecision {
    /// Start again after this pause.
    RestartAfter(Duration),
    /// Do not start again.
    GiveUp,
}

/// The exits so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RestartCounter {
    policy: RestartPolicy,
    short_runs: u32,
}

impl RestartCounter {
    /// None so far.
    pub(crate) const fn new(policy: RestartPolicy) -> Self {
        Self { policy, short_runs: 0 }
    }

    /// Counts an exit after a run of this length.
    pub(crate) fn record(&mut self, ran_for: Duration) -> RestartDecision {
        self.short_runs = if ran_for < self.policy.short_run { self.short_runs + 1 } else { 0 };
        if self.short_runs >= self.policy.max_short_runs {
            return RestartDecision::GiveUp;
        }
        RestartDecision::RestartAfter(self.policy.backoff.after(self.short_runs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHORT: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn pauses_double_and_then_it_is_given_up() {
        let mut counter = RestartCounter::new(RestartPolicy { max_short_runs: 5, ..RestartPolicy::DEFAULT });
        let pauses: Vec<RestartDecision> = (0..5).map(|_| counter.record(SHORT)).collect();
        let restart = |millis| RestartDecision::RestartAfter(Duration::from_millis(millis));
        assert_eq!(pauses, [restart(200), restart(400), restart(800), restart(1600), RestartDecision::GiveUp]);
    }

    #[test]
    fn a_long_life_forgives_the_counter_before_it() {
        let mut counter = RestartCounter::new(RestartPolicy { max_short_runs: 2, ..RestartPolicy::DEFAULT });
        for _ in 0..10 {
            assert_ne!(counter.record(SHORT), RestartDecision::GiveUp);
            assert_ne!(counter.record(LONG), RestartDecision::GiveUp);
        }
    }

    proptest! {
        #[test]
        fn every_pause_is_within_its_bounds_and_short_runs_end(runs in proptest::collection::vec(any::<bool>(), 0..100)) {
            let mut counter = RestartCounter::new(RestartPolicy::DEFAULT);
            let mut in_a_row = 0;
            for short in runs {
                in_a_row = if short { in_a_row + 1 } else { 0 };
                match counter.record(if short { SHORT } else { LONG }) {
                    RestartDecision::RestartAfter(pause) => {
                        let bounds = RestartPolicy::DEFAULT.backoff;
                        prop_assert!(pause >= bounds.first && pause <= bounds.longest);
                        prop_assert!(in_a_row < RestartPolicy::DEFAULT.max_short_runs);
                    }
                    RestartDecision::GiveUp => {
                        prop_assert!(in_a_row >= RestartPolicy::DEFAULT.max_short_runs);
                        break;
                    }
                }
            }
        }
    }
}
