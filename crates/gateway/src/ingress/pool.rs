//! Connections to agents, through their nodes' tunnels, kept and used again.
//!
//! A pool belongs to one agent at one generation, and an id is never given twice:
//! no connection leads to another agent than the one it was opened to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axum::body::Body;
use control::{Control, Node, NodeError};
use domain::{Generation, RunId};
use http::header::CONTENT_LENGTH;
use http::{Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use moka::future::Cache;
use store::RunRecord;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use wire::fault::Code;

use crate::Limits;
use crate::edge::idle::IdleTimer;
use crate::edge::requester::Requester;
use crate::error::ApiError;
use crate::ingress::queue::{AgentConnectionPermit, Queue, busy};

/// Connections to one agent that are being opened at the same time: many servers
/// let few wait to be accepted, and forget the rest.
const OPENING: usize = 8;
/// Agents whose port is cached, at most.
const PORTS: u64 = 16_384;

/// Whose connections: an agent's at one generation, to its own port or another one.
type PoolKey = (RunId, Generation, Option<u16>);

/// The pools of all agents that had requests lately.
pub(crate) struct Pools {
    control: Control,
    limits: Limits,
    agents: Mutex<KnownAgents>,
    /// The agents' ports, as far as requests have named one.
    ports: Cache<(RunId, Generation), u16>,
}

/// Agents that had requests lately.
#[derive(Default)]
struct KnownAgents {
    pools: HashMap<PoolKey, Arc<Pool>>,
    /// One for all ports of an agent: who may name any of them gets no more connections by that.
    queues: HashMap<(RunId, Generation), Weak<Queue>>,
}

impl KnownAgents {
    fn queue(&mut self, agent: (RunId, Generation), limits: &Limits) -> Arc<Queue> {
        let known = self.queues.entry(agent).or_default();
        known.upgrade().unwrap_or_else(|| {
            let queue = Arc::new(Queue::new(limits));
            *known = Arc::downgrade(&queue);
            queue
        })
    }
}

impl Pools {
    /// How often idle connections are looked for.
    pub(crate) const SWEEP_EVERY: Duration = Duration::from_millis(500);

    pub(crate) fn new(control: Control, limits: &Limits) -> Self {
        Self { control, limits: limits.clone(), agents: Mutex::default(), ports: Cache::new(PORTS) }
    }

    /// Waits for a permit for one request to this agent, or to another port of its guest.
    pub(crate) async fn lease(
        &self,
        record: &RunRecord,
        port: Option<u16>,
        requester: Requester,
    ) -> Result<AgentRequestPermit, ApiError> {
        let pool = self.pool(record, port)?;
        let until = Instant::now() + Duration::from_millis(self.limits.agent_wait_ms);
        let permit = pool.queue.acquire(requester, until).await?;
        Ok(AgentRequestPermit { pool, until, requester, _permit: permit })
    }

    /// The port that the agent serves. Its node is asked once: the port is its image's,
    /// and however often the agent is started again, at one generation it has one image.
    pub(crate) async fn port(&self, record: &RunRecord) -> Result<u16, ApiError> {
        let key = (record.id, record.generation);
        if let Some(port) = self.ports.get(&key).await {
            return Ok(port);
        }
        let sandbox = self.control.node_of(record)?.get(record.id).await?;
        let port = sandbox.ok_or_else(|| unreachable("the node does not run it"))?.port;
        self.ports.insert(key, port).await;
        Ok(port)
    }

    fn pool(&self, record: &RunRecord, port: Option<u16>) -> Result<Arc<Pool>, ApiError> {
        let node = self.control.node_of(record)?;
        let mut agents = self.agents();
        let queue = agents.queue((record.id, record.generation), &self.limits);
        let fresh = || Arc::new(Pool::new(node, (record.id, port), queue, &self.limits));
        Ok(Arc::clone(agents.pools.entry((record.id, record.generation, port)).or_insert_with(fresh)))
    }

    /// Closes connections that were idle for too long, and drops the pools of agents that
    /// have no connection and no request.
    pub(crate) fn sweep(&self) {
        let mut agents = self.agents();
        agents.pools.retain(|_, pool| {
            let idle = pool.close_old();
            idle > 0 || Arc::strong_count(pool) > 1
        });
        agents.queues.retain(|_, queue| queue.strong_count() > 0);
    }

    fn agents(&self) -> MutexGuard<'_, KnownAgents> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connections to one agent.
struct Pool {
    node: Arc<dyn Node>,
    id: RunId,
    /// Where it is not the agent's own.
    port: Option<u16>,
    queue: Arc<Queue>,
    opening: Semaphore,
    /// The most recently used is the last.
    idle: Mutex<Vec<Idle>>,
    returned: Notify,
    /// One reference is held by each connection.
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
    bodies: BodyHistory,
    driver: AbortOnDropHandle<()>,
    _live: Arc<()>,
}

/// Whose request bodies went over a connection. An agent that answers without having
/// read a body takes the rest of it for the next request: its sender decides what that
/// is, and the next caller gets the answer. So a connection that carried a visitor's body
/// is not used again, and one that carried a holder's body is used by holders alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyHistory {
    /// Nobody's.
    Clean,
    /// Only of holders of the agent's token.
    Holders,
    /// A visitor's, too.
    Visitors,
}

impl BodyHistory {
    const fn after_body_of(self, requester: Requester) -> Self {
        match (self, requester) {
            (Self::Visitors, _) | (_, Requester::Payer(..) | Requester::Visitor { .. }) => Self::Visitors,
            (Self::Clean | Self::Holders, Requester::Holder) => Self::Holders,
        }
    }

    const fn allows(self, requester: Requester) -> bool {
        match self {
            Self::Clean => true,
            Self::Holders => matches!(requester, Requester::Holder),
            Self::Visitors => false,
        }
    }
}

impl Pool {
    fn new(node: Arc<dyn Node>, (id, port): (RunId, Option<u16>), queue: Arc<Queue>, limits: &Limits) -> Self {
        Self {
            node,
            id,
            port,
            queue,
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

    /// The most recently used idle connection that is still good, and that this requester may use.
    fn take(&self, requester: Requester) -> Option<Idle> {
        let mut idle = self.idle();
        idle.retain(|one| self.is_good(one));
        let at = idle.iter().rposition(|one| one.connection.bodies.allows(requester))?;
        Some(idle.remove(at))
    }

    fn give_back(&self, idle: Idle) {
        self.idle().push(idle);
        // All are woken: the one that waits longest may not be allowed to use it.
        self.returned.notify_waiters();
    }

    /// Closes idle connections that are too old; says how many are left.
    fn close_old(&self) -> usize {
        let mut idle = self.idle();
        idle.retain(|one| self.is_good(one));
        idle.len()
    }

    fn is_good(&self, idle: &Idle) -> bool {
        idle.since.elapsed() < self.keep && idle.connection.sender.is_ready()
    }

    /// Closes an idle connection where no more may be open: it was one that this requester
    /// may not use.
    fn make_room(&self) {
        // The pool holds one reference itself.
        if Arc::strong_count(&self.live) > self.most {
            let mut idle = self.idle();
            if !idle.is_empty() {
                idle.remove(0);
            }
        }
    }

    /// Opens a connection.
    async fn open(&self) -> Result<Connection, ApiError> {
        self.make_room();
        let opening = async {
            let io = self.node.tunnel(self.id, self.port).await.map_err(not_opened)?;
            http1::handshake(TokioIo::new(io)).await.map_err(unreachable)
        };
        let (sender, connection) = match timeout(self.connect, opening).await {
            Ok(opened) => opened?,
            // The agent takes connections, only not so many at once.
            Err(_) if Arc::strong_count(&self.live) > 1 => return Err(busy()),
            Err(late) => return Err(unreachable(late)),
        };
        let agent = self.id;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%agent, %error, "a connection to an agent broke off");
            }
        });
        let driver = AbortOnDropHandle::new(driver);
        Ok(Connection { sender, bodies: BodyHistory::Clean, driver, _live: Arc::clone(&self.live) })
    }
}

/// The agent was ready before: if its node says that it is not, its guest has died.
fn not_opened(error: NodeError) -> ApiError {
    match error {
        NodeError::Refused(fault) if fault.code == Code::AgentNotReady => unreachable(fault),
        error => error.into(),
    }
}

/// The agent does not answer.
pub(crate) fn unreachable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ApiError {
    ApiError::Unreachable(error.into())
}

/// A request broke off: its client sent no whole body, or the agent does not answer.
impl From<hyper::Error> for ApiError {
    fn from(error: hyper::Error) -> Self {
        if error.is_user() { Self::invalid("the body ended before it was whole") } else { unreachable(error) }
    }
}

/// The permit for one request to an agent.
pub(crate) struct AgentRequestPermit {
    pool: Arc<Pool>,
    /// When waiting for a connection ends.
    until: Instant,
    requester: Requester,
    _permit: AgentConnectionPermit,
}

/// Why a request got no answer over a connection.
struct SendError {
    error: hyper::Error,
    /// The request, where nothing of it was sent.
    unsent: Option<Request<Body>>,
}

impl AgentRequestPermit {
    /// The same, which waits for a connection until then.
    pub(crate) fn until(self, until: Instant) -> Self {
        Self { until, ..self }
    }

    /// Sends the request, and waits for the head of the answer. Where the agent has closed
    /// an idle connection the request is sent once more over a new one, if the first
    /// attempt cannot have had an effect.
    pub(crate) async fn send(self, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let timer = IdleTimer::new();
        let again = repeatable(&request);
        let has_body = has_body(&request);
        let request = request.map(|body| Body::new(timer.wrap(body)));
        let (mut connection, used) = self.connection().await?;
        let answer = match self.ask(&mut connection, request).await? {
            Ok(answer) => answer,
            Err(failed) => {
                let second = failed.unsent.or(again).filter(|_| used && !failed.error.is_parse());
                let Some(request) = second else { return Err(failed.error.into()) };
                connection = self.another().await?;
                self.ask(&mut connection, request).await?.map_err(|failed| failed.error)?
            }
        };
        if has_body {
            connection.bodies = connection.bodies.after_body_of(self.requester);
        }
        Ok(self.answered(connection, answer, timer))
    }

    /// A connection, and whether it was used before.
    async fn connection(&self) -> Result<(Connection, bool), ApiError> {
        loop {
            let returned = self.pool.returned.notified();
            if let Some(idle) = self.pool.take(self.requester) {
                return Ok((idle.connection, true));
            }
            let next = async {
                tokio::select! {
                    permit = self.pool.opening.acquire() => Some(permit),
                    () = returned => None,
                }
            };
            let Some(_opening) = timeout_at(self.until, next).await.map_err(|_| busy())? else { continue };
            // One may have been given back meanwhile, here and while another was being opened.
            if let Some(idle) = self.pool.take(self.requester) {
                return Ok((idle.connection, true));
            }
            return match (self.pool.open().await, self.pool.take(self.requester)) {
                (Err(_), Some(idle)) => Ok((idle.connection, true)),
                (opened, spare) => {
                    spare.into_iter().for_each(|spare| self.pool.give_back(spare));
                    opened.map(|connection| (connection, false))
                }
            };
        }
    }

    /// One more connection, for a second try.
    async fn another(&self) -> Result<Connection, ApiError> {
        let opening = timeout(self.pool.connect, self.pool.opening.acquire()).await;
        let _opening = opening.map_err(|_| busy())?;
        self.pool.open().await
    }

    async fn ask(
        &self,
        connection: &mut Connection,
        request: Request<Body>,
    ) -> Result<Result<Response<Incoming>, SendError>, ApiError> {
        let asked = timeout(self.pool.answer, connection.sender.try_send_request(request)).await;
        Ok(asked.map_err(unreachable)?.map_err(|mut error| {
            let unsent = error.take_message();
            SendError { error: error.into_error(), unsent }
        }))
    }

    /// Streams the answer; afterwards the connection is given back.
    fn answered(self, mut connection: Connection, answer: Response<Incoming>, timer: IdleTimer) -> Response<Body> {
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            // The upgraded connection has another owner, and ends with that.
            connection.driver.detach();
            return answer.map(Body::new);
        }
        let flowing = answer.map(|body| Body::new(timer.wrap(body)));
        tokio::spawn(async move {
            tokio::select! {
                ready = connection.sender.ready() => {
                    if ready.is_ok() && connection.bodies != BodyHistory::Visitors {
                        self.pool.give_back(Idle { connection, since: Instant::now() });
                    }
                }
                () = timer.expired(self.pool.silence) => {
                    tracing::debug!(agent = %self.pool.id, "an answer was idle for too long and its connection is closed");
                }
            }
            drop(self);
        });
        flowing
    }
}

/// Whether a body follows the head, or the agent may expect one.
fn has_body(request: &Request<Body>) -> bool {
    let announced = request.headers().get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    announced || !request.body().is_end_stream()
}

/// A copy of the request, where it is idempotent and has no body.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_ports_of_an_agent_share_its_connections() {
        let limits = Limits { agent_connections: 2, ..Limits::default() };
        let mut known = KnownAgents::default();
        let [one, other] = [1, 2].map(|n| (RunId::from_bits(n), Generation::FIRST));
        let queues = [known.queue(one, &limits), known.queue(one, &limits), known.queue(other, &limits)];
        assert!(Arc::ptr_eq(&queues[0], &queues[1]) && !Arc::ptr_eq(&queues[0], &queues[2]));
        drop(queues);
        assert_eq!(known.queues[&one].strong_count(), 0);
        assert!(known.queue(one, &limits).acquire(Requester::Holder, Instant::now()).await.is_ok(), "as new");
    }
}
