//! Machines that holders' images are built in: what is asked of whoever makes them.

use std::path::Path;

use async_trait::async_trait;
use image::{ContextLook, ImageStore, Progress};
use tokio_util::sync::CancellationToken;
use wire::v1::images::BuildRuntime;

use super::error::UploadError;

/// Who makes such machines.
#[async_trait]
pub(crate) trait BuildMachines: Send + Sync {
    /// What they are; nothing where none can be made.
    fn runtime(&self) -> Option<BuildRuntime>;

    /// Has a build done in one, which has ended when this returns; its archive lies at `result` then.
    async fn build(&self, build: &MachineBuild<'_>) -> Result<(), UploadError>;
}

/// A build that a machine is to do.
pub(crate) struct MachineBuild<'a> {
    /// What is built, and what it may use.
    pub(crate) look: ContextLook<'a>,
    /// Virtual processors of the machine.
    pub(crate) cores: u32,
    /// The disk that it boots.
    pub(crate) programs: &'a Path,
    /// The archive of the context.
    pub(crate) context: &'a Path,
    /// Where what is handed in besides may lie.
    pub(crate) bases: &'a Path,
    /// Where what it has made goes.
    pub(crate) result: &'a Path,
    /// What is built on.
    pub(crate) store: &'a ImageStore,
    /// Hears how it goes.
    pub(crate) to: &'a dyn Progress,
    /// Ends it.
    pub(crate) stop: &'a CancellationToken,
}
