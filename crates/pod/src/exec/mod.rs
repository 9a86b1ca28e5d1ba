//! Processes for callers, beside the agent: the inside of the process protocol.

mod broadcast;
mod buffer;
mod events;
mod process;
mod spawn;
mod table;

pub(crate) use events::{StreamOptions, end_of_stream, envelope, events, until};
pub(crate) use process::Process;
pub(crate) use spawn::CommandSpec;
pub(crate) use table::ProcessTable;
