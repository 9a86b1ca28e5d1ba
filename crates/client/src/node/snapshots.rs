//! Snapshots of volumes.

use domain::SnapshotId;
use http::Method;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::v1::node::{NodeRestore, NodeSnapshot, NodeSnapshots, RestoreSpec, SnapshotSpec};

use super::api::{builder, empty, whole};
use super::call::Call;
use super::{NodeClient, NodeError};

impl NodeClient {
    /// Has a volume copied that no sandbox has; asked again, says how that is.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn put_snapshot(&self, id: SnapshotId, spec: &SnapshotSpec) -> Result<NodeSnapshot, NodeError> {
        self.order("make the snapshot", Method::PUT, format!("/v1/snapshots/{id}"), spec).await
    }

    /// Has a volume put back to what a snapshot holds, once for each order; asked again, says how
    /// that is.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn restore_snapshot(&self, id: SnapshotId, spec: &RestoreSpec) -> Result<NodeRestore, NodeError> {
        self.order("put the volume back", Method::POST, format!("/v1/snapshots/{id}/restore"), spec).await
    }

    /// All snapshots of the node that are whole.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn snapshots(&self) -> Result<NodeSnapshots, NodeError> {
        self.json(Call::new("list the snapshots", self.deadlines.read), empty(Method::GET, "/v1/snapshots")).await
    }

    /// Erases a snapshot: its owner's word.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn erase_snapshot(&self, id: SnapshotId) -> Result<(), NodeError> {
        let call = Call::new("erase the snapshot", self.deadlines.read);
        let request = empty(Method::DELETE, &format!("/v1/snapshots/{id}"));
        call.within(async { self.ask(call, request).await?.accepted(call.operation).await }).await?;
        Ok(())
    }

    async fn order<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        method: Method,
        path: String,
        spec: &impl Serialize,
    ) -> Result<T, NodeError> {
        let call = Call::new(operation, self.deadlines.create);
        let body = serde_json::to_vec(spec).map_err(|error| NodeError::protocol(operation, error.to_string()))?;
        let request = builder(method, &path).header(CONTENT_TYPE, "application/json");
        self.json(call, whole(request, body.into(), operation)?).await
    }
}
