//! The calls whose answers are streams.

use std::time::Duration;

use bytes::Bytes;
use domain::RunId;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::body::Body;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use wire::process::TIMEOUT_HEADER;
use wire::v1::node::TUNNEL;

use super::api::{empty, sandbox};
use super::call::Call;
use super::exchange::{Answer, send};
use super::{NodeBody, NodeClient, NodeError};
use crate::hop::strip_hop_by_hop;

/// Bytes to and from an agent's port.
pub type Tunnel = TokioIo<Upgraded>;

/// The calls of `pod` that the node passes on, by the services they are of.
const SERVICES: [&str; 2] = ["/process.Process/", "/filesystem.Filesystem/"];
/// Its paths of files; a query says which.
const FILES: [&str; 2] = ["/files", "/files/compose"];
/// Its other paths that the node passes on.
const PATHS: [&str; 3] = ["/envs", "/health", "/usage"];

/// The longest a passed request may ask for.
const LONGEST_PASS: Duration = Duration::from_secs(3600);
/// How long an upload may take: it is answered when all of it is there. Whoever sends it
/// sees to it that it does not stand still.
const LONGEST_UPLOAD: Duration = Duration::from_hours(24);

/// Whose output to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogSource {
    /// What the agent writes.
    #[default]
    Agent,
    /// What the guest's kernel and `pod` write to the serial console.
    Console,
}

impl LogSource {
    /// The name as the wire writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Console => "console",
        }
    }
}

impl NodeClient {
    /// The lines a sandbox wrote; with `follow`, those it goes on to write, for
    /// as long as the stream is held. Without, silence ends it.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn logs(&self, id: RunId, source: LogSource, follow: bool) -> Result<NodeBody, NodeError> {
        let call = Call::new("read the logs", self.deadlines.stream);
        let path = format!("{}/logs?follow={follow}&source={}", sandbox(id), source.as_str());
        let answer = call
            .within(async {
                send(call.operation, &self.socket, empty(Method::GET, &path)).await?.accepted(call.operation).await
            })
            .await?;
        let idle = (!follow).then_some(self.deadlines.idle);
        Ok(NodeBody::new(call.operation, answer.response.into_body(), idle, answer.connection))
    }

    /// Opens a connection to the agent's port, or to another one of its guest.
    ///
    /// # Errors
    /// See [`NodeError`]; a guest that cannot be reached is refused with
    /// `agent_unreachable`.
    pub async fn tunnel(&self, id: RunId, port: Option<u16>) -> Result<Tunnel, NodeError> {
        let call = Call::new("reach the agent's port", self.deadlines.tunnel);
        call.within(self.upgrade(call.operation, id, port)).await
    }

    async fn upgrade(&self, operation: &'static str, id: RunId, port: Option<u16>) -> Result<Tunnel, NodeError> {
        let query = port.map(|port| format!("?port={port}")).unwrap_or_default();
        let mut request = empty(Method::GET, &format!("{}/tunnel{query}", sandbox(id)));
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        request.headers_mut().insert(UPGRADE, HeaderValue::from_static(TUNNEL));
        let answer = send(operation, &self.socket, request).await?;
        if answer.response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = answer.accepted(operation).await?.response.status();
            return Err(NodeError::protocol(operation, format!("status {status} in place of 101")));
        }
        let Answer { response, connection } = answer;
        if !response.headers().get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(TUNNEL.as_bytes())) {
            return Err(NodeError::protocol(operation, "the node switched to another protocol"));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| NodeError::transport(operation, error))?;
        drop(connection);
        Ok(TokioIo::new(upgraded))
    }

    /// Passes a request to `pod` and hands back its answer, whatever its status, its body
    /// still flowing. `target` is a call of its services (`/process.Process/`,
    /// `/filesystem.Filesystem/`), one of `/files` with its query, or one of the guest
    /// itself (`/envs`, `/health`, `/usage`). The caller's own credentials must be gone from the
    /// headers; those of one connection are taken away here.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn forward<B>(
        &self,
        id: RunId,
        target: &str,
        request: Request<B>,
    ) -> Result<Response<NodeBody>, NodeError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let call = Call::new("pass the request to the guest", self.patience(target, &request));
        let request = addressed(call.operation, id, target, request)?;
        let answer = call.within(send(call.operation, &self.socket, request)).await?;
        let (mut head, incoming) = answer.response.into_parts();
        strip_hop_by_hop(&mut head.headers);
        Ok(Response::from_parts(head, NodeBody::new(call.operation, incoming, None, answer.connection)))
    }
}

impl NodeClient {
    /// How long a passed request may take until it is answered.
    fn patience<B>(&self, target: &str, request: &Request<B>) -> Duration {
        if request.method() == Method::POST && target.starts_with("/files") {
            return LONGEST_UPLOAD;
        }
        let asked = request.headers().get(TIMEOUT_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        let asked = asked.map(|millis| Duration::from_millis(millis).min(LONGEST_PASS) + self.deadlines.margin);
        asked.unwrap_or_default().max(self.deadlines.forward)
    }
}

/// Whether the node passes on what goes there.
fn is_passed(target: &str) -> bool {
    let named = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_call = SERVICES.iter().any(|service| target.strip_prefix(service).is_some_and(named));
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    is_call || PATHS.contains(&target) || FILES.contains(&path)
}

fn addressed<B>(
    operation: &'static str,
    id: RunId,
    target: &str,
    request: Request<B>,
) -> Result<Request<B>, NodeError> {
    if !is_passed(target) {
        return Err(NodeError::protocol(operation, "the target is none that the node passes on"));
    }
    let uri = Uri::try_from(format!("{}/pod{target}", sandbox(id)))
        .map_err(|error| NodeError::protocol(operation, error.to_string()))?;
    let (mut head, body) = request.into_parts();
    strip_hop_by_hop(&mut head.headers);
    head.headers.insert(HOST, HeaderValue::from_static("node"));
    head.uri = uri;
    head.version = http::Version::HTTP_11;
    Ok(Request::from_parts(head, body))
}
