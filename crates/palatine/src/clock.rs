//! The time, for what is written down by it and outlasts the command.

use anyhow::{Result, ensure};
use domain::{Clock, SystemClock, UnixMillis};

/// Now.
///
/// # Errors
/// If the machine's clock was never set: what expires or follows would be told by it.
pub(crate) fn now() -> Result<UnixMillis> {
    set(SystemClock.now())
}

fn set(now: UnixMillis) -> Result<UnixMillis> {
    ensure!(now > UnixMillis(0), "this machine's clock says that 1970 is to come: set it");
    Ok(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_never_set_is_refused() {
        assert!(set(UnixMillis(0)).is_err());
        assert_eq!(set(UnixMillis(1)).unwrap(), UnixMillis(1));
    }
}
