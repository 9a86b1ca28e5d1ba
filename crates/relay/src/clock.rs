//! The machine's clock, for whoever starts a relayer.

use std::time::SystemTime;

use domain::{Clock, UnixMillis};

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        // Before 1970 every deadline would be too far ahead: all is refused.
        UnixMillis::from_system(SystemTime::now()).unwrap_or_default()
    }
}
