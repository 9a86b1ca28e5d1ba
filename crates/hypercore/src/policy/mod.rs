//! What the node decides, pure: no clock, no IO.

mod admit;
mod capacity;
mod readiness;
mod restart;
mod retention;

pub(crate) use admit::{DesiredSpec, SpecMatch, offer};
pub(crate) use capacity::{Allocated, Capacity, DiskSpace};
pub(crate) use readiness::Readiness;
pub(crate) use restart::{RestartDecision, RestartPolicy};
pub(crate) use retention::{KeptAges, kept_until};
