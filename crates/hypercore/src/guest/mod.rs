//! Talking to `pod`. What comes from a guest is hostile: every answer is bounded
//! and has a deadline, and what never ends is taken at the node's pace.

mod follow;
mod line;
mod lines;
mod pod;

pub(crate) use follow::follow;
pub(crate) use line::{Line, PodError, bearer};
#[cfg(feature = "fuzz")]
pub(crate) use lines::Lines;
pub(crate) use lines::Pace;
pub(crate) use pod::{Delivered, Pod};
