//! What guests say of their agent's ends, over the boots of one sandbox.

use domain::UnixMillis;
use wire::v1::node::{GuestExit, GuestReport};
use wire::v1::pod::PodStatus;

use crate::logs::printable;

/// The ends that were told. A guest may tell anything: it is counted, cut short and shown.
#[derive(Debug, Default)]
pub(super) struct GuestExits {
    /// In the boots before.
    before: u32,
    /// In this one.
    told: u32,
    last: Option<GuestExit>,
}

impl GuestExits {
    /// Another boot begins, and its guest counts from nothing.
    pub(super) const fn next_boot(&mut self) {
        self.before = self.before.saturating_add(self.told);
        self.told = 0;
    }

    /// Takes what `pod` says, and says whether that is news.
    pub(super) fn hear(&mut self, status: &PodStatus, now: UnixMillis) -> bool {
        // An earlier `pod` counts the starts alone.
        let told = status.exits.max(status.restarts);
        if told <= self.told {
            return false;
        }
        self.told = told;
        self.last = status.last_exit.as_deref().map(|how| GuestExit { how: printable(how), at: now });
        true
    }

    /// What is shown of them.
    pub(super) fn report(&self) -> Option<GuestReport> {
        let exits = self.before.saturating_add(self.told);
        (exits > 0).then(|| GuestReport { exits, last_exit: self.last.clone(), ..GuestReport::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(exits: u32, how: &str) -> PodStatus {
        let status = serde_json::json!({
            "phase": "backoff", "restarts": 0, "exits": exits, "listening_after_us": 1, "timings_us": {}, "last_exit": how,
        });
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn ends_are_counted_over_boots_and_told_once_with_the_time_at_which_they_were_heard() {
        let mut exits = GuestExits::default();
        assert_eq!(exits.report(), None);
        assert!(exits.hear(&status(2, "exit status 1"), UnixMillis(5)));
        assert!(!exits.hear(&status(2, "exit status 9"), UnixMillis(6)));
        exits.next_boot();
        assert!(exits.hear(&status(1, "signal: \u{1b}[2Jkilled"), UnixMillis(7)));
        let report = exits.report().unwrap();
        assert_eq!(report.exits, 3);
        assert_eq!(report.last_exit, Some(GuestExit { how: "signal: killed".to_owned(), at: UnixMillis(7) }));
    }

    #[test]
    fn a_guest_that_counts_to_the_end_is_counted_no_further() {
        let mut exits = GuestExits::default();
        for _ in 0..3 {
            exits.hear(&status(u32::MAX, &"x".repeat(100_000)), UnixMillis(1));
            exits.next_boot();
        }
        let report = exits.report().unwrap();
        assert!(report.exits == u32::MAX && report.last_exit.unwrap().how.len() <= 200);
    }
}
