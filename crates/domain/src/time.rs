//! Points in time, as the wire carries them, and where an edge takes them from.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
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

/// A reading of the clock that counts from a machine's start, and that nobody can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteadyInstant {
    /// Which start of which machine: readings of two say nothing of each other.
    pub boot: [u8; 16],
    /// Milliseconds that the machine was awake since then.
    pub millis: u64,
}

/// Where an edge takes the time from. What decides is told the time; it has no clock.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> UnixMillis;

    /// Now, by the clock that is never set: for times that no step of the other one may
    /// shorten or stretch.
    fn steady(&self) -> SteadyInstant;
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

    fn steady(&self) -> SteadyInstant {
        static BOOT: OnceLock<[u8; 16]> = OnceLock::new();
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let millis = now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000);
        SteadyInstant { boot: *BOOT.get_or_init(boot_id), millis: u64::try_from(millis).unwrap_or_default() }
    }
}

/// The kernel's name for this start of the machine. Where it says none, each process has one
/// of its own: then what it counted is not gone on with by the next.
fn boot_id() -> [u8; 16] {
    let said = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut id = [0; 16];
    if hex::decode_to_slice(said.trim().replace('-', ""), &mut id).is_err() {
        let [high, low] = [RandomState::new(), RandomState::new()].map(|random| random.hash_one(0_u8).to_be_bytes());
        id[..8].copy_from_slice(&high);
        id[8..].copy_from_slice(&low);
    }
    id
}

impl std::fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steady_clock_is_of_this_start_of_the_machine_and_never_goes_back() {
        let (first, second) = (SystemClock.steady(), SystemClock.steady());
        assert_eq!((first.boot, boot_id()), (second.boot, first.boot));
        assert!(second.millis >= first.millis && first.millis > 0);
    }
}
