//! What a person sees while the stack is set up: one line a step.

use std::time::{Duration, Instant};

use image::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// Spinners on a terminal, plain lines elsewhere.
#[derive(Debug)]
pub(crate) struct Step {
    what: &'static str,
    since: Instant,
    bar: ProgressBar,
}

impl Step {
    pub(crate) fn start(what: &'static str) -> Self {
        let bar = ProgressBar::new_spinner().with_message(what);
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { what, since: Instant::now(), bar }
    }

    /// The step is done: its line stays.
    pub(crate) fn done(self) {
        self.finish();
    }

    /// The same, where others hold it too.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
        eprintln!("✓ {} ({:.1} s)", self.what, self.since.elapsed().as_secs_f32());
    }
}

/// Begins a bar anew: with its whole length, where that is known.
pub(crate) fn begin(bar: &ProgressBar, total: Option<u64>) {
    bar.set_position(0);
    let template = match total.filter(|total| *total > 0) {
        Some(total) => {
            bar.set_length(total);
            "{spinner} {msg} [{bar:30}] {bytes}/{total_bytes}"
        }
        None => "{spinner} {msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

/// The progress of work on images and kernels, as bars on a terminal.
impl Progress for Step {
    fn step(&self, name: &str, total: Option<u64>) {
        self.bar.set_message(format!("{}: {name}", self.what));
        begin(&self.bar, total);
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn warn(&self, said: &str) {
        self.bar.suspend(|| eprintln!("warning: {said}"));
    }
}
