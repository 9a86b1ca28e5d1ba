//! For tests: a chain and a journal in memory, a clock that is set by hand, and
//! wallets that sign.
//!
//! | file | holds |
//! |---|---|
//! | `chain` | [`FakeChain`]: a forwarder, a token, targets that work or revert |
//! | `journal` | [`JournalState`], the journal's rules over plain maps; [`MemoryJournal`] |
//! | `wallet` | [`TestWallet`]: signs requests and payments |

mod chain;
mod journal;
mod wallet;

use std::sync::atomic::{AtomicU64, Ordering};

use alloy_primitives::{Bytes, keccak256};
use domain::{Clock, SteadyInstant, UnixMillis};

pub use chain::{ExecutedCall, FakeChain, TargetBehavior};
pub use journal::{JournalState, MemoryJournal};
pub use wallet::{TestRequest, TestWallet};

/// The selector of a signature.
#[must_use]
pub fn selector(signature: &str) -> Bytes {
    Bytes::copy_from_slice(&keccak256(signature)[..4])
}

/// The second at which fake clocks begin.
pub const EPOCH_S: u64 = 1_800_000_000;

/// A clock that a test sets.
#[derive(Debug)]
pub struct FakeClock(AtomicU64);

impl Default for FakeClock {
    fn default() -> Self {
        Self(AtomicU64::new(EPOCH_S * 1000))
    }
}

impl FakeClock {
    /// Moves it on.
    pub fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds * 1000, Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(self.0.load(Ordering::SeqCst))
    }

    fn steady(&self) -> SteadyInstant {
        SteadyInstant { boot: [0; 16], millis: self.0.load(Ordering::SeqCst) - EPOCH_S * 1000 }
    }
}
