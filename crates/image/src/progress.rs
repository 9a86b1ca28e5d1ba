//! What a long step tells whoever waits for it.

/// Receives the progress of an import, a pull, a build or a kernel's
/// preparation. Called from whichever thread does the work.
pub trait Progress: Send + Sync {
    /// A new step begins; the step before it is over. `total` is in bytes, where
    /// it is known.
    fn step(&self, name: &str, total: Option<u64>);
    /// So many more bytes of the step are done.
    fn advance(&self, bytes: u64);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
}
