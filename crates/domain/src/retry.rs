//! The pauses before something that failed is tried again: one policy for whoever asks
//! another program, so that no two of us invent their own.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// Twice as long after each failure, between two bounds. When to give up is said by
/// whoever tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The pause after the first failure.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
}

impl RetryPolicy {
    /// The pauses of a series of attempts.
    #[must_use]
    pub fn pauses(self) -> RetryPauses {
        RetryPauses { policy: self, schedule: self.schedule() }
    }

    fn schedule(self) -> Schedule {
        ExponentialBuilder::new().with_min_delay(self.first).with_max_delay(self.longest).without_max_times().build()
    }
}

type Schedule = <ExponentialBuilder as BackoffBuilder>::Backoff;

/// How long each failure of a series is waited out.
#[derive(Debug)]
pub struct RetryPauses {
    policy: RetryPolicy,
    schedule: Schedule,
}

impl RetryPauses {
    /// It failed: the pause before the next attempt.
    pub fn failed(&mut self) -> Duration {
        self.schedule.next().unwrap_or(self.policy.longest).min(self.policy.longest)
    }

    /// It succeeded: the next failure is the first of a new series.
    pub fn succeeded(&mut self) {
        self.schedule = self.policy.schedule();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_again_after_a_success() {
        let policy = RetryPolicy { first: Duration::from_millis(250), longest: Duration::from_millis(1_500) };
        let mut pauses = policy.pauses();
        let millis: Vec<_> = (0..5).map(|_| pauses.failed().as_millis()).collect();
        assert_eq!(millis, [250, 500, 1_000, 1_500, 1_500]);
        pauses.succeeded();
        assert_eq!(pauses.failed(), policy.first);
    }

    #[test]
    fn a_first_pause_over_the_longest_is_the_longest() {
        let policy = RetryPolicy { first: Duration::from_secs(9), longest: Duration::from_secs(1) };
        assert_eq!(policy.pauses().failed(), policy.longest);
    }
}
