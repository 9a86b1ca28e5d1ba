//! Points in time, as the wire carries them, and where an edge takes them from.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Milliseconds since the Unix epoch. What decides never reads a clock: every
/// instant is handed in by the edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// Milliseconds from `earlier` to `self`; zero if the clock went back.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The instant `millis` later.
    #[must_use]
    pub const fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Converts what a system clock says; `None` before 1970.
    #[must_use]
    pub fn from_system(at: SystemTime) -> Option<Self> {
        let elapsed = at.duration_since(UNIX_EPOCH).ok()?;
        u64::try_from(elapsed.as_millis()).ok().map(Self)
    }
}

/// Where an edge takes the time from. What decides is told the time; it has no clock.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> UnixMillis;
}

/// The machine's clock, which can be set: how long something takes is measured otherwise.
/// All programs read this one.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        // Before 1970 nothing expires, nothing is billed, and every signature and deadline
        // is one of the future, which is refused.
        UnixMillis::from_system(SystemTime::now()).unwrap_or_default()
    }
}

impl std::fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
