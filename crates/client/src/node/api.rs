//! The calls whose answers are read whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::{PodId, RunId, VolumeId};
use http::header::CONTENT_TYPE;
use http::request::Builder;
use http::{Method, Request};
use http_body_util::Full;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use wire::TRACEPARENT;
use wire::fault::Code;
use wire::v1::node::{
    DataPolicy, DeleteResponse, KeptDisks, MarksPage, NodeInfo, NodeVolume, NodeVolumes, Sandbox, SandboxPhase,
    SandboxSpec, Sandboxes, VolumeSpec,
};

use super::call::Call;
use super::exchange::{Answer, send};
use super::{CallDeadlines, NodeError};

/// The longest wait asked of the node in one call; longer waits are several.
const LONGEST_WAIT: Duration = Duration::from_secs(25);
/// The pause before asking again when a node answers a wait before its time.
const EARLY_ANSWER_PAUSE: Duration = Duration::from_millis(50);

/// A client of one node. Cheap to clone; every call has its own connection.
#[derive(Clone, Debug)]
pub struct NodeClient {
    pub(super) socket: Arc<Path>,
    pub(super) deadlines: CallDeadlines,
}

impl NodeClient {
    /// A client of the node behind this socket. Nothing is opened yet.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into().into(), deadlines: CallDeadlines::default() }
    }

    /// The same client with other deadlines.
    #[must_use]
    pub const fn with_deadlines(mut self, deadlines: CallDeadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// The node's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The node, as it describes itself.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn info(&self) -> Result<NodeInfo, NodeError> {
        self.read("describe the node", "/v1/node").await
    }

    /// Whether the daemon answers at all.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn health(&self) -> Result<(), NodeError> {
        let call = Call::new("check the node's health", self.deadlines.read);
        call.within(async { self.ask(call, empty(Method::GET, "/health")).await?.accepted(call.operation).await })
            .await?;
        Ok(())
    }

    /// The node's own metrics, as Prometheus text.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn metrics(&self) -> Result<String, NodeError> {
        let call = Call::new("read the node's metrics", self.deadlines.read);
        call.within(async { self.ask(call, empty(Method::GET, "/metrics")).await?.text(call.operation).await }).await
    }

    /// What a guest's `pod` counts, in its own text: it may be anything.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn guest_metrics(&self, id: RunId) -> Result<String, NodeError> {
        let call = Call::new("read the guest's metrics", self.deadlines.read);
        let request = empty(Method::GET, &format!("{}/metrics", sandbox(id)));
        call.within(async { self.ask(call, request).await?.text(call.operation).await }).await
    }

    /// The node's own OpenAPI document.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn openapi(&self) -> Result<serde_json::Value, NodeError> {
        self.read("read the node's OpenAPI document", "/openapi.json").await
    }

    /// Makes a sandbox run. The same spec again changes nothing.
    ///
    /// # Errors
    /// See [`NodeError`]; a stale generation is refused.
    pub async fn create(&self, id: RunId, spec: &SandboxSpec, traceparent: Option<&str>) -> Result<Sandbox, NodeError> {
        let call = Call::new("create the sandbox", self.deadlines.create);
        let body = serde_json::to_vec(spec).map_err(|error| NodeError::protocol(call.operation, error.to_string()))?;
        let mut request = builder(Method::PUT, &sandbox(id)).header(CONTENT_TYPE, "application/json");
        if let Some(trace) = traceparent {
            request = request.header(TRACEPARENT, trace);
        }
        self.json(call, whole(request, body.into(), call.operation)?).await
    }

    /// One sandbox; `None` if the node does not know it.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn get(&self, id: RunId) -> Result<Option<Sandbox>, NodeError> {
        found(self.read("read the sandbox", &sandbox(id)).await)
    }

    /// Waits until the sandbox is ready or has failed, at most for `timeout`;
    /// then says how it is, whichever that is. `None` if the node does not know
    /// it (any more).
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn wait_ready(&self, id: RunId, timeout: Duration) -> Result<Option<Sandbox>, NodeError> {
        let end = Instant::now() + timeout;
        loop {
            let asked = Instant::now();
            let wait = end.saturating_duration_since(asked).min(LONGEST_WAIT);
            let Some(sandbox) = self.wait_once(id, wait).await? else { return Ok(None) };
            let settled = match sandbox.phase {
                SandboxPhase::Ready | SandboxPhase::Failed { .. } | SandboxPhase::Stopping => true,
                SandboxPhase::Booting | SandboxPhase::Backoff { .. } | SandboxPhase::Waiting { .. } => false,
            };
            if settled || Instant::now() >= end {
                return Ok(Some(sandbox));
            }
            if asked.elapsed() < wait {
                tokio::time::sleep(EARLY_ANSWER_PAUSE).await;
            }
        }
    }

    async fn wait_once(&self, id: RunId, wait: Duration) -> Result<Option<Sandbox>, NodeError> {
        let call = Call::new("wait for the sandbox", wait + self.deadlines.margin);
        let path = format!("{}?until=ready&wait_ms={}", sandbox(id), wait.as_millis());
        found(self.json(call, empty(Method::GET, &path)).await)
    }

    /// Takes a run of a POD down, its agent having `grace` to end by itself. When this
    /// returns, nothing of it runs on the node, and the POD's data is set aside or
    /// erased; unknown runs are gone already.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn delete(
        &self,
        id: RunId,
        pod: PodId,
        grace: Duration,
        data: DataPolicy,
    ) -> Result<DeleteResponse, NodeError> {
        let call = Call::new("delete the sandbox", grace + self.deadlines.margin);
        let path = format!("{}?pod={pod}&grace_ms={}&data={}", sandbox(id), grace.as_millis(), data.as_str());
        self.json(call, empty(Method::DELETE, &path)).await
    }

    /// Erases what is kept of a POD that does not run: its owner's word. Nothing may be
    /// kept of it any more.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn erase(&self, pod: PodId) -> Result<(), NodeError> {
        let call = Call::new("erase a POD's data", self.deadlines.read);
        let request = empty(Method::DELETE, &format!("/v1/pods/{pod}/data"));
        call.within(async { self.ask(call, request).await?.accepted(call.operation).await }).await?;
        Ok(())
    }

    /// Makes a volume, or finds it, and grows it where it is smaller.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn put_volume(&self, id: VolumeId, spec: &VolumeSpec) -> Result<NodeVolume, NodeError> {
        let call = Call::new("make the volume", self.deadlines.create);
        let body = serde_json::to_vec(spec).map_err(|error| NodeError::protocol(call.operation, error.to_string()))?;
        let request = builder(Method::PUT, &volume(id)).header(CONTENT_TYPE, "application/json");
        self.json(call, whole(request, body.into(), call.operation)?).await
    }

    /// A volume, as the node sees it.
    ///
    /// # Errors
    /// See [`NodeError`]; one that is not there is refused with `no_volume`.
    pub async fn volume(&self, id: VolumeId) -> Result<NodeVolume, NodeError> {
        self.read("look at the volume", &volume(id)).await
    }

    /// All volumes of the node, in the order of their ids.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn volumes(&self) -> Result<NodeVolumes, NodeError> {
        self.read("list the volumes", "/v1/volumes").await
    }

    /// Erases a volume that no sandbox has: its owner's word.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn erase_volume(&self, id: VolumeId) -> Result<(), NodeError> {
        let call = Call::new("erase the volume", self.deadlines.read);
        let request = empty(Method::DELETE, &volume(id));
        call.within(async { self.ask(call, request).await?.accepted(call.operation).await }).await?;
        Ok(())
    }

    /// All sandboxes of the node, in the order of their ids, and apart from them those
    /// it cannot read.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn list(&self) -> Result<Sandboxes, NodeError> {
        self.read("list the sandboxes", "/v1/sandboxes").await
    }

    /// The disks that outlived their sandboxes.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn disks(&self) -> Result<KeptDisks, NodeError> {
        self.read("list the disks", "/v1/disks").await
    }

    /// Metering marks after number `after`, oldest first, waiting up to `wait`
    /// for the first. This tells the node that 1 to `after` are kept.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn marks(&self, after: u64, wait: Duration) -> Result<MarksPage, NodeError> {
        let wait = wait.min(LONGEST_WAIT);
        let call = Call::new("read the metering marks", wait + self.deadlines.margin);
        self.json(call, empty(Method::GET, &format!("/v1/marks?after={after}&wait_ms={}", wait.as_millis()))).await
    }

    async fn read<T: DeserializeOwned>(&self, operation: &'static str, path: &str) -> Result<T, NodeError> {
        self.json(Call::new(operation, self.deadlines.read), empty(Method::GET, path)).await
    }

    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        call: Call,
        request: Request<Full<Bytes>>,
    ) -> Result<T, NodeError> {
        call.within(async { self.ask(call, request).await?.json(call.operation).await }).await
    }

    pub(super) async fn ask(&self, call: Call, request: Request<Full<Bytes>>) -> Result<Answer, NodeError> {
        send(call.operation, &self.socket, request).await
    }
}

/// A sandbox's path.
pub(super) fn sandbox(id: RunId) -> String {
    format!("/v1/sandboxes/{id}")
}

/// A volume's path.
fn volume(id: VolumeId) -> String {
    format!("/v1/volumes/{id}")
}

/// The start of every request. HTTP wants a host; a socket has none.
pub(super) fn builder(method: Method, path: &str) -> Builder {
    Request::builder().method(method).uri(path).header(http::header::HOST, "node")
}

/// A request without a body. Its path is made of ids and integers alone.
pub(super) fn empty(method: Method, path: &str) -> Request<Full<Bytes>> {
    builder(method, path).body(Full::default()).expect("a path of ids and integers is a URI")
}

pub(super) fn whole(request: Builder, body: Bytes, operation: &'static str) -> Result<Request<Full<Bytes>>, NodeError> {
    request.body(Full::new(body)).map_err(|error| NodeError::protocol(operation, error.to_string()))
}

pub(super) fn found<T>(answer: Result<T, NodeError>) -> Result<Option<T>, NodeError> {
    match answer {
        Ok(it) => Ok(Some(it)),
        Err(NodeError::Refused(fault)) if fault.code == Code::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
