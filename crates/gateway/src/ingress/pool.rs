//! Connections to agents, through their nodes' tunnels, kept and used again.
//!
//! A pool belongs to one agent at one generation, and an id is never given twice:
//! no connection leads to another agent than the one it was opened to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use domain::{RunId, Generation};
use http::header::CONTENT_LENGTH;
use http::{Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use moka::future::Cache;
use store::Record;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use wire::fault::Code;

use crate::Limits;
use crate::api::agents::logs::node_of;
use crate::edge::idle::Pulse;
use crate::edge::streams::Asker;
use crate::ingress::queue::{Queue, Turn, busy};
use crate::nodes::guests::{GuestError, Guests};
use crate::refusal::Refusal;

/// Connections to one agent that are being opened at the same time: many servers
/// let few wait to be accepted, and forget the rest.
const OPENING: usize = 8;
/// Agents whose port is remembered, at most: one that is forgotten is asked for again.
const PORTS: u64 = 16_384;

/// The pools of all agents that were asked of late.
pub(crate) struct Pools {
    guests: Arc<dyn Guests>,
    limits: Limits,
    agents: Mutex<HashMap<(RunId, Generation), Arc<Pool>>>,
    /// The ports that somebody has named an agent with.
    ports: Cache<(RunId, Generation), u16>,
}

impl Pools {
    /// How often connections that nobody uses are looked for.
    pub(crate) const SWEEP_EVERY: Duration = Duration::from_millis(500);

    pub(crate) fn new(guests: Arc<dyn Guests>, limits: &Limits) -> Self {
        Self { guests, limits: limits.clone(), agents: Mutex::default(), ports: Cache::new(PORTS) }
    }

    /// Waits for the right to ask this agent once.
    pub(crate) async fn lease(&self, record: &Record, asker: Asker) -> Result<Lease, Refusal> {
        let pool = self.pool(record)?;
        let until = Instant::now() + Duration::from_millis(self.limits.agent_wait_ms);
        let turn = pool.queue.turn(asker, until).await?;
        Ok(Lease { pool, until, asker, _turn: turn })
    }

    /// The port that the agent serves. Its node is asked once: the port is its image's,
    /// and however often the agent is started again, at one generation it has one image.
    pub(crate) async fn port(&self, record: &Record) -> Result<u16, Refusal> {
        let key = (record.id, record.generation);
        if let Some(port) = self.ports.get(&key).await {
            return Ok(port);
        }
        let port = self.guests.port(node_of(record)?, record.id).await?;
        self.ports.insert(key, port).await;
        Ok(port)
    }

    fn pool(&self, record: &Record) -> Result<Arc<Pool>, Refusal> {
        let node = node_of(record)?;
        let fresh = || Arc::new(Pool::new(Arc::clone(&self.guests), node, record.id, &self.limits));
        Ok(Arc::clone(self.agents().entry((record.id, record.generation)).or_insert_with(fresh)))
    }

    /// Closes connections that were idle for too long, and forgets the agents that
    /// have none and are not being asked.
    pub(crate) fn sweep(&self) {
        self.agents().retain(|_, pool| {
            let idle = pool.forget_old();
            idle > 0 || Arc::strong_count(pool) > 1
        });
    }

    fn agents(&self) -> MutexGuard<'_, HashMap<(RunId, Generation), Arc<Pool>>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What leads to one agent.
struct Pool {
    guests: Arc<dyn Guests>,
    node: String,
    id: RunId,
    queue: Queue,
    opening: Semaphore,
    /// The one used last is the last.
    idle: Mutex<Vec<Idle>>,
    returned: Notify,
    /// One clone lives with each connection.
    live: Arc<()>,
    /// Connections at once, the idle ones with them.
    most: usize,
    connect: Duration,
    answer: Duration,
    keep: Duration,
    silence: Duration,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// A connection to the agent's port over which HTTP/1.1 is spoken.
struct Connection {
    sender: SendRequest<Body>,
    past: Past,
    driver: AbortOnDropHandle<()>,
    _live: Arc<()>,
}

/// Whose requests with bodies went over a connection. An agent that answers without
/// having read a body takes the rest of it for the next request: whoever sent the
/// body says what that is, and the next caller gets its answer. So nobody goes on
/// where a visitor's body went, and holders alone where a holder's did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Past {
    /// There was none.
    Clean,
    /// Holders' of the agent's token.
    Holders,
    /// A visitor's too.
    Visitors,
}

impl Past {
    const fn and_a_body_of(self, asker: Asker) -> Self {
        match (self, asker) {
            (Self::Visitors, _) | (_, Asker::Payer(..) | Asker::Visitor { .. }) => Self::Visitors,
            (Self::Clean | Self::Holders, Asker::Holder) => Self::Holders,
        }
    }

    const fn is_for(self, asker: Asker) -> bool {
        match self {
            Self::Clean => true,
            Self::Holders => matches!(asker, Asker::Holder),
            Self::Visitors => false,
        }
    }
}

impl Pool {
    fn new(guests: Arc<dyn Guests>, node: &str, id: RunId, limits: &Limits) -> Self {
        Self {
            guests,
            node: node.to_owned(),
            id,
            queue: Queue::new(limits),
            opening: Semaphore::new(OPENING),
            idle: Mutex::default(),
            returned: Notify::new(),
            live: Arc::default(),
            most: usize::try_from(limits.agent_connections).unwrap_or(usize::MAX),
            connect: Duration::from_millis(limits.agent_connect_ms),
            answer: Duration::from_millis(limits.agent_answer_ms),
            keep: Duration::from_millis(limits.agent_idle_ms),
            silence: Duration::from_millis(limits.stream_idle_ms),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last that is still good, and may be this one's.
    fn take(&self, asker: Asker) -> Option<Idle> {
        let mut idle = self.idle();
        idle.retain(|one| self.is_good(one));
        let at = idle.iter().rposition(|one| one.connection.past.is_for(asker))?;
        Some(idle.remove(at))
    }

    fn give_back(&self, idle: Idle) {
        self.idle().push(idle);
        // It may not be for the one that waits longest.
        self.returned.notify_waiters();
    }

    /// Says how many are left.
    fn forget_old(&self) -> usize {
        let mut idle = self.idle();
        idle.retain(|one| self.is_good(one));
        idle.len()
    }

    fn is_good(&self, idle: &Idle) -> bool {
        idle.since.elapsed() < self.keep && idle.connection.sender.is_ready()
    }

    /// Where as many are open as may be, one that others might have used ends.
    fn make_room(&self) {
        // The pool's own clone is one more.
        if Arc::strong_count(&self.live) > self.most {
            let mut idle = self.idle();
            if !idle.is_empty() {
                idle.remove(0);
            }
        }
    }

    /// Opens a connection.
    async fn open(&self) -> Result<Connection, Refusal> {
        self.make_room();
        let opening = async {
            let io = self.guests.tunnel(&self.node, self.id).await?;
            http1::handshake(TokioIo::new(io)).await.map_err(|error| GuestError::Unreachable(error.into()))
        };
        let (sender, connection) = match timeout(self.connect, opening).await {
            Ok(opened) => opened.map_err(unopened)?,
            // It takes connections, only not so many at once.
            Err(_) if Arc::strong_count(&self.live) > 1 => return Err(busy()),
            Err(late) => return Err(unreachable(late)),
        };
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to an agent broke");
            }
        });
        let driver = AbortOnDropHandle::new(driver);
        Ok(Connection { sender, past: Past::Clean, driver, _live: Arc::clone(&self.live) })
    }
}

/// It was ready once: if it is not now, its guest has died, whatever the node makes
/// of that.
fn unopened(error: GuestError) -> Refusal {
    match error {
        GuestError::Refused(fault) if fault.code == Code::AgentNotReady => unreachable(fault),
        error => error.into(),
    }
}

/// The agent does not answer.
pub(crate) fn unreachable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Refusal {
    GuestError::Unreachable(error.into()).into()
}

/// A request broke off: its client sent no whole body, or the agent does not answer.
impl From<hyper::Error> for Refusal {
    fn from(error: hyper::Error) -> Self {
        if error.is_user() { Self::invalid("the body ended before it was whole") } else { unreachable(error) }
    }
}

/// The right to ask an agent once.
pub(crate) struct Lease {
    pool: Arc<Pool>,
    /// When waiting for a connection ends.
    until: Instant,
    asker: Asker,
    _turn: Turn,
}

/// A request that a connection lost.
struct Lost {
    error: hyper::Error,
    /// The request, where nothing of it was sent.
    unsent: Option<Request<Body>>,
}

impl Lease {
    /// The same, with a connection waited for until then: a payment that was settled
    /// meanwhile must not cost the time.
    pub(crate) fn until(self, until: Instant) -> Self {
        Self { until, ..self }
    }

    /// Asks the agent, and waits for the head of its answer. A connection that the
    /// agent closed while it was idle costs a second try, over a new one, where the
    /// first cannot have had an effect.
    pub(crate) async fn send(self, request: Request<Body>) -> Result<Response<Body>, Refusal> {
        let pulse = Pulse::new();
        let again = repeatable(&request);
        let has_body = has_body(&request);
        let request = request.map(|body| Body::new(pulse.of(body)));
        let (mut connection, used) = self.connection().await?;
        let answer = match self.ask(&mut connection, request).await? {
            Ok(answer) => answer,
            Err(lost) => {
                let second = lost.unsent.or(again).filter(|_| used && !lost.error.is_parse());
                let Some(request) = second else { return Err(lost.error.into()) };
                connection = self.another().await?;
                self.ask(&mut connection, request).await?.map_err(|lost| lost.error)?
            }
        };
        if has_body {
            connection.past = connection.past.and_a_body_of(self.asker);
        }
        Ok(self.answered(connection, answer, pulse))
    }

    /// A connection, and whether it was used before.
    async fn connection(&self) -> Result<(Connection, bool), Refusal> {
        loop {
            let returned = self.pool.returned.notified();
            if let Some(idle) = self.pool.take(self.asker) {
                return Ok((idle.connection, true));
            }
            let next = async {
                tokio::select! {
                    permit = self.pool.opening.acquire() => Some(permit),
                    () = returned => None,
                }
            };
            let Some(_opening) = timeout_at(self.until, next).await.map_err(|_| busy())? else { continue };
            // One may have come back meanwhile, here and while another was opened.
            if let Some(idle) = self.pool.take(self.asker) {
                return Ok((idle.connection, true));
            }
            return match (self.pool.open().await, self.pool.take(self.asker)) {
                (Err(_), Some(idle)) => Ok((idle.connection, true)),
                (opened, spare) => {
                    spare.into_iter().for_each(|spare| self.pool.give_back(spare));
                    opened.map(|connection| (connection, false))
                }
            };
        }
    }

    /// One more connection, for a second try.
    async fn another(&self) -> Result<Connection, Refusal> {
        let opening = timeout(self.pool.connect, self.pool.opening.acquire()).await;
        let _opening = opening.map_err(|_| busy())?;
        self.pool.open().await
    }

    async fn ask(
        &self,
        connection: &mut Connection,
        request: Request<Body>,
    ) -> Result<Result<Response<Incoming>, Lost>, Refusal> {
        let asked = timeout(self.pool.answer, connection.sender.try_send_request(request)).await;
        Ok(asked.map_err(unreachable)?.map_err(|mut error| {
            let unsent = error.take_message();
            Lost { error: error.into_error(), unsent }
        }))
    }

    /// Lets the answer flow; afterwards the connection is free for the next.
    fn answered(self, mut connection: Connection, answer: Response<Incoming>, pulse: Pulse) -> Response<Body> {
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            // It is no longer ours: it ends with whoever takes it over.
            connection.driver.detach();
            return answer.map(Body::new);
        }
        let flowing = answer.map(|body| Body::new(pulse.of(body)));
        tokio::spawn(async move {
            tokio::select! {
                ready = connection.sender.ready() => {
                    if ready.is_ok() && connection.past != Past::Visitors {
                        self.pool.give_back(Idle { connection, since: Instant::now() });
                    }
                }
                () = pulse.silent(self.pool.silence) => tracing::debug!("an answer fell silent and is ended"),
            }
            drop(self);
        });
        flowing
    }
}

/// Whether bytes follow the head, or the agent may think so.
fn has_body(request: &Request<Body>) -> bool {
    let announced = request.headers().get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    announced || !request.body().is_end_stream()
}

/// The same request once more, where asking twice does what asking once does and no
/// body goes with it.
fn repeatable(request: &Request<Body>) -> Option<Request<Body>> {
    if !request.method().is_idempotent() || !request.body().is_end_stream() {
        return None;
    }
    let mut again = Request::new(Body::empty());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.version_mut() = request.version();
    *again.headers_mut() = request.headers().clone();
    Some(again)
}
