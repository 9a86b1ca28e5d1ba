//! Time that is counted, whatever clocks say: by the one of each machine that is never set.
//!
//! Each start of a machine on which a gateway runs has a row: what its steady clock said, and
//! what was counted then. Whoever counts goes on from its own row, or from the furthest one.
//! So the count goes on over restarts of a gateway, and stands still while no machine counts:
//! a restart of the only machine takes nothing away from what is measured by it.

use domain::SteadyInstant;

use crate::port::port;

/// How much may be counted before it is written down: what a machine's end loses at most, and
/// what two machines that begin to count may differ by.
const WRITTEN_EVERY_MS: u64 = 5_000;
/// A row that is so far behind the furthest one is of a machine that counts no more.
pub(crate) const FORGOTTEN_BEHIND_MS: u64 = 60 * 60 * 1000;

port! {
    /// Time that no step of a clock shortens or stretches.
    TimeStore {
        /// Milliseconds that were counted up to this reading. Only differences mean something.
        fn count_time(&self, now: SteadyInstant) -> u64;
    }
}

/// What a machine has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeCount {
    /// Which start of which machine, and what its steady clock said then.
    pub(crate) at: SteadyInstant,
    pub(crate) counted_ms: u64,
}

/// What was counted, and whether that is to be written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CountedTime {
    pub(crate) ms: u64,
    pub(crate) is_due: bool,
}

/// What is counted up to this reading, with what was written down.
pub(crate) fn counted(written: &[TimeCount], now: SteadyInstant) -> CountedTime {
    let furthest = written.iter().map(|count| count.counted_ms).max().unwrap_or_default();
    match written.iter().find(|count| count.at.boot == now.boot) {
        None => CountedTime { ms: furthest, is_due: true },
        Some(own) => {
            let passed = now.millis.saturating_sub(own.at.millis);
            let ms = own.counted_ms.saturating_add(passed).max(furthest);
            CountedTime { ms, is_due: passed >= WRITTEN_EVERY_MS }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(machine: u8, millis: u64) -> SteadyInstant {
        SteadyInstant { boot: [machine; 16], millis }
    }

    fn count(machine: u8, millis: u64, counted_ms: u64) -> TimeCount {
        TimeCount { at: at(machine, millis), counted_ms }
    }

    #[test]
    fn a_machine_goes_on_from_what_it_has_counted_itself_whatever_ran_meanwhile() {
        assert_eq!(counted(&[], at(1, 700)), CountedTime { ms: 0, is_due: true });
        let own = [count(1, 700, 0)];
        assert_eq!(counted(&own, at(1, 5_699)), CountedTime { ms: 4_999, is_due: false });
        assert_eq!(counted(&own, at(1, 1_000_700)), CountedTime { ms: 1_000_000, is_due: true });
    }

    #[test]
    fn a_machine_that_starts_anew_goes_on_from_the_furthest_and_no_count_goes_back() {
        let others = [count(1, 700, 9_000), count(2, 5, 8_000)];
        assert_eq!(counted(&others, at(3, 1)), CountedTime { ms: 9_000, is_due: true });
        assert_eq!(counted(&others, at(2, 105)).ms, 9_000, "another one has counted further");
        assert_eq!(counted(&others, at(1, 600)).ms, 9_000, "a reading that comes late");
    }
}
