//! All that the gateway and the control plane ask of a node.

use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use client::{LogSource, NodeError};
use domain::{ContentCall, ImageId, OwnedDisk, PodId, RunId, SnapshotId, VolumeId};
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use tokio::io::{AsyncRead, AsyncWrite};
use wire::v1::images::{ArchiveSpec, BuildLogPart, HeldImage, ImportSpec};
use wire::v1::node::{
    CopyState, DataPolicy, DeleteResponse, MarksPage, NodeInfo, NodeSnapshot, NodeVolume, RestoreSpec, Sandbox,
    SandboxSpec, Sandboxes, SnapshotSpec, VolumeSpec,
};

/// Bytes that flow to or from a guest.
pub type NodeBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// A two-way stream of bytes.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A machine that runs agents.
///
/// An error that [is ambiguous](NodeError::is_ambiguous) leaves open whether
/// the node did what was asked; every call may therefore be repeated.
#[async_trait]
pub trait Node: Send + Sync {
    /// Its name in the configuration.
    fn name(&self) -> &str;

    /// How it describes itself.
    async fn info(&self) -> Result<NodeInfo, NodeError>;

    /// Makes a sandbox run. The same spec again changes nothing.
    async fn create(&self, id: RunId, spec: &SandboxSpec, traceparent: Option<&str>) -> Result<Sandbox, NodeError>;

    /// One sandbox, if the node knows it.
    async fn get(&self, id: RunId) -> Result<Option<Sandbox>, NodeError>;

    /// One sandbox, once it is ready or has failed, or after `timeout`.
    async fn wait_ready(&self, id: RunId, timeout: Duration) -> Result<Option<Sandbox>, NodeError>;

    /// Takes a run of a POD down. When it returns, nothing of it runs, and the POD's data
    /// is set aside or erased.
    async fn delete(
        &self,
        id: RunId,
        pod: PodId,
        grace: Duration,
        data: DataPolicy,
    ) -> Result<DeleteResponse, NodeError>;

    /// Erases what is kept of a POD that does not run.
    async fn erase(&self, pod: PodId) -> Result<(), NodeError>;

    /// Makes a volume, or finds it, and grows it where it is smaller.
    async fn put_volume(&self, id: VolumeId, spec: &VolumeSpec) -> Result<NodeVolume, NodeError>;

    /// A volume, as the node sees it.
    async fn volume(&self, id: VolumeId) -> Result<NodeVolume, NodeError>;

    /// Erases a volume that no sandbox has: its owner's word.
    async fn erase_volume(&self, id: VolumeId) -> Result<(), NodeError>;

    /// All sandboxes, those the node cannot read apart from the others.
    async fn list(&self) -> Result<Sandboxes, NodeError>;

    /// Marks after this one, waiting for the first. Tells the node that those up
    /// to `after` are kept.
    async fn marks(&self, after: u64, wait: Duration) -> Result<MarksPage, NodeError>;

    /// Opens a connection to the port that the agent serves.
    async fn tunnel(&self, id: RunId, port: Option<u16>) -> Result<Box<dyn ByteStream>, NodeError>;

    /// The lines that the agent, or its guest's console, wrote; with `follow`, those it
    /// goes on to write.
    async fn logs(&self, id: RunId, source: LogSource, follow: bool) -> Result<NodeBody, NodeError>;

    /// The copies of its volumes.
    fn copies(&self) -> &dyn NodeCopies;

    /// The images that holders bring to it.
    fn images(&self) -> &dyn NodeImages;

    /// Passes a request to whoever answers for the files of a disk of this holder's.
    async fn content(
        &self,
        disk: OwnedDisk,
        call: ContentCall,
        holder: &str,
        request: Request<NodeBody>,
    ) -> Result<Response<NodeBody>, NodeError>;

    /// Passes a request to the guest's `pod`: its commands, its files.
    async fn forward(
        &self,
        id: RunId,
        target: &str,
        request: Request<NodeBody>,
    ) -> Result<Response<NodeBody>, NodeError>;
}

/// Snapshots of a node's volumes, and volumes that are put back to them. Every call may be
/// repeated, and says how it is.
#[async_trait]
pub trait NodeCopies: Send + Sync {
    /// Copies a volume that no sandbox has.
    async fn make(&self, id: SnapshotId, spec: SnapshotSpec) -> Result<NodeSnapshot, NodeError>;

    /// Puts a volume back that no sandbox has, once for each order.
    async fn restore(&self, id: SnapshotId, spec: RestoreSpec) -> Result<CopyState, NodeError>;

    /// Erases a snapshot: its owner's word.
    async fn erase_copy(&self, id: SnapshotId) -> Result<(), NodeError>;
}

/// The images that holders bring to a node. Every call may be repeated.
#[async_trait]
pub trait NodeImages: Send + Sync {
    /// Says that an archive is to come; the same again changes nothing.
    async fn begin(&self, id: ImageId, spec: ArchiveSpec) -> Result<HeldImage, NodeError>;

    /// Sends a piece of the archive, which begins at this offset. What arrives stays, however
    /// this ends.
    async fn append(&self, id: ImageId, offset: u64, body: NodeBody) -> Result<HeldImage, NodeError>;

    /// How an image or its upload is; `None` if the node has neither.
    async fn find(&self, id: ImageId) -> Result<Option<HeldImage>, NodeError>;

    /// Has an image made of an archive that is whole; asked again, says how that is.
    async fn import(&self, id: ImageId, spec: ImportSpec) -> Result<HeldImage, NodeError>;

    /// What the build of an image has said, from this byte on.
    async fn log(&self, id: ImageId, from: u64) -> Result<BuildLogPart, NodeError>;

    /// Forgets an image or its upload.
    async fn forget(&self, id: ImageId) -> Result<(), NodeError>;
}

/// Bounds a call from outside too: a node that hangs is a node that does not
/// answer.
pub(crate) async fn within<T>(
    operation: &'static str,
    after: Duration,
    call: impl Future<Output = Result<T, NodeError>>,
) -> Result<T, NodeError> {
    tokio::time::timeout(after, call).await.unwrap_or(Err(NodeError::TimedOut { operation, after }))
}
