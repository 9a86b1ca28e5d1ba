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
use domain::{ImageDigest, RunId};
use gateway::{ByteStream, GuestConnector, GuestError, ImageCatalog, ImageTable};
use http::{Request, Response};
use http_body_util::BodyExt;
use palatine_gateway as gateway;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use wire::fault::{Code, Fault};

/// One agent, at an address of the test's choice, that answers for every id.
#[derive(Default)]
pub(crate) struct FakeGuests {
    /// Where the agent listens; nowhere is a dead guest.
    pub(crate) address: Mutex<Option<SocketAddr>>,
    /// Where single agents listen instead.
    pub(crate) addresses: Mutex<BTreeMap<RunId, SocketAddr>>,
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

    async fn open(self: Arc<Self>, id: RunId, address: SocketAddr) -> Result<Tunnel, GuestError> {
        let waiting = self.opening.fetch_add(1, Ordering::SeqCst);
        let slow = *self.slow.lock().unwrap();
        tokio::time::sleep(slow).await;
        let stream = TcpStream::connect(address).await;
        self.opening.fetch_sub(1, Ordering::SeqCst);
        if waiting >= Self::QUEUE {
            return Err(GuestError::Unreachable("the node's queue is full".into()));
        }
        let stream = stream.map_err(|error| GuestError::Unreachable(error.into()))?;
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

#[async_trait]
impl GuestConnector for FakeGuests {
    async fn port(&self, _: &str, _: RunId) -> Result<u16, GuestError> {
        if self.ports.fetch_add(1, Ordering::SeqCst) == 0 && self.silent_at_first.load(Ordering::SeqCst) {
            return Err(GuestError::Unreachable("the node has just started".into()));
        }
        Ok(8080)
    }

    async fn tunnel(&self, _: &str, id: RunId) -> Result<Box<dyn ByteStream>, GuestError> {
        if let Some(code) = *self.refusal.lock().unwrap() {
            return Err(GuestError::Refused(Box::new(Fault::new(code, "internal words of the node"))));
        }
        let dead = || GuestError::Unreachable("nobody is there".into());
        let own = self.addresses.lock().unwrap().get(&id).copied();
        let address = own.or(*self.address.lock().unwrap()).ok_or_else(dead)?;
        Ok(Box::new(Arc::clone(&self.tunnels).open(id, address).await?))
    }

    async fn logs(&self, _: &str, _: RunId, _: bool, _: bool) -> Result<Body, GuestError> {
        self.logs.lock().unwrap().pop_front().ok_or_else(|| GuestError::Node("no logs were set".into()))
    }

    async fn forward(
        &self,
        _: &str,
        _: RunId,
        path: &str,
        request: Request<Body>,
    ) -> Result<Response<Body>, GuestError> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        self.passed.lock().unwrap().push((path.to_owned(), head.headers, body));
        Ok(Response::builder().header("Content-Type", "application/connect+json").body(Body::from("frames")).unwrap())
    }
}

/// The images of the nodes.
pub(crate) struct FakeImages(pub(crate) Mutex<Option<Arc<ImageTable>>>);

/// The digest that `echo` names.
pub(crate) const ECHO: ImageDigest = ImageDigest([0xec; 32]);

impl Default for FakeImages {
    fn default() -> Self {
        let table = BTreeMap::from([("echo".to_owned(), ECHO), ("coding".to_owned(), ImageDigest([0xc0; 32]))]);
        Self(Mutex::new(Some(Arc::new(table))))
    }
}

#[async_trait]
impl ImageCatalog for FakeImages {
    fn table(&self) -> Option<Arc<ImageTable>> {
        self.0.lock().unwrap().clone()
    }

    async fn refresh(&self) -> bool {
        self.0.lock().unwrap().is_some()
    }
}
