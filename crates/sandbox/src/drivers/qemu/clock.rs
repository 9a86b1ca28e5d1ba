//! The rate of the host's time stamp counter. Emulated guests read the host's
//! counter and have nothing to compare it with, so they are told.

use std::thread;
use std::time::{Duration, Instant};

/// Over how long it is measured: an error of a millionth.
const MEASURE: Duration = Duration::from_millis(120);

/// Measures the counter against the monotonic clock, in kHz.
pub(super) fn tsc_khz() -> u64 {
    let (ticks, since) = (counter(), Instant::now());
    thread::sleep(MEASURE);
    let (ticks, nanos) = (counter().wrapping_sub(ticks), since.elapsed().as_nanos());
    let khz = u128::from(ticks) * 1_000_000 / nanos.max(1);
    u64::try_from(khz).unwrap_or(u64::MAX)
}

#[expect(unsafe_code, reason = "reading the counter has no other form")]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and it only reads.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (a, b) = (tsc_khz(), tsc_khz());
        assert!(a.abs_diff(b) < a / 1000, "{a} and {b} kHz");
    }
}
