//! What a long step tells whoever waits for it.

use std::io::{self, Read};
use std::time::Duration;

/// Receives the progress of an import, a pull, a build or a kernel's
/// preparation. Called from whichever thread does the work.
pub trait Progress: Send + Sync {
    /// A new step begins; the step before it is over. `total` is in bytes, where
    /// it is known.
    fn step(&self, name: &str, total: Option<u64>);
    /// So many more bytes of the step are done.
    fn advance(&self, bytes: u64);
    /// Something is otherwise than whoever made the image may expect.
    fn warn(&self, said: &str);
    /// A program that works on the step wrote this line.
    fn said(&self, _line: &str) {}
    /// A program works on the step for so long; called several times a second.
    fn waiting(&self, _since: Duration) {}
    /// Whether it is to end before its time; asked several times a second.
    fn stopped(&self) -> bool {
        false
    }
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn step(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn warn(&self, _: &str) {}
}

/// A reader that tells how much of it has been read.
pub(crate) struct CountingReader<'a, R> {
    from: R,
    to: &'a dyn Progress,
}

impl<'a, R: Read> CountingReader<'a, R> {
    pub(crate) fn new(from: R, to: &'a dyn Progress) -> Self {
        Self { from, to }
    }
}

impl<R: Read> Read for CountingReader<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.to.advance(read as u64);
        Ok(read)
    }
}
