//! Where the time comes from.

use std::time::SystemTime;

use domain::UnixMillis;

/// The one place that knows the time.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> UnixMillis;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        // Before 1970 every deadline would be too far ahead: all is refused.
        UnixMillis::from_system(SystemTime::now()).unwrap_or_default()
    }
}
