//! One connection: its protocol, its bounds in time, its end.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use http::{Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::Limits;
use crate::edge::dispatch::{Peer, enter};
use crate::edge::eviction::{Activity, Resting, Work};
use crate::edge::guarded::Holding;
use crate::edge::linger::{Lingering, Lingers};
use crate::state::Gateway;

/// What hyper reads of a head before it gives up without a word of ours: enough
/// for a head that we refuse by name.
const HEAD_SLACK: usize = 4;
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 128;
/// Bytes that wait to be sent on one HTTP/2 stream.
const SEND_BUFFER: usize = 256 * 1024;
/// Between two signs of life on an HTTP/2 connection, and the wait for each.
const PING_EVERY: Duration = Duration::from_secs(20);

/// How long a connection that was asked to end may take to send what is left.
const LINGER: Duration = Duration::from_secs(45);

/// What all connections are served with.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) router: Router,
    http: Builder<TokioExecutor>,
    /// The connections on which nothing is under way.
    pub(crate) resting: Resting,
    /// Ends connections that did not drain in time.
    pub(crate) killed: CancellationToken,
}

impl Server {
    pub(crate) fn new(gateway: Arc<Gateway>, router: Router) -> Self {
        let http = builder(&gateway.limits);
        Self { gateway, router, http, resting: Resting::default(), killed: CancellationToken::new() }
    }

    /// Serves a connection to its end. One that does not send a whole request
    /// in time is dropped, whatever protocol it pretends to begin; one on which nothing
    /// is under way any more is asked to end, and dropped if it does not.
    pub(crate) async fn run<I>(self, io: I, peer: Peer)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Self { gateway, router, http, resting, killed } = self;
        let (io, lingers) = Lingering::new(io);
        let (activity, seen) = (resting.begin(), AtomicBool::new(false));
        let visit = Visit { gateway, router, peer, activity, seen, lingers, killed };
        let visit = Arc::new(visit);
        let guest = Arc::clone(&visit);
        let service = service_fn(move |request| answer(Arc::clone(&guest), request));
        let connection = http.serve_connection_with_upgrades(TokioIo::new(io), service);
        tokio::pin!(connection);
        // Looked at only when something of it is due, not with each byte that comes.
        let mut end = FuturesUnordered::from_iter([Arc::clone(&visit).until_asked().boxed()]);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a client's connection broke");
                    }
                    return;
                }
                Some(end_now) = end.next() => match end_now {
                    End::Asked => {
                        connection.as_mut().graceful_shutdown();
                        end.push(Arc::clone(&visit).until_dropped().boxed());
                    }
                    End::Dropped => return,
                },
            }
        }
    }
}

/// How a connection is to end.
enum End {
    /// It is told that it should.
    Asked,
    /// At once.
    Dropped,
}

/// One connection, as its requests see it.
struct Visit {
    gateway: Arc<Gateway>,
    router: Router,
    peer: Peer,
    activity: Arc<Activity>,
    /// Whether a whole request has come.
    seen: AtomicBool,
    lingers: Lingers,
    killed: CancellationToken,
}

impl Visit {
    async fn until_asked(self: Arc<Self>) -> End {
        let limits = &self.gateway.limits;
        let idle = Duration::from_millis(limits.header_ms);
        tokio::select! {
            () = self.activity.evicted() => End::Dropped,
            () = self.killed.cancelled() => End::Dropped,
            () = tokio::time::sleep(Duration::from_millis(limits.connection_age_ms)) => End::Asked,
            () = self.gateway.draining.cancelled() => End::Asked,
            // Before its first request there is nobody who would understand.
            () = self.activity.rested(idle) => if self.seen.load(Ordering::Relaxed) { End::Asked } else { End::Dropped },
        }
    }

    async fn until_dropped(self: Arc<Self>) -> End {
        let idle = Duration::from_millis(self.gateway.limits.header_ms);
        tokio::select! {
            () = self.activity.rested(self.last_words(idle)) => {}
            () = self.activity.evicted() => {}
            () = self.killed.cancelled() => {}
        }
        End::Dropped
    }

    /// How long a connection that was asked to end may rest: one without any request has
    /// nothing left to send.
    fn last_words(&self, idle: Duration) -> Duration {
        if self.seen.load(Ordering::Relaxed) { idle + LINGER } else { idle }
    }
}

type Answered = Response<Holding<Body, Arc<Work>>>;

async fn answer(visit: Arc<Visit>, mut request: Request<Incoming>) -> Result<Answered, Infallible> {
    visit.seen.store(true, Ordering::Relaxed);
    // What has a body may be answered before that is read.
    visit.lingers.set(!request.body().is_end_stream());
    let work = Arc::new(visit.activity.work());
    request.extensions_mut().insert(Arc::clone(&work));
    let answer = enter(Arc::clone(&visit.gateway), visit.router.clone(), visit.peer, request).await;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        visit.lingers.set(false);
    }
    Ok(answer.map(|body| Holding::new(body, work)))
}

fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let head = usize::try_from(limits.header_bytes).unwrap_or(usize::MAX).saturating_mul(HEAD_SLACK);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits.header_ms))
        .max_buf_size(head.max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(limits.header_bytes.saturating_mul(2))
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(SEND_BUFFER)
        .enable_connect_protocol()
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY);
    builder
}
