//! The agent's output and `pod`'s own words, in a bounded memory.

mod follow;
mod lines;
mod ring;
mod trace;

pub(crate) use follow::Logs;
pub(crate) use lines::Splitter;
pub(crate) use trace::install;
