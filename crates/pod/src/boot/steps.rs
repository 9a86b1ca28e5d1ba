//! How long the steps of the boot took.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// A stopwatch that starts with `main`.
#[derive(Clone, Debug)]
pub(crate) struct Steps {
    started: Instant,
    micros: BTreeMap<String, u64>,
}

impl Steps {
    /// Starts the watch, and notes how long the kernel took to come here.
    pub(crate) fn start() -> Self {
        let started = Instant::now();
        let mut steps = Self { started, micros: BTreeMap::new() };
        if let Ok(since_power_on) = Duration::try_from(clock_gettime(ClockId::Boottime)) {
            steps.note("kernel", since_power_on);
        }
        steps
    }

    /// Does a step and notes its time.
    pub(crate) fn time<T>(&mut self, step: &str, work: impl FnOnce() -> T) -> T {
        let before = Instant::now();
        let done = work();
        self.note(step, before.elapsed());
        done
    }

    /// Notes a time by name.
    pub(crate) fn note(&mut self, step: &str, took: Duration) {
        self.micros.insert(step.to_owned(), micros(took));
    }

    /// Notes the time since the start by name.
    pub(crate) fn reached(&mut self, milestone: &str) -> u64 {
        let since = self.started.elapsed();
        self.note(milestone, since);
        micros(since)
    }

    /// All times, in microseconds.
    pub(crate) fn micros(&self) -> BTreeMap<String, u64> {
        self.micros.clone()
    }

    /// Since when the watch runs.
    pub(crate) const fn started(&self) -> Instant {
        self.started
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}
