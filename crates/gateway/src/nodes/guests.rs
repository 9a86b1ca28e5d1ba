//! What the gateway needs of the nodes: to reach an agent's port, to read its
//! logs, to run a command in it.

use std::collections::HashMap;

use async_trait::async_trait;
use axum::body::Body;
use client::{LogSource, NodeClient, NodeError};
use domain::RunId;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use wire::fault::{Code, Fault};

/// A two-way stream of bytes.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Why a guest could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The guest, or its agent, does not answer.
    #[error("the guest does not answer")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The node does not answer, or not in a way we know.
    #[error("the node does not answer")]
    Node(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The node understood, and said no.
    #[error("the node refused: {0}")]
    Refused(Box<Fault>),
    /// No node of that name is configured.
    #[error("no node is called {0:?}")]
    UnknownNode(String),
}

impl From<NodeError> for GuestError {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Refused(fault) if fault.code == Code::AgentUnreachable => Self::Unreachable(fault),
            NodeError::Refused(fault) => Self::Refused(fault),
            error @ (NodeError::Unavailable { .. } | NodeError::Protocol { .. } | NodeError::TimedOut { .. }) => {
                Self::Node(error.into())
            }
        }
    }
}

/// The way to the guests, whichever node runs them.
#[async_trait]
pub trait GuestConnector: Send + Sync {
    /// The port that the agent serves.
    async fn port(&self, node: &str, id: RunId) -> Result<u16, GuestError>;

    /// Opens a connection to the agent's port.
    async fn tunnel(&self, node: &str, id: RunId) -> Result<Box<dyn ByteStream>, GuestError>;

    /// The lines the agent (or, with `console`, its guest) wrote; with `follow`,
    /// those it goes on to write.
    async fn logs(&self, node: &str, id: RunId, console: bool, follow: bool) -> Result<Body, GuestError>;

    /// Passes a request to the process routes of the guest.
    async fn forward(
        &self,
        node: &str,
        id: RunId,
        path: &str,
        request: Request<Body>,
    ) -> Result<Response<Body>, GuestError>;
}

/// The real way: the nodes' own clients, by the nodes' names.
#[derive(Clone, Debug)]
pub struct NodeGuests(HashMap<String, NodeClient>);

impl NodeGuests {
    /// Over these nodes.
    #[must_use]
    pub fn new(nodes: impl IntoIterator<Item = (String, NodeClient)>) -> Self {
        Self(nodes.into_iter().collect())
    }

    fn node(&self, name: &str) -> Result<&NodeClient, GuestError> {
        self.0.get(name).ok_or_else(|| GuestError::UnknownNode(name.to_owned()))
    }
}

#[async_trait]
impl GuestConnector for NodeGuests {
    async fn port(&self, node: &str, id: RunId) -> Result<u16, GuestError> {
        let sandbox = self.node(node)?.get(id).await?;
        Ok(sandbox.ok_or_else(|| GuestError::Unreachable("the node does not run it".into()))?.port)
    }

    async fn tunnel(&self, node: &str, id: RunId) -> Result<Box<dyn ByteStream>, GuestError> {
        Ok(Box::new(self.node(node)?.tunnel(id).await?))
    }

    async fn logs(&self, node: &str, id: RunId, console: bool, follow: bool) -> Result<Body, GuestError> {
        let source = if console { LogSource::Console } else { LogSource::Agent };
        Ok(Body::new(self.node(node)?.logs(id, source, follow).await?))
    }

    async fn forward(
        &self,
        node: &str,
        id: RunId,
        path: &str,
        request: Request<Body>,
    ) -> Result<Response<Body>, GuestError> {
        Ok(self.node(node)?.forward(id, path, request).await?.map(Body::new))
    }
}
