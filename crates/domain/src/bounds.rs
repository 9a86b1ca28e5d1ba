//! The bounds of a configuration's numbers: one way to check them, one sentence for what is refused.

use std::fmt;
use std::ops::RangeInclusive;

/// A number of the configuration: its key, what is given, and what may be.
pub type BoundedSetting = (&'static str, u64, RangeInclusive<u64>);

/// A number of the configuration that may not be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct OutOfBounds {
    /// The section, as the file names it.
    pub section: &'static str,
    /// The offending key.
    pub key: &'static str,
    /// What it was.
    pub given: u64,
    /// What it may be.
    pub allowed: RangeInclusive<u64>,
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { section, key, given, allowed } = self;
        let (least, most) = (allowed.start(), allowed.end());
        write!(f, "[{section}] {key} must be ")?;
        match *most {
            u64::MAX => write!(f, "at least {least}")?,
            most => write!(f, "from {least} to {most}")?,
        }
        write!(f, ", not {given}")
    }
}

/// Checks a section's numbers.
///
/// # Errors
/// Names the first that is out of its bounds.
pub fn check_bounds(
    section: &'static str,
    bounds: impl IntoIterator<Item = BoundedSetting>,
) -> Result<(), OutOfBounds> {
    let mut bounds = bounds.into_iter();
    match bounds.find(|(_, given, allowed)| !allowed.contains(given)) {
        Some((key, given, allowed)) => Err(OutOfBounds { section, key, given, allowed }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_out_of_its_bounds_is_named_with_what_may_be() {
        let check = |a, b| check_bounds("node", [("a", a, 2..=4), ("b", b, 1..=u64::MAX)]).map_err(|it| it.to_string());
        assert_eq!((check(2, 1), check(4, u64::MAX)), (Ok(()), Ok(())));
        assert_eq!(check(5, 0), Err("[node] a must be from 2 to 4, not 5".to_owned()));
        assert_eq!(check(3, 0), Err("[node] b must be at least 1, not 0".to_owned()));
    }
}
