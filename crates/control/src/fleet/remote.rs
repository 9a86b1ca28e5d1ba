//! A node behind its daemon's socket.

use std::time::Duration;

use async_trait::async_trait;
use client::{LogSource, NodeClient, NodeError};
use domain::{ContentCall, ImageId, OwnedDisk, PodId, RunId, SnapshotId, VolumeId};
use http::{Request, Response};
use http_body_util::BodyExt;
use wire::v1::images::{ArchiveSpec, BuildLogPart, HeldImage, ImportSpec};
use wire::v1::node::{
    CopyState, DataPolicy, DeleteResponse, MarksPage, NodeInfo, NodeSnapshot, NodeVolume, RestoreSpec, Sandbox,
    SandboxSpec, Sandboxes, SnapshotSpec, VolumeSpec,
};

use crate::fleet::node::{ByteStream, Node, NodeBody, NodeCopies, NodeImages};

/// A node behind its daemon's socket.
#[derive(Clone, Debug)]
pub struct RemoteNode {
    name: String,
    client: NodeClient,
}

impl RemoteNode {
    /// The node of this name.
    #[must_use]
    pub fn new(name: impl Into<String>, client: NodeClient) -> Self {
        Self { name: name.into(), client }
    }
}

#[async_trait]
impl Node for RemoteNode {
    fn name(&self) -> &str {
        &self.name
    }

    async fn info(&self) -> Result<NodeInfo, NodeError> {
        self.client.info().await
    }

    async fn create(&self, id: RunId, spec: &SandboxSpec, traceparent: Option<&str>) -> Result<Sandbox, NodeError> {
        self.client.create(id, spec, traceparent).await
    }

    async fn get(&self, id: RunId) -> Result<Option<Sandbox>, NodeError> {
        self.client.get(id).await
    }

    async fn wait_ready(&self, id: RunId, timeout: Duration) -> Result<Option<Sandbox>, NodeError> {
        self.client.wait_ready(id, timeout).await
    }

    async fn delete(
        &self,
        id: RunId,
        pod: PodId,
        grace: Duration,
        data: DataPolicy,
    ) -> Result<DeleteResponse, NodeError> {
        self.client.delete(id, pod, grace, data).await
    }

    async fn erase(&self, pod: PodId) -> Result<(), NodeError> {
        self.client.erase(pod).await
    }

    async fn put_volume(&self, id: VolumeId, spec: &VolumeSpec) -> Result<NodeVolume, NodeError> {
        self.client.put_volume(id, spec).await
    }

    async fn volume(&self, id: VolumeId) -> Result<NodeVolume, NodeError> {
        self.client.volume(id).await
    }

    async fn erase_volume(&self, id: VolumeId) -> Result<(), NodeError> {
        self.client.erase_volume(id).await
    }

    async fn list(&self) -> Result<Sandboxes, NodeError> {
        self.client.list().await
    }

    async fn marks(&self, after: u64, wait: Duration) -> Result<MarksPage, NodeError> {
        self.client.marks(after, wait).await
    }

    async fn tunnel(&self, id: RunId, port: Option<u16>) -> Result<Box<dyn ByteStream>, NodeError> {
        Ok(Box::new(self.client.tunnel(id, port).await?))
    }

    async fn logs(&self, id: RunId, source: LogSource, follow: bool) -> Result<NodeBody, NodeError> {
        Ok(self.client.logs(id, source, follow).await?.map_err(Into::into).boxed_unsync())
    }

    fn copies(&self) -> &dyn NodeCopies {
        self
    }

    fn images(&self) -> &dyn NodeImages {
        self
    }

    async fn content(
        &self,
        disk: OwnedDisk,
        call: ContentCall,
        holder: &str,
        request: Request<NodeBody>,
    ) -> Result<Response<NodeBody>, NodeError> {
        let answer = self.client.content(disk, call, holder, request).await?;
        Ok(answer.map(|body| body.map_err(Into::into).boxed_unsync()))
    }

    async fn forward(
        &self,
        id: RunId,
        target: &str,
        request: Request<NodeBody>,
    ) -> Result<Response<NodeBody>, NodeError> {
        Ok(self.client.forward(id, target, request).await?.map(|body| body.map_err(Into::into).boxed_unsync()))
    }
}

#[async_trait]
impl NodeCopies for RemoteNode {
    async fn make(&self, id: SnapshotId, spec: SnapshotSpec) -> Result<NodeSnapshot, NodeError> {
        self.client.put_snapshot(id, &spec).await
    }

    async fn restore(&self, id: SnapshotId, spec: RestoreSpec) -> Result<CopyState, NodeError> {
        Ok(self.client.restore_snapshot(id, &spec).await?.state)
    }

    async fn erase_copy(&self, id: SnapshotId) -> Result<(), NodeError> {
        self.client.erase_snapshot(id).await
    }
}

#[async_trait]
impl NodeImages for RemoteNode {
    async fn begin(&self, id: ImageId, spec: ArchiveSpec) -> Result<HeldImage, NodeError> {
        self.client.begin_image(id, &spec).await
    }

    async fn append(&self, id: ImageId, offset: u64, body: NodeBody) -> Result<HeldImage, NodeError> {
        self.client.append_image(id, offset, body).await
    }

    async fn find(&self, id: ImageId) -> Result<Option<HeldImage>, NodeError> {
        self.client.held_image(id).await
    }

    async fn import(&self, id: ImageId, spec: ImportSpec) -> Result<HeldImage, NodeError> {
        self.client.import_image(id, &spec).await
    }

    async fn log(&self, id: ImageId, from: u64) -> Result<BuildLogPart, NodeError> {
        self.client.build_log(id, from).await
    }

    async fn forget(&self, id: ImageId) -> Result<(), NodeError> {
        self.client.forget_image(id).await
    }
}
