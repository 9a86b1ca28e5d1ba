//! `pod`'s own calls.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::RunId;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use sandbox::{GuestStream, Runtime};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use wire::Secret;
use wire::v1::node::TUNNEL;
use wire::v1::pod::{GuestBoot, GuestConfig, HelperConfig, PORT, PodStatus, StopRequest};

use super::connection::{PodConnection, PodError, request};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_millis(1_000);
/// How often a guest that is booting is tried. What comes before it has its
/// address is lost, so one try with patience would often wait in vain.
const RETRY_PAUSE: Duration = Duration::from_millis(15);
/// The same for one whose kernel says that nobody listens there yet: that is had at once.
const REFUSED_PAUSE: Duration = Duration::from_millis(3);
/// Tries at the same time, at most.
const PARALLEL_TRIES: usize = 80;
/// How long an answer may take that needs no waiting.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the answer to an identity may take: it waits for the guest's disks.
const TAKE: Duration = Duration::from_secs(30);
/// How long the answer of a helper may take: it waits for the check of its disk.
const MOUNT: Duration = Duration::from_secs(120);
/// Connections to the guest's loopback that are asked for at the same time, at most. Each takes
/// one of `pod`'s places until it is carried: the node's own calls find theirs free, however
/// many visitors come at once.
const TUNNELS_ASKED: usize = 32;
/// How long one question for readiness waits.
const READY_WAIT: Duration = Duration::from_secs(10);

/// What became of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdentityDelivery {
    /// It was taken.
    Accepted,
    /// One was there already.
    AlreadyTold,
}

/// `pod` in one guest.
#[derive(Clone)]
pub(crate) struct PodClient {
    runtime: Arc<dyn Runtime>,
    id: RunId,
    token: Secret,
    tunnels: Arc<Semaphore>,
}

impl PodClient {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, id: RunId, token: Secret) -> Self {
        Self { runtime, id, token, tunnels: Arc::new(Semaphore::new(TUNNELS_ASKED)) }
    }

    pub(crate) const fn token(&self) -> &Secret {
        &self.token
    }

    /// Opens a connection for one conversation.
    pub(crate) async fn open(&self) -> Result<PodConnection, PodError> {
        self.connect(CONNECT).await
    }

    /// Opens a connection that carries bodies of one's own.
    pub(crate) async fn connect<B>(&self, within: Duration) -> Result<PodConnection<B>, PodError>
    where
        B: hyper::body::Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let link = timeout(within, self.runtime.connect(self.id, PORT)).await;
        PodConnection::over(link.map_err(|_| PodError::Late(within))?.map_err(PodError::Unreachable)?).await
    }

    /// Waits until `pod` listens and hands it the identity, which is made anew for
    /// each try, since it tells the time. Ends only with an answer: the caller sets
    /// the deadline.
    pub(crate) async fn deliver(
        &self,
        identity: impl Fn() -> Result<GuestConfig, std::io::Error>,
    ) -> Result<IdentityDelivery, PodError> {
        loop {
            let mut line = self.connect_when_up().await;
            let identity = identity().map_err(|error| PodError::Unclear(error.to_string()))?;
            let body = json(&identity)?;
            match line.ask(request(Method::POST, "/v1/identity", None, body)?, TAKE).await {
                Ok(_) => return Ok(IdentityDelivery::Accepted),
                Err(PodError::Refused { status: StatusCode::CONFLICT, .. }) => {
                    return Ok(IdentityDelivery::AlreadyTold);
                }
                Err(error @ (PodError::Refused { .. } | PodError::Unclear(_))) => return Err(error),
                Err(PodError::Unreachable(_) | PodError::Broken(_) | PodError::Late(_)) => sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// How far a guest is that cannot be told anything yet.
    pub(crate) async fn boot(&self) -> Result<GuestBoot, PodError> {
        let mut line = self.open().await?;
        self.get(&mut line, "/v1/boot", ANSWER).await
    }

    /// Waits until a helper's `pod` listens and its disk is mounted. Ends only with an answer: the
    /// caller sets the deadline.
    pub(crate) async fn mount(
        &self,
        config: impl Fn() -> Result<HelperConfig, std::io::Error>,
    ) -> Result<(), PodError> {
        loop {
            let mut line = self.connect_when_up().await;
            let config = config().map_err(|error| PodError::Unclear(error.to_string()))?;
            let mounted = line.ask(request(Method::POST, "/v1/mount", None, json(&config)?)?, MOUNT).await;
            match mounted {
                Err(PodError::Unreachable(_) | PodError::Broken(_) | PodError::Late(_)) => sleep(RETRY_PAUSE).await,
                done => return done.map(drop),
            }
        }
    }

    /// Opens connections, one after another, until one is taken.
    async fn connect_when_up(&self) -> PodConnection {
        let (mut tries, mut ticks) = (FuturesUnordered::new(), interval(RETRY_PAUSE));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(opened) = tries.next() => match opened {
                    Ok(line) => return line,
                    Err(error) if PodError::is_refused(&error) => ticks.reset_after(REFUSED_PAUSE),
                    Err(_) => {}
                },
                _ = ticks.tick(), if tries.len() < PARALLEL_TRIES => tries.push(self.open()),
            }
        }
    }

    /// Asks how it is, over a connection that is kept.
    pub(crate) async fn status(&self, line: &mut PodConnection) -> Result<PodStatus, PodError> {
        self.get(line, "/v1/status", ANSWER).await
    }

    /// Asks how it is, waiting a while for readiness.
    pub(crate) async fn when_ready(&self, line: &mut PodConnection) -> Result<PodStatus, PodError> {
        let path = format!("/v1/status?until=ready&wait_ms={}", READY_WAIT.as_millis());
        self.get(line, &path, READY_WAIT + ANSWER).await
    }

    /// Opens a connection to a port that is listened on at the guest's loopback alone. The
    /// caller sets the deadline.
    pub(crate) async fn tunnel(&self, port: u16) -> Result<Box<dyn GuestStream>, PodError> {
        let path = format!("/v1/tunnel?port={port}");
        let mut asked = request(Method::GET, &path, Some(&self.token), Bytes::new())?;
        asked.headers_mut().insert(UPGRADE, HeaderValue::from_static(TUNNEL));
        asked.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        // It is never closed.
        let _asked = self.tunnels.acquire().await;
        let mut line = self.open().await?;
        let response = line.send(asked, ANSWER).await?;
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => {}
            status => return Err(PodError::Refused { status, said: String::new() }),
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(PodError::Broken)?;
        Ok(Box::new(TokioIo::new(upgraded)))
    }

    /// What it counts, in its own text.
    pub(crate) async fn metrics(&self) -> Result<Bytes, PodError> {
        let mut line = self.open().await?;
        line.ask(request(Method::GET, "/metrics", Some(&self.token), Bytes::new())?, ANSWER).await
    }

    /// Asks the guest to end.
    pub(crate) async fn stop(&self, grace: Duration) -> Result<(), PodError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let body = json(&StopRequest { grace_ms })?;
        let mut line = self.open().await?;
        line.ask(request(Method::POST, "/v1/stop", Some(&self.token), body)?, ANSWER).await.map(drop)
    }

    async fn get<T: DeserializeOwned>(
        &self,
        line: &mut PodConnection,
        path: &str,
        within: Duration,
    ) -> Result<T, PodError> {
        let body = line.ask(request(Method::GET, path, Some(&self.token), Bytes::new())?, within).await?;
        serde_json::from_slice(&body).map_err(|error| PodError::Unclear(error.to_string()))
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<Bytes, PodError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| PodError::Unclear(error.to_string()))
}
