//! How long the steps from the start to a ready agent took.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A stopwatch that starts with `main`.
#[derive(Clone, Debug)]
pub(crate) struct BootStopwatch {
    started: Instant,
    micros: BTreeMap<String, u64>,
}

impl BootStopwatch {
    /// Starts the watch.
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), micros: BTreeMap::new() }
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
    pub(crate) fn milestone(&mut self, name: &str) -> u64 {
        let since = self.started.elapsed();
        self.note(name, since);
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
