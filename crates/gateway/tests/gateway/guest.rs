//! Guests and images that a test sets.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use control::fake::FakeNode;
use control::{ByteStream, LogSource, Node, NodeBody, NodeCopies, NodeError, NodeImages};
use domain::{ContentCall, ImageDigest, OwnedDisk, PodId, RunId, VolumeId};
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use wire::fault::{Code, Fault};
use wire::v1::node::{
    DataPolicy, DeleteResponse, MarksPage, NodeInfo, NodeVolume, Sandbox, SandboxSpec, Sandboxes, VolumeSpec,
};

/// One agent, at an address of the test's choice, that answers for every id.
#[derive(Default)]
pub(crate) struct FakeGuests {
    /// Where the agent listens; nowhere is a dead guest.
    pub(crate) address: Mutex<Option<SocketAddr>>,
    /// Where single agents listen instead.
    pub(crate) addresses: Mutex<BTreeMap<RunId, SocketAddr>>,
    /// What listens on other ports than the agents'.
    pub(crate) other_ports: Mutex<BTreeMap<u16, SocketAddr>>,
    /// What the node says of every tunnel.
    pub(crate) refusal: Mutex<Option<Code>>,
    /// How often a node was asked for an agent's port.
    pub(crate) ports: AtomicUsize,
    /// Whether the first of those questions has no answer.
    pub(crate) silent_at_first: AtomicBool,
    /// How the tunnels are: by whom, and how many.
    pub(crate) tunnels: Arc<Tunnels>,
    /// What the next readings of logs answer.
    pub(crate) logs: Mutex<VecDeque<Body>>,
    /// The calls that were passed on: path, headers, body.
    pub(crate) passed: Mutex<Vec<(String, http::HeaderMap, Bytes)>>,
}

impl FakeGuests {
    pub(crate) fn listens_at(&self, address: SocketAddr) {
        *self.address.lock().unwrap() = Some(address);
    }

    /// Serves this app as the agent.
    pub(crate) async fn serves(&self, app: axum::Router) {
        self.listens_at(serve(app).await);
    }

    /// Serves this app as one of the agents.
    pub(crate) async fn serves_as(&self, id: RunId, app: axum::Router) {
        let address = serve(app).await;
        self.addresses.lock().unwrap().insert(id, address);
    }

    /// Serves this app on another port of every agent.
    pub(crate) async fn serves_at(&self, port: u16, app: axum::Router) {
        let address = serve(app).await;
        self.other_ports.lock().unwrap().insert(port, address);
    }
}

async fn serve(app: axum::Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Counts tunnels as a node does that can open few at the same time.
#[derive(Default)]
pub(crate) struct Tunnels {
    /// The agents whose tunnels were opened, in order.
    pub(crate) opened: Mutex<Vec<RunId>>,
    opening: AtomicUsize,
    open: Mutex<BTreeMap<RunId, usize>>,
    /// The most that were open to one agent.
    pub(crate) most: AtomicUsize,
    /// How long opening takes.
    pub(crate) slow: Mutex<Duration>,
}

impl Tunnels {
    /// A node that is asked for more at the same time refuses.
    const QUEUE: usize = 64;

    async fn open(self: Arc<Self>, id: RunId, address: SocketAddr) -> Result<Tunnel, NodeError> {
        let waiting = self.opening.fetch_add(1, Ordering::SeqCst);
        let slow = *self.slow.lock().unwrap();
        tokio::time::sleep(slow).await;
        let stream = TcpStream::connect(address).await;
        self.opening.fetch_sub(1, Ordering::SeqCst);
        if waiting >= Self::QUEUE {
            return Err(refused(Code::AgentUnreachable));
        }
        let stream = stream.map_err(|_| refused(Code::AgentUnreachable))?;
        self.opened.lock().unwrap().push(id);
        let now = {
            let mut open = self.open.lock().unwrap();
            let now = open.entry(id).or_insert(0);
            *now += 1;
            *now
        };
        self.most.fetch_max(now, Ordering::SeqCst);
        Ok(Tunnel { stream, open: Open { tunnels: self, id } })
    }

    /// How many are open to this agent.
    pub(crate) fn now(&self, id: RunId) -> usize {
        self.open.lock().unwrap().get(&id).copied().unwrap_or(0)
    }
}

struct Tunnel {
    stream: TcpStream,
    #[expect(dead_code, reason = "counted until it is dropped")]
    open: Open,
}

struct Open {
    tunnels: Arc<Tunnels>,
    id: RunId,
}

impl Drop for Open {
    fn drop(&mut self) {
        *self.tunnels.open.lock().unwrap().get_mut(&self.id).unwrap() -= 1;
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, to)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A node whose guests can be talked to.
pub(crate) struct NodeWithGuests {
    pub(crate) node: FakeNode,
    pub(crate) guests: Arc<FakeGuests>,
}

fn silent(operation: &'static str, why: &str) -> NodeError {
    NodeError::ConnectionLost { operation, source: why.into() }
}

fn refused(code: Code) -> NodeError {
    NodeError::Refused(Box::new(Fault::new(code, "internal words of the node")))
}

#[async_trait]
impl Node for NodeWithGuests {
    fn name(&self) -> &str {
        self.node.name()
    }

    async fn info(&self) -> Result<NodeInfo, NodeError> {
        self.node.info().await
    }

    async fn create(&self, id: RunId, spec: &SandboxSpec, trace: Option<&str>) -> Result<Sandbox, NodeError> {
        self.node.create(id, spec, trace).await
    }

    async fn get(&self, id: RunId) -> Result<Option<Sandbox>, NodeError> {
        let guests = &self.guests;
        if guests.ports.fetch_add(1, Ordering::SeqCst) == 0 && guests.silent_at_first.load(Ordering::SeqCst) {
            return Err(refused(Code::AgentUnreachable));
        }
        self.node.get(id).await
    }

    async fn wait_ready(&self, id: RunId, timeout: Duration) -> Result<Option<Sandbox>, NodeError> {
        self.node.wait_ready(id, timeout).await
    }

    async fn delete(
        &self,
        id: RunId,
        pod: PodId,
        grace: Duration,
        data: DataPolicy,
    ) -> Result<DeleteResponse, NodeError> {
        self.node.delete(id, pod, grace, data).await
    }

    async fn erase(&self, pod: PodId) -> Result<(), NodeError> {
        self.node.erase(pod).await
    }

    async fn put_volume(&self, id: VolumeId, spec: &VolumeSpec) -> Result<NodeVolume, NodeError> {
        self.node.put_volume(id, spec).await
    }

    async fn volume(&self, id: VolumeId) -> Result<NodeVolume, NodeError> {
        self.node.volume(id).await
    }

    async fn erase_volume(&self, id: VolumeId) -> Result<(), NodeError> {
        self.node.erase_volume(id).await
    }

    async fn list(&self) -> Result<Sandboxes, NodeError> {
        self.node.list().await
    }

    async fn marks(&self, after: u64, wait: Duration) -> Result<MarksPage, NodeError> {
        self.node.marks(after, wait).await
    }

    async fn tunnel(&self, id: RunId, port: Option<u16>) -> Result<Box<dyn ByteStream>, NodeError> {
        let guests = &self.guests;
        if let Some(code) = *guests.refusal.lock().unwrap() {
            return Err(refused(code));
        }
        let own = guests.addresses.lock().unwrap().get(&id).copied();
        let agents = own.or(*guests.address.lock().unwrap());
        let address = match port {
            None => agents,
            Some(port) => guests.other_ports.lock().unwrap().get(&port).copied(),
        };
        let address = address.ok_or_else(|| refused(Code::AgentUnreachable))?;
        Ok(Box::new(Arc::clone(&guests.tunnels).open(id, address).await?))
    }

    async fn logs(&self, _: RunId, _: LogSource, _: bool) -> Result<NodeBody, NodeError> {
        let lines = self.guests.logs.lock().unwrap().pop_front();
        let lines = lines.ok_or_else(|| silent("read the logs", "no logs were set"))?;
        Ok(lines.map_err(Into::into).boxed_unsync())
    }

    fn images(&self) -> &dyn NodeImages {
        self.node.images()
    }

    async fn content(
        &self,
        disk: OwnedDisk,
        call: ContentCall,
        holder: &str,
        request: Request<NodeBody>,
    ) -> Result<Response<NodeBody>, NodeError> {
        self.node.content(disk, call, holder, request).await
    }

    fn copies(&self) -> &dyn NodeCopies {
        self.node.copies()
    }

    async fn forward(&self, _: RunId, path: &str, request: Request<NodeBody>) -> Result<Response<NodeBody>, NodeError> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        self.guests.passed.lock().unwrap().push((path.to_owned(), head.headers, body));
        let frames = Body::from("frames").map_err(Into::into).boxed_unsync();
        Ok(Response::builder().header("Content-Type", "application/connect+json").body(frames).unwrap())
    }
}

/// The digest that `echo` names.
pub(crate) const ECHO: ImageDigest = ImageDigest([0xec; 32]);

/// The images of the nodes.
pub(crate) fn images() -> BTreeMap<String, ImageDigest> {
    BTreeMap::from([("echo".to_owned(), ECHO), ("coding".to_owned(), ImageDigest([0xc0; 32]))])
}
