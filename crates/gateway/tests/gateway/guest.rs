//! Guests and images that a test sets.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::body::Body;
use bytes::Bytes;
use domain::{AgentId, ImageDigest};
use gateway::{GuestError, Guests, Images, Io, Table};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use palatine_gateway as gateway;
use tokio::net::{TcpListener, TcpStream};
use wire::fault::{Code, Fault};

/// One agent, at an address of the test's choice, that answers for every id.
#[derive(Default)]
pub(crate) struct FakeGuests {
    /// Where the agent listens; nowhere is a dead guest.
    pub(crate) address: Mutex<Option<SocketAddr>>,
    /// What the node says of every tunnel.
    pub(crate) refusal: Mutex<Option<Code>>,
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
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.listens_at(listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
    }
}

#[async_trait]
impl Guests for FakeGuests {
    async fn tunnel(&self, _: &str, _: AgentId) -> Result<Box<dyn Io>, GuestError> {
        if let Some(code) = *self.refusal.lock().unwrap() {
            return Err(GuestError::Refused(Box::new(Fault::new(code, "internal words of the node"))));
        }
        let dead = || GuestError::Unreachable("nobody is there".into());
        let address = self.address.lock().unwrap().ok_or_else(dead)?;
        let stream = TcpStream::connect(address).await.map_err(|error| GuestError::Unreachable(error.into()))?;
        Ok(Box::new(stream))
    }

    async fn logs(&self, _: &str, _: AgentId, _: bool, _: bool) -> Result<Body, GuestError> {
        self.logs.lock().unwrap().pop_front().ok_or_else(|| GuestError::Node("no logs were set".into()))
    }

    async fn pass(
        &self,
        _: &str,
        _: AgentId,
        path: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Body>, GuestError> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        self.passed.lock().unwrap().push((path.to_owned(), head.headers, body));
        Ok(Response::builder().header("Content-Type", "application/connect+json").body(Body::from("frames")).unwrap())
    }
}

/// The images of the nodes.
pub(crate) struct FakeImages(pub(crate) Mutex<Option<Arc<Table>>>);

/// The digest that `echo` names.
pub(crate) const ECHO: ImageDigest = ImageDigest([0xec; 32]);

impl Default for FakeImages {
    fn default() -> Self {
        let table = BTreeMap::from([("echo".to_owned(), ECHO), ("coding".to_owned(), ImageDigest([0xc0; 32]))]);
        Self(Mutex::new(Some(Arc::new(table))))
    }
}

#[async_trait]
impl Images for FakeImages {
    fn table(&self) -> Option<Arc<Table>> {
        self.0.lock().unwrap().clone()
    }

    async fn refresh(&self) {}
}
