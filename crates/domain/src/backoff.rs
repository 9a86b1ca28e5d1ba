//! The pauses before something that failed is tried again: one policy for whoever asks
//! another program, so that no two of us invent their own.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// Twice as long after each failure, between two bounds. When to give up is said by
/// whoever tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The pause after the first failure.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
}

impl Backoff {
    /// The pause after so many failures in a row, counted from 1.
    #[must_use]
    pub fn after(self, failures: u32) -> Duration {
        // Twice as long so often is longer than any pause.
        let before = failures.saturating_sub(1).min(u64::BITS);
        self.bounded(self.schedule().nth(usize::try_from(before).unwrap_or(usize::MAX)))
    }

    /// The schedule is computed in floating point: its pauses are rounded to milliseconds.
    fn bounded(self, pause: Option<Duration>) -> Duration {
        let pause = pause.unwrap_or(self.longest).saturating_add(Duration::from_micros(500));
        Duration::from_millis(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)).min(self.longest)
    }

    /// The same in milliseconds.
    #[must_use]
    pub fn after_ms(self, failures: u32) -> u64 {
        u64::try_from(self.after(failures).as_millis()).unwrap_or(u64::MAX)
    }

    /// The pauses of a series of attempts.
    #[must_use]
    pub fn pauses(self) -> BackoffSeries {
        BackoffSeries { policy: self, schedule: self.schedule() }
    }

    fn schedule(self) -> Schedule {
        ExponentialBuilder::new().with_min_delay(self.first).with_max_delay(self.longest).without_max_times().build()
    }
}

type Schedule = <ExponentialBuilder as BackoffBuilder>::Backoff;

/// How long each failure of a series is waited out.
#[derive(Debug)]
pub struct BackoffSeries {
    policy: Backoff,
    schedule: Schedule,
}

impl BackoffSeries {
    /// It failed: the pause before the next attempt.
    pub fn failed(&mut self) -> Duration {
        self.policy.bounded(self.schedule.next())
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
        let policy = Backoff { first: Duration::from_millis(250), longest: Duration::from_millis(1_500) };
        let mut pauses = policy.pauses();
        let paused: Vec<_> = (0..5).map(|_| pauses.failed()).collect();
        assert_eq!(paused, [250, 500, 1_000, 1_500, 1_500].map(Duration::from_millis));
        pauses.succeeded();
        assert_eq!(pauses.failed(), policy.first);
        assert_eq!([0, 1, 2, 4, u32::MAX].map(|failures| policy.after_ms(failures)), [250, 250, 500, 1_500, 1_500]);
    }

    #[test]
    fn a_first_pause_over_the_longest_is_the_longest() {
        let policy = Backoff { first: Duration::from_secs(9), longest: Duration::from_secs(1) };
        assert_eq!(policy.pauses().failed(), policy.longest);
    }
}
