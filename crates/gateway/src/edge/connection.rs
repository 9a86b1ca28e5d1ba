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
use crate::edge::dispatch::handle;
use crate::edge::eviction::{ActiveRequest, ConnectionActivity, ConnectionsByIdleTime};
use crate::edge::guarded::GuardedBody;
use crate::edge::linger::{LingerFlag, LingeringStream};
use crate::edge::source::ConnectionInfo;
use crate::state::Gateway;

/// How many times the headers' limit hyper reads before it answers by itself: so far,
/// headers that are too large get an answer of ours.
const HEAD_SLACK: usize = 4;
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 128;
/// Bytes that wait to be sent on one HTTP/2 stream.
const SEND_BUFFER: usize = 256 * 1024;
/// Between two pings on an HTTP/2 connection, and the wait for each.
const PING_EVERY: Duration = Duration::from_secs(20);

/// How long a connection that shuts down may take to send what is left.
const FLUSH: Duration = Duration::from_secs(45);

/// Serves connections.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) router: Router,
    http: Builder<TokioExecutor>,
    /// All connections, of which idle ones can be evicted.
    pub(crate) idle: ConnectionsByIdleTime,
    /// Ends connections that did not drain in time.
    pub(crate) killed: CancellationToken,
}

impl Server {
    pub(crate) fn new(gateway: Arc<Gateway>, router: Router) -> Self {
        let http = builder(&gateway.limits);
        Self { gateway, router, http, idle: ConnectionsByIdleTime::default(), killed: CancellationToken::new() }
    }

    /// Serves a connection to its end. One that does not send a whole request
    /// in time is dropped, whatever protocol it pretends to begin; an idle one is shut
    /// down gracefully, and dropped if it does not end.
    pub(crate) async fn run<I>(self, io: I, info: ConnectionInfo)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Self { gateway, router, http, idle, killed } = self;
        let (io, linger) = LingeringStream::new(io);
        let (activity, seen) = (idle.register(), AtomicBool::new(false));
        let context = ConnectionContext { gateway, router, info, activity, seen, linger, killed };
        let context = Arc::new(context);
        let shared = Arc::clone(&context);
        let service = service_fn(move |request| answer(Arc::clone(&shared), request));
        let connection = http.serve_connection_with_upgrades(TokioIo::new(io), service);
        tokio::pin!(connection);
        // Polled only when one of its timers or signals fires, not with each byte that comes.
        let mut end = FuturesUnordered::from_iter([Arc::clone(&context).until_shutdown().boxed()]);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a client's connection broke off");
                    }
                    return;
                }
                Some(shutdown) = end.next() => match shutdown {
                    Shutdown::Graceful => {
                        connection.as_mut().graceful_shutdown();
                        end.push(Arc::clone(&context).until_closed().boxed());
                    }
                    Shutdown::Immediate => return,
                },
            }
        }
    }
}

/// How a connection is to end.
enum Shutdown {
    /// After its requests under way; its client is told.
    Graceful,
    /// At once.
    Immediate,
}

/// One connection, as its requests see it.
struct ConnectionContext {
    gateway: Arc<Gateway>,
    router: Router,
    info: ConnectionInfo,
    activity: Arc<ConnectionActivity>,
    /// Whether a whole request has come.
    seen: AtomicBool,
    linger: LingerFlag,
    killed: CancellationToken,
}

impl ConnectionContext {
    /// Waits for the first reason to end the connection.
    async fn until_shutdown(self: Arc<Self>) -> Shutdown {
        let limits = &self.gateway.limits;
        let idle = Duration::from_millis(limits.header_ms);
        tokio::select! {
            () = self.activity.evicted() => Shutdown::Immediate,
            () = self.killed.cancelled() => Shutdown::Immediate,
            () = tokio::time::sleep(Duration::from_millis(limits.connection_age_ms)) => Shutdown::Graceful,
            () = self.gateway.draining.cancelled() => Shutdown::Graceful,
            // Before its first request its protocol is not known, in which it could be told.
            () = self.activity.idle_for(idle) => {
                if self.seen.load(Ordering::Relaxed) { Shutdown::Graceful } else { Shutdown::Immediate }
            }
        }
    }

    /// Waits for the end of a connection that is shutting down gracefully.
    async fn until_closed(self: Arc<Self>) -> Shutdown {
        let idle = Duration::from_millis(self.gateway.limits.header_ms);
        tokio::select! {
            () = self.activity.idle_for(self.grace(idle)) => {}
            () = self.activity.evicted() => {}
            () = self.killed.cancelled() => {}
        }
        Shutdown::Immediate
    }

    /// How long a connection that shuts down may be idle: one without any request has
    /// nothing left to send.
    fn grace(&self, idle: Duration) -> Duration {
        if self.seen.load(Ordering::Relaxed) { idle + FLUSH } else { idle }
    }
}

type Answered = Response<GuardedBody<Body, Arc<ActiveRequest>>>;

async fn answer(context: Arc<ConnectionContext>, mut request: Request<Incoming>) -> Result<Answered, Infallible> {
    context.seen.store(true, Ordering::Relaxed);
    // A request may be answered before its body is read.
    context.linger.set(!request.body().is_end_stream());
    let active = Arc::new(context.activity.start_request());
    request.extensions_mut().insert(Arc::clone(&active));
    let answer = handle(Arc::clone(&context.gateway), context.router.clone(), context.info, request).await;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        context.linger.set(false);
    }
    Ok(answer.map(|body| GuardedBody::new(body, active)))
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
