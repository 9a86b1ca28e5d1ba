//! The node's clock: read at the edge, handed inwards.

use std::time::SystemTime;

use domain::{Clock, UnixMillis};

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        // Before 1970 there is no billing.
        UnixMillis::from_system(SystemTime::now()).unwrap_or_default()
    }
}
