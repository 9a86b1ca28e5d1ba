//! When a guest that died is started again.

use domain::{Backoff, UnixMillis};

/// How often, and how soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RestartPolicy {
    /// Restarts at most within the window.
    pub(crate) most: u32,
    /// The window, in milliseconds.
    pub(crate) window_ms: u64,
    /// The pauses between them.
    pub(crate) backoff: Backoff,
}

/// What follows a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestartDecision {
    /// Another start.
    StartAt(UnixMillis),
    /// It died too often.
    GiveUp,
}

impl RestartPolicy {
    /// Adds a death to those of before, which then holds only those that still
    /// count, and says what follows.
    pub(crate) fn after_death(&self, deaths: &mut Vec<UnixMillis>, now: UnixMillis) -> RestartDecision {
        // A clock that went back makes an old death count for longer, never for less.
        deaths.retain(|death| now.since(*death) < self.window_ms);
        deaths.push(now);
        let count = u32::try_from(deaths.len()).unwrap_or(u32::MAX);
        if count > self.most {
            return RestartDecision::GiveUp;
        }
        RestartDecision::StartAt(now.plus(self.backoff.after_ms(count)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const POLICY: RestartPolicy = RestartPolicy {
        most: 3,
        window_ms: 60_000,
        backoff: Backoff { first: Duration::from_millis(500), longest: Duration::from_millis(1_500) },
    };

    #[test]
    fn pauses_double_up_to_the_longest_and_then_it_is_given_up() {
        let (mut deaths, mut now) = (Vec::new(), UnixMillis(1_000));
        let mut pauses = Vec::new();
        while let RestartDecision::StartAt(at) = POLICY.after_death(&mut deaths, now) {
            pauses.push(at.since(now));
            now = at;
        }
        assert_eq!(pauses, [500, 1_000, 1_500]);
    }

    #[test]
    fn a_death_is_forgotten_after_the_window() {
        let mut deaths = vec![UnixMillis(0), UnixMillis(1), UnixMillis(2)];
        let next = POLICY.after_death(&mut deaths, UnixMillis(61_000));
        assert_eq!(next, RestartDecision::StartAt(UnixMillis(61_500)));
        assert_eq!(deaths.len(), 1);
    }

    proptest! {
        #[test]
        fn no_window_holds_more_starts_than_allowed(gaps in proptest::collection::vec(0_u64..40_000, 1..80)) {
            let (mut deaths, mut now, mut starts) = (Vec::new(), UnixMillis(0), Vec::new());
            for gap in gaps {
                now = now.plus(gap);
                let RestartDecision::StartAt(at) = POLICY.after_death(&mut deaths, now) else { break };
                starts.push(now);
                now = at;
                let recent = starts.iter().filter(|start| now.since(**start) < POLICY.window_ms).count();
                prop_assert!(recent <= 3);
                prop_assert!(deaths.len() <= 4);
            }
        }
    }
}
