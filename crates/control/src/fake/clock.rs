//! A clock for tests on paused time.

use domain::{Clock, SteadyInstant, UnixMillis};
use tokio::time::Instant;

/// A clock that follows tokio's, so that paused tests command it.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    start: Instant,
}

impl TokioClock {
    /// What this clock shows when it is made.
    pub const START: UnixMillis = UnixMillis(1_700_000_000_000);
}

impl Default for TokioClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> UnixMillis {
        Self::START.plus(self.steady().millis)
    }

    fn steady(&self) -> SteadyInstant {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        SteadyInstant { boot: [0; 16], millis }
    }
}
