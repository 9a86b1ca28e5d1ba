//! What the node decides, pure: no clock, no IO.

mod admit;
mod capacity;
mod readiness;
mod restart;
mod retention;

pub(crate) use admit::{Desired, Offer, offer};
pub(crate) use capacity::{Capacity, DiskRoom, Load};
pub(crate) use readiness::Readiness;
pub(crate) use restart::{Backoff, Next, RestartPolicy};
pub(crate) use retention::{KeptAges, kept_until};
