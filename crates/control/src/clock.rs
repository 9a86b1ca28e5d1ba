//! The machine's clock, for whoever starts a control plane.

use std::time::SystemTime;

use domain::{Clock, UnixMillis};

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        // A clock before 1970 expires nothing, and makes every signature one of the future.
        UnixMillis::from_system(SystemTime::now()).unwrap_or_default()
    }
}
