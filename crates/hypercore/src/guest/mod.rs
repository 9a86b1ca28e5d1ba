//! Talking to `pod`. What comes from a guest is hostile: every answer is bounded
//! and has a deadline.

mod follow;
mod line;
mod pod;

pub(crate) use follow::follow;
pub(crate) use line::{Line, PodError, bearer};
pub(crate) use pod::{Delivered, Pod};
