//! The agent's output and `pod`'s own words, in a bounded memory.

mod lines;
mod log;
mod ring;
mod trace;

pub(crate) use lines::LineSplitter;
pub(crate) use log::Logs;
pub(crate) use trace::log_events;
