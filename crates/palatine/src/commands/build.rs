//! What a person sees of an image that is built, and how they stop it.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use image::Progress;
use indicatif::ProgressBar;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::up::begin;

/// Where nobody watches a spinner: how often a step that goes on says so.
const REMIND: Duration = Duration::from_secs(20);
/// Characters of a program's line that are shown.
const MAX_SHOWN: usize = 80;

/// A line for each step with its time and bytes; between them what goes on.
pub(crate) struct BuildProgress {
    bar: ProgressBar,
    since: Instant,
    watched: bool,
    now: Mutex<Option<StepShown>>,
    stopped: Arc<AtomicBool>,
    /// Hears the signals.
    _listener: Runtime,
}

/// The step that goes on.
struct StepShown {
    name: String,
    since: Instant,
    reminded: Instant,
    bytes: u64,
    line: String,
}

impl StepShown {
    fn begun(name: &str) -> Self {
        let now = Instant::now();
        Self { name: name.to_owned(), since: now, reminded: now, bytes: 0, line: String::new() }
    }

    fn done(&self) -> String {
        let (name, seconds) = (&self.name, self.since.elapsed().as_secs_f32());
        match self.bytes {
            0 => format!("  ✓ {name} ({seconds:.1} s)"),
            bytes => format!("  ✓ {name} ({seconds:.1} s, {} MiB)", bytes.div_ceil(1 << 20)),
        }
    }

    fn goes_on(&self) -> String {
        let end = if self.line.is_empty() { String::new() } else { format!(": {}", self.line) };
        format!("  … {} ({} s so far){end}", self.name, self.since.elapsed().as_secs())
    }
}

impl BuildProgress {
    /// From now on a signal stops the build where it can be stopped; a second one ends us at once.
    pub(crate) fn start() -> Result<Self> {
        let listener = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let stopped = Arc::new(AtomicBool::new(false));
        let (heard, entered) = (stopped.clone(), listener.enter());
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for signals")?;
        let mut terminate = signal(SignalKind::terminate()).context("listen for signals")?;
        drop(entered);
        listener.spawn(async move {
            loop {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                if heard.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
                eprintln!("Stopping: what was begun is put away");
            }
        });
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(120));
        let watched = std::io::stderr().is_terminal();
        Ok(Self { bar, since: Instant::now(), watched, now: Mutex::new(None), stopped, _listener: listener })
    }

    /// The image is there.
    pub(crate) fn done(self) {
        self.end_of_step();
        self.bar.finish_and_clear();
        eprintln!("✓ Building the image ({:.1} s)", self.since.elapsed().as_secs_f32());
    }

    fn end_of_step(&self) {
        if let Some(step) = self.now().take() {
            self.bar.suspend(|| eprintln!("{}", step.done()));
        }
    }

    fn now(&self) -> MutexGuard<'_, Option<StepShown>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for BuildProgress {
    fn step(&self, name: &str, total: Option<u64>) {
        self.end_of_step();
        *self.now() = Some(StepShown::begun(name));
        self.bar.set_message(name.to_owned());
        begin(&self.bar, total);
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        if let Some(step) = self.now().as_mut() {
            step.bytes += bytes;
        }
    }

    fn warn(&self, said: &str) {
        self.bar.suspend(|| eprintln!("warning: {said}"));
    }

    fn said(&self, line: &str) {
        if let Some(step) = self.now().as_mut() {
            step.line = line.chars().take(MAX_SHOWN).collect();
            self.bar.set_message(format!("{}: {}", step.name, step.line));
        }
    }

    fn waiting(&self, _: Duration) {
        if let Some(step) = self.now().as_mut().filter(|step| !self.watched && step.reminded.elapsed() >= REMIND) {
            step.reminded = Instant::now();
            eprintln!("{}", step.goes_on());
        }
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_says_how_long_it_took_and_how_much_it_was_and_meanwhile_what_goes_on() {
        let mut step = StepShown::begun("install 3 packages");
        assert_eq!(step.done(), "  ✓ install 3 packages (0.0 s)");
        step.bytes = 5 << 20;
        assert_eq!(step.done(), "  ✓ install 3 packages (0.0 s, 5 MiB)");
        step.line = "Setting up git".into();
        assert_eq!(step.goes_on(), "  … install 3 packages (0 s so far): Setting up git");
    }

    #[test]
    fn a_build_is_not_stopped_by_itself() {
        let progress = BuildProgress::start().unwrap();
        progress.step("write files", Some(0));
        progress.said("a line");
        progress.advance(7);
        assert!(!progress.stopped());
        progress.done();
    }
}
