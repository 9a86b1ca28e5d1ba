//! How long a guest may take before it can be told anything. The check of its disks counts for itself: it takes
//! as long as they are large, and how far it is, is told.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::pod::PodClient;

/// How often a guest that boots is asked how far it is.
const LOOK: Duration = Duration::from_secs(1);
/// How long it may take to say so.
const ANSWER: Duration = Duration::from_secs(2);
/// How long the check of any disk may take.
const LEAST_CHECK: Duration = Duration::from_secs(120);
/// How many MiB of disks give it one second more.
const MIB_PER_SECOND: u64 = 512;

/// How long a guest may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BootLimits {
    /// Beside the check.
    pub(crate) boot: Duration,
    /// The check of its disks; nothing where it has none.
    pub(crate) check: Duration,
}

impl BootLimits {
    /// How long the check of so many MiB of disks may take.
    pub(crate) fn check_of(mib: u64) -> Duration {
        LEAST_CHECK + Duration::from_secs(mib / MIB_PER_SECOND)
    }
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BootOverdue {
    /// The guest said nothing.
    Silent(Duration),
    /// The check of its disks.
    Check(Duration),
}

/// Waits for what a guest that boots is to answer; with it, how long it has checked its disks. `tell` hears
/// how much of that is done, in per cent.
pub(crate) async fn while_booting<T>(
    pod: &PodClient,
    answer: impl Future<Output = T>,
    limits: BootLimits,
    mut tell: impl FnMut(u8),
) -> Result<(T, Duration), BootOverdue> {
    let mut answer = pin!(answer);
    let (mut quiet, mut checked, mut at) = (Duration::ZERO, Duration::ZERO, Instant::now());
    loop {
        let left = limits.boot.saturating_sub(quiet);
        let pause = if limits.check.is_zero() { left } else { LOOK.min(left) };
        let look = async {
            sleep(pause).await;
            match limits.check.is_zero() {
                true => None,
                false => timeout(ANSWER, pod.boot()).await.ok().and_then(Result::ok).and_then(|boot| boot.checked),
            }
        };
        let looked = tokio::select! {
            biased;
            answered = &mut answer => return Ok((answered, checked)),
            looked = look => looked,
        };
        let passed = at.elapsed();
        at += passed;
        match looked {
            Some(percent) => {
                checked += passed;
                tell(percent.min(100));
            }
            None => quiet += passed,
        }
        if quiet >= limits.boot {
            return Err(BootOverdue::Silent(limits.boot));
        }
        if checked > limits.check {
            return Err(BootOverdue::Check(limits.check));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_disk_may_be_checked_for_longer() {
        let minutes = [64, 1024 * 1024, 16 * 1024 * 1024].map(|mib| BootLimits::check_of(mib).as_secs() / 60);
        assert_eq!(minutes, [2, 36, 548]);
    }
}
