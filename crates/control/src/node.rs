//! What the control plane needs of a node.

use std::time::Duration;

use async_trait::async_trait;
use client::{NodeClient, NodeError};
use domain::{NodeView, PodId, RunId};
use wire::node::{DataPolicy, DeleteResponse, MarksPage, NodeInfo, Sandbox, SandboxSpec, Sandboxes};

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

    /// All sandboxes, those the node cannot read apart from the others.
    async fn list(&self) -> Result<Sandboxes, NodeError>;

    /// Marks after this one, waiting for the first. Tells the node that those up
    /// to `after` are kept.
    async fn marks(&self, after: u64, wait: Duration) -> Result<MarksPage, NodeError>;
}

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

    async fn list(&self) -> Result<Sandboxes, NodeError> {
        self.client.list().await
    }

    async fn marks(&self, after: u64, wait: Duration) -> Result<MarksPage, NodeError> {
        self.client.marks(after, wait).await
    }
}

/// A node as placement sees it, under the name the configuration gives it.
pub(crate) fn view(name: &str, info: &NodeInfo) -> NodeView {
    NodeView {
        name: name.to_owned(),
        schedulable: true,
        cores: info.cores,
        free_cores: info.free_cores,
        memory_mib: info.most_memory_mib.unwrap_or(info.memory_mib),
        free_memory_mib: info.free_memory_mib,
        // An older node admits by its disk alone, without a word.
        agent_disk_mib: info.disk.map_or(0, |disk| disk.sandbox_mib),
        free_disk_mib: info.disk.map_or(u64::MAX, |disk| disk.promisable_mib),
    }
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
