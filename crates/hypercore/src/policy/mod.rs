//! What the node decides, pure: no clock, no IO.

mod admit;
mod capacity;
mod restart;

pub(crate) use admit::{Desired, Offer, offer};
pub(crate) use capacity::{Capacity, Load};
pub(crate) use restart::{Next, RestartPolicy};
