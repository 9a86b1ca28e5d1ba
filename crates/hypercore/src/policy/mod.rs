//! What the node decides, pure: no clock, no IO.

mod admit;
mod capacity;
mod readiness;
mod restart;

pub(crate) use admit::{Desired, Offer, offer};
pub(crate) use capacity::{Capacity, Load};
pub(crate) use readiness::Readiness;
pub(crate) use restart::{Next, RestartPolicy};
