//! The node's clock: read at the edge, handed inwards.

use std::time::SystemTime;

use domain::UnixMillis;

/// Tells the time. Tests hand in their own.
#[derive(Clone, Copy, Debug)]
pub struct Clock(fn() -> UnixMillis);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        // Before 1970 there is no billing.
        Self(|| UnixMillis::from_system(SystemTime::now()).unwrap_or_default())
    }

    /// A clock of one's own.
    #[must_use]
    pub const fn new(tell: fn() -> UnixMillis) -> Self {
        Self(tell)
    }

    /// What it says.
    #[must_use]
    pub fn now(self) -> UnixMillis {
        (self.0)()
    }
}
