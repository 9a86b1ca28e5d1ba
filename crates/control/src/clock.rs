//! Where the time comes from.

use std::time::SystemTime;

use domain::UnixMillis;

/// The one place that knows the time; everything below is told.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> UnixMillis;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        // A clock before 1970 expires nothing.
        UnixMillis::from_system(SystemTime::now()).unwrap_or_default()
    }
}
