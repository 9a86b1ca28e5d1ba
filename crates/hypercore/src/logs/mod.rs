//! What an agent and its guest's console have said: bounded files that many read
//! while one writes.

mod lines;
mod reader;
mod rotated;
mod tail;

pub(crate) use lines::AgentLog;
pub(crate) use reader::{LogFormat, read};
pub(crate) use rotated::RotatedLog;
pub(crate) use tail::{last_lines, printable};
