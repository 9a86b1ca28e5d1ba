//! Commands of the holder, beside the agent: the process protocol's inside.

mod backlog;
mod events;
mod feed;
mod process;
mod spawn;
mod table;

pub(crate) use events::{Pace, envelope, events, refusal};
pub(crate) use process::Process;
pub(crate) use spawn::Order;
pub(crate) use table::Table;
