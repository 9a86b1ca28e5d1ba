//! The node: what its API asks of it.

mod builder;
mod content;
mod copies;
mod create;
mod daemon;
mod delete;
mod error;
mod helper;
mod info;
mod meter;
mod recover;
mod snapshots;
mod sweep;
mod volumes;

pub(crate) use content::ContentServer;
pub(crate) use copies::Copies;
pub(crate) use create::CreateOutcome;
pub(crate) use daemon::Node;
pub(crate) use error::{CreateError, VolumeError};
