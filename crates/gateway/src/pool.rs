//! Connections to agents, through their nodes' tunnels, kept and used again.
//!
//! A pool belongs to one agent at one generation, and an id is never given twice:
//! no connection leads to another agent than the one it was opened to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use domain::{AgentId, Generation};
use http::{Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use store::Record;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use wire::fault::Code;

use crate::Limits;
use crate::guests::{GuestError, Guests};
use crate::logs::node_of;
use crate::pulse::Pulse;
use crate::queue::{Queue, Turn, busy};
use crate::refusal::Refusal;
use crate::streams::Asker;

/// Connections to one agent that are being opened at the same time: many servers
/// let few wait to be accepted, and forget the rest.
const OPENING: usize = 8;

/// The pools of all agents that were asked of late.
pub(crate) struct Pools {
    guests: Arc<dyn Guests>,
    limits: Limits,
    agents: Mutex<HashMap<(AgentId, Generation), Arc<Pool>>>,
}

impl Pools {
    /// How often connections that nobody uses are looked for.
    pub(crate) const SWEEP_EVERY: Duration = Duration::from_millis(500);

    pub(crate) fn new(guests: Arc<dyn Guests>, limits: &Limits) -> Self {
        Self { guests, limits: limits.clone(), agents: Mutex::default() }
    }

    /// Waits for the right to ask this agent once.
    pub(crate) async fn lease(&self, record: &Record, asker: Asker) -> Result<Lease, Refusal> {
        let pool = self.pool(record)?;
        let until = Instant::now() + Duration::from_millis(self.limits.agent_wait_ms);
        let turn = pool.queue.turn(asker, until).await?;
        Ok(Lease { pool, until, _turn: turn })
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

    fn agents(&self) -> MutexGuard<'_, HashMap<(AgentId, Generation), Arc<Pool>>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What leads to one agent.
struct Pool {
    guests: Arc<dyn Guests>,
    node: String,
    id: AgentId,
    queue: Queue,
    opening: Semaphore,
    /// The one used last is the last.
    idle: Mutex<Vec<Idle>>,
    returned: Notify,
    /// One clone lives with each connection.
    live: Arc<()>,
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
    driver: AbortOnDropHandle<()>,
    _live: Arc<()>,
}

impl Pool {
    fn new(guests: Arc<dyn Guests>, node: &str, id: AgentId, limits: &Limits) -> Self {
        Self {
            guests,
            node: node.to_owned(),
            id,
            queue: Queue::new(limits),
            opening: Semaphore::new(OPENING),
            idle: Mutex::default(),
            returned: Notify::new(),
            live: Arc::default(),
            connect: Duration::from_millis(limits.agent_connect_ms),
            answer: Duration::from_millis(limits.agent_answer_ms),
            keep: Duration::from_millis(limits.agent_idle_ms),
            silence: Duration::from_millis(limits.stream_idle_ms),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last that is still good.
    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle();
        while let Some(Idle { connection, since }) = idle.pop() {
            if since.elapsed() < self.keep && connection.sender.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    fn give_back(&self, connection: Connection) {
        self.idle().push(Idle { connection, since: Instant::now() });
        self.returned.notify_one();
    }

    /// Says how many are left.
    fn forget_old(&self) -> usize {
        let mut idle = self.idle();
        idle.retain(|one| one.since.elapsed() < self.keep && one.connection.sender.is_ready());
        idle.len()
    }

    /// Opens a connection.
    async fn open(&self) -> Result<Connection, Refusal> {
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
        Ok(Connection { sender, driver: AbortOnDropHandle::new(driver), _live: Arc::clone(&self.live) })
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

/// The right to ask an agent once.
pub(crate) struct Lease {
    pool: Arc<Pool>,
    /// When waiting for a connection ends.
    until: Instant,
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
        let request = request.map(|body| Body::new(pulse.of(body)));
        let (mut connection, used) = self.connection().await?;
        let answer = match self.ask(&mut connection, request).await? {
            Ok(answer) => answer,
            Err(lost) => {
                let second = lost.unsent.or(again).filter(|_| used && !lost.error.is_parse());
                let Some(request) = second else { return Err(unreachable(lost.error)) };
                connection = self.pool.open().await?;
                self.ask(&mut connection, request).await?.map_err(|lost| unreachable(lost.error))?
            }
        };
        Ok(self.answered(connection, answer, pulse))
    }

    /// A connection, and whether it was used before.
    async fn connection(&self) -> Result<(Connection, bool), Refusal> {
        loop {
            let returned = self.pool.returned.notified();
            if let Some(connection) = self.pool.take() {
                return Ok((connection, true));
            }
            let next = async {
                tokio::select! {
                    permit = self.pool.opening.acquire() => Some(permit),
                    () = returned => None,
                }
            };
            let Some(_opening) = timeout_at(self.until, next).await.map_err(|_| busy())? else { continue };
            // One may have come back meanwhile, here and while another was opened.
            if let Some(connection) = self.pool.take() {
                return Ok((connection, true));
            }
            return match (self.pool.open().await, self.pool.take()) {
                (Err(_), Some(connection)) => Ok((connection, true)),
                (opened, spare) => {
                    spare.into_iter().for_each(|spare| self.pool.give_back(spare));
                    opened.map(|connection| (connection, false))
                }
            };
        }
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
                    if ready.is_ok() {
                        self.pool.give_back(connection);
                    }
                }
                () = pulse.silent(self.pool.silence) => tracing::debug!("an answer fell silent and is ended"),
            }
            drop(self);
        });
        flowing
    }
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
