//! What the node decides, pure: no clock, no IO.

mod admit;
mod capacity;
mod readiness;
mod restart;
mod retention;

pub(crate) use admit::{SpecMatch, SpecWithoutEnv, offer};
pub(crate) use capacity::{Allocated, Capacity, DiskShortage, DiskSpace};
pub(crate) use readiness::ReadinessHistory;
pub(crate) use restart::{RestartDecision, RestartPolicy};
pub(crate) use retention::{KeptDiskAges, kept_until};
