//! The metering journal: what the node saw, numbered without gaps, on disk before
//! anybody is told.
//!
//! The file's first line says which journal it is, up to which number everything
//! was fetched, and how each agent stood then; each further line is one mark. One
//! thread writes; what waits at the same time is synced together.

mod file;
mod state;
mod writer;

#[cfg(feature = "fuzz")]
pub(crate) use file::read;
pub(crate) use writer::{Journal, JournalError, MAX_WAIT};
