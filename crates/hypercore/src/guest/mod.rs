//! Talking to `pod`. What comes from a guest is hostile: every answer is bounded
//! and has a deadline, and what never ends is taken at the node's pace.

mod boot;
mod connection;
mod errand;
mod follow;
mod pod;
mod splitter;

pub(crate) use boot::{BootLimits, BootOverdue, while_booting};
pub(crate) use connection::{PodConnection, PodError};
pub(crate) use errand::ErrandError;
pub(crate) use follow::follow;
pub(crate) use pod::{IdentityDelivery, PodClient};
#[cfg(feature = "fuzz")]
pub(crate) use splitter::LineSplitter;
pub(crate) use splitter::RateLimiter;
