//! The reverse proxy before the agents: a request goes on to its agent's port as it
//! comes, in both directions, without buffering.
//!
//! A private agent answers to its bearer token, or to an API key of its holder's that lets
//! agents run; nobody learns without one whether the agent exists. Neither goes further than
//! here.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use domain::{State, Wallet};
use futures_util::future::BoxFuture;
use http::header::{HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use store::RunRecord;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Instrument;
use wire::fault::{Code, Fault};
use wire::v1::pod::PORT;

use crate::edge::eviction::ActiveRequest;
use crate::edge::guarded::GuardedBody;
use crate::edge::headers::{self, ForwardedHeaders};
use crate::edge::idle::IdleTimer;
use crate::edge::limits::client_key;
use crate::edge::requester::Requester;
use crate::edge::source::RequestSource;
use crate::edge::streams::StreamPermit;
use crate::error::ApiError;
use crate::ingress::envd;
use crate::ingress::paywall::{PaywallTerms, finish};
use crate::ingress::pool::{AgentRequestPermit, unreachable};
use crate::ingress::pricing::{AgentPricing, Charge};
use crate::ingress::request::{is_preflight, rewrite};
use crate::ingress::response::confine;
use crate::ingress::target::{AddressedBy, AgentTarget};
use crate::ingress::upgrade::{self, WebSocketHandshake};
use crate::state::Gateway;

/// Passes a request on to its agent, and the answer back.
pub(crate) async fn forward(
    gateway: &Arc<Gateway>,
    source: &RequestSource,
    named: &AgentTarget,
    host: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    gateway.rates.ingress.check(client_key(source.address))?;
    headers::one_credential(request.headers())?;
    if named.port == Some(PORT) {
        return Ok(envd::forward(gateway, source, named.id, request).await);
    }
    let id = named.id;
    let handshake = WebSocketHandshake::wanted(&mut request);
    let last_run = gateway.parts.store.last_run(id).await?;
    let held = last_run.as_ref().is_some_and(|run| {
        presented(request.headers(), handshake).any(|token| gateway.parts.tokens.verify(run.id, token))
    });
    let key = if held {
        None
    } else {
        gateway.key_to(headers::bearer(request.headers()), holder_of(last_run.as_ref())).await?
    };
    let held = held || key.is_some();
    let pricing = if held { AgentPricing::default() } else { gateway.pricing_for(id, request.uri().path()).await? };
    // A price opens what is private to whoever pays it.
    let record = reachable(last_run, held || pricing.charge.is_some_and(|charge| charge.opens))?;
    // Prices, and what is public, are of the agent's own port.
    let port = gateway.other_port(&record, named.port).await?;
    if port.is_some() && !held {
        return Err(no_token());
    }
    let over = || Box::pin(Arc::clone(gateway).withdrawn(key)) as Over;
    let client = handshake.map(|handshake| UpgradeRequest::of(handshake, &mut request, over()));
    let visitor = Requester::Visitor { address: client_key(source.address), beside_payers: pricing.has_prices };
    let requester = if held { Requester::Holder } else { visitor };
    let charge = pricing.charge.filter(|_| !is_preflight(&request));
    let (head, body) = request.into_parts();
    let prefix = if let AddressedBy::Path(prefix) = &named.addressed_by { Some(prefix.as_str()) } else { None };
    let forwarded = ForwardedHeaders { client: source.address, host, prefix, tls: source.tls, trusted: source.trusted };
    let mut outgoing = head.clone();
    let token = upgrade::take_token(&mut outgoing.headers);
    let context = ResponseContext {
        addressed_by: named.addressed_by.clone(),
        host: host.to_owned(),
        subprotocol: token.filter(|_| handshake.is_some()),
    };
    let Some(Charge { price, .. }) = charge else {
        let request = rewrite(outgoing, source, &forwarded, handshake)?.map(|()| Body::new(body));
        let permits = gateway.permits(&record, port, requester, client).await?;
        let answer = gateway.answered(permits, context, request).await?;
        return Ok(answer.map(|body| gateway.while_good(key, body)));
    };
    let paywall = gateway.paywall(&record, price, &head, source.address).await?;
    headers::strip_payment(&mut outgoing.headers);
    let request = rewrite(outgoing, source, &forwarded, handshake)?;
    gateway.serve_paid(PaidRequest { paywall, record, client, context, head, body, request }).await
}

/// The permits that a request needs to be passed on.
struct AgentPermits {
    lease: AgentRequestPermit,
    /// Where the connection may be upgraded.
    stream: Option<(UpgradeRequest, StreamPermit)>,
}

/// A client's request for a WebSocket.
struct UpgradeRequest {
    /// How it is asked for.
    handshake: WebSocketHandshake,
    upgrade: OnUpgrade,
    /// Its connection is not idle while the WebSocket is open.
    active: Option<Arc<ActiveRequest>>,
    /// Comes when the WebSocket must end.
    over: Over,
}

/// Comes when what a request began must end.
type Over = BoxFuture<'static, ()>;

impl UpgradeRequest {
    fn of(handshake: WebSocketHandshake, request: &mut Request<Incoming>, over: Over) -> Self {
        let active = request.extensions().get().cloned();
        Self { handshake, upgrade: hyper::upgrade::on(request), active, over }
    }
}

/// What an answer must be adapted to.
struct ResponseContext {
    addressed_by: AddressedBy,
    host: String,
    /// The subprotocol in which the client brought the agent's token.
    subprotocol: Option<HeaderValue>,
}

/// A request that has a price.
struct PaidRequest {
    paywall: PaywallTerms,
    record: RunRecord,
    client: Option<UpgradeRequest>,
    context: ResponseContext,
    /// As it came: what the payment is bound to.
    head: Parts,
    body: Incoming,
    /// As the agent sees it.
    request: Request<()>,
}

type Answered = Result<Response<Body>, ApiError>;

/// Every text that may be the agent's token.
fn presented(headers: &HeaderMap, handshake: Option<WebSocketHandshake>) -> impl Iterator<Item = &str> {
    let subprotocol = handshake.and_then(|_| upgrade::token(headers));
    headers::bearer(headers).into_iter().chain(subprotocol)
}

fn holder_of(last_run: Option<&RunRecord>) -> Option<Wallet> {
    last_run.map(|run| run.wallet)
}

fn no_token() -> ApiError {
    ApiError::new(Code::InvalidToken, "send this agent's token as Authorization: Bearer")
}

/// The agent, if the caller may talk to it and it can answer.
fn reachable(last_run: Option<RunRecord>, open: bool) -> Result<RunRecord, ApiError> {
    let Some(record) = last_run.filter(|record| open || record.public) else {
        if open {
            return Err(ApiError::not_found());
        }
        return Err(no_token());
    };
    match record.state {
        State::Ready => Ok(record),
        // It is being started again, and may be ready before that is known here.
        State::Booting if record.was_ready => Ok(record),
        State::Reserved | State::Placed | State::Booting | State::Waiting(_) => {
            Err(Fault::new(Code::AgentNotReady, "the agent is starting; try again").retry_after(1).into())
        }
        State::Stopping(_) | State::Stopped(_) | State::Failed(_) => {
            Err(ApiError::new(Code::NotFound, "the agent does not run; its holder can start it again"))
        }
    }
}

impl Gateway {
    /// The port that was asked for, where it is not the agent's own.
    async fn other_port(&self, record: &RunRecord, asked: Option<u16>) -> Result<Option<u16>, ApiError> {
        let Some(asked) = asked else { return Ok(None) };
        let own = self.pools.port(record).await?;
        Ok(Some(asked).filter(|asked| *asked != own))
    }

    /// A permit for the stream that the request may become, and one for a connection to
    /// the agent.
    async fn permits(
        &self,
        record: &RunRecord,
        port: Option<u16>,
        requester: Requester,
        client: Option<UpgradeRequest>,
    ) -> Result<AgentPermits, ApiError> {
        let stream = match client {
            Some(client) => Some((client, self.streams.for_agent(record.pod, requester)?)),
            None => None,
        };
        Ok(AgentPermits { lease: self.pools.lease(record, port, requester).await?, stream })
    }

    /// The same permits, with a request's whole waiting time again: the settlement of its
    /// payment has taken some.
    fn renewed(&self, permits: AgentPermits) -> AgentPermits {
        let until = Instant::now() + Duration::from_millis(self.limits.agent_wait_ms);
        AgentPermits { lease: permits.lease.until(until), ..permits }
    }

    /// Serves a paid request in a task of its own, which a client that hangs up does not
    /// end: once its payment is being taken it has bought this answer, and the agent is
    /// not asked again for it.
    async fn serve_paid(self: &Arc<Self>, paid: PaidRequest) -> Result<Response<Body>, ApiError> {
        let (mut client, answer) = oneshot::channel();
        let gateway = Arc::clone(self);
        let serving = async move {
            let answered = gateway.pay_and_answer(paid, &mut client).await;
            // The client may have hung up.
            let _ = client.send(answered);
        };
        tokio::spawn(serving.in_current_span());
        answer.await.unwrap_or_else(|_| Err(ApiError::new(Code::Internal, "the request broke off; send it again")))
    }

    /// Whatever can refuse the request does so before the money is taken, and nothing is
    /// held for a payer without a good payment.
    async fn pay_and_answer(&self, paid: PaidRequest, client: &mut oneshot::Sender<Answered>) -> Answered {
        let PaidRequest { paywall, record, client: upgrade, context, head, body, request } = paid;
        let prepare = async {
            let payment = match paywall.check(&head, self.now()).await {
                Ok(payment) => payment,
                Err(response) => return Ok(Err(response)),
            };
            let payer = payment.requester(paywall.client());
            // The body first: while it comes, no connection to the agent is held for it.
            let (body, permit) = self.paid_body(body, payer).await?;
            let permits = self.permits(&record, None, payer, upgrade).await?;
            let hash = payment.hash(&head, &body);
            Ok(Ok((payment, hash, permits, GuardedBody::new(Full::new(body), permit))))
        };
        let prepared: Result<_, ApiError> = tokio::select! {
            prepared = prepare => prepared,
            () = client.closed() => Err(ApiError::invalid("the client hung up")),
        };
        let (payment, hash, permits, body) = match prepared? {
            Ok(prepared) => prepared,
            Err(response) => return Ok(response),
        };
        match payment.pay(hash, self.now()).await {
            Ok(permit) => {
                let permits = self.renewed(permits);
                let request = request.map(|()| Body::new(body));
                Ok(finish(permit, self.answered(permits, context, request).await).await)
            }
            Err(response) => Ok(response),
        }
    }

    /// Has the agent answer.
    async fn answered(
        &self,
        permits: AgentPermits,
        context: ResponseContext,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let AgentPermits { lease, stream } = permits;
        let accept = stream.as_ref().and_then(|(client, _)| client.handshake.accept(request.headers()));
        let mut answer = lease.send(request).await?;
        confine(answer.headers_mut(), &context.addressed_by, &context.host);
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let asked = stream.filter(|_| upgrade::is_granted(answer.headers(), accept.as_ref()));
            let asked = asked.ok_or_else(|| unreachable("the agent switched to a protocol that was not asked for"))?;
            if let Some(token) = context.subprotocol {
                upgrade::choose(answer.headers_mut(), token);
            }
            return Ok(self.join(asked, answer));
        }
        // To an extended CONNECT, success is a WebSocket.
        let is_connect = stream.is_some_and(|(client, _)| client.handshake == WebSocketHandshake::Connect);
        if is_connect && answer.status().is_success() {
            return Err(ApiError::new(Code::NoWebSocket, "the agent has no WebSocket at this path"));
        }
        let (mut head, body) = answer.into_parts();
        client::strip_hop_by_hop(&mut head.headers);
        Ok(Response::from_parts(head, body))
    }

    /// Copies bytes between the client and the agent once both have been upgraded.
    fn join(&self, (client, permit): (UpgradeRequest, StreamPermit), mut answer: Response<Body>) -> Response<Body> {
        let UpgradeRequest { handshake, upgrade: client, active, over } = client;
        let guest = hyper::upgrade::on(&mut answer);
        let draining = self.draining.clone();
        let silence = Duration::from_millis(self.limits.stream_idle_ms);
        self.tasks.spawn(async move {
            let timer = IdleTimer::new();
            let joined = async {
                let (client, guest) = tokio::try_join!(client, guest)?;
                let (mut client, mut guest) = (timer.wrap(TokioIo::new(client)), timer.wrap(TokioIo::new(guest)));
                // Either side ends it by closing its connection.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut guest).await;
                Ok::<_, hyper::Error>(())
            };
            tokio::select! {
                () = draining.cancelled() => {}
                () = over => tracing::debug!("an upgraded connection is closed: the API key that opened it is good no more"),
                () = timer.expired(silence) => tracing::debug!("an upgraded connection was idle for too long and is closed"),
                joined = joined => {
                    if let Err(error) = joined {
                        tracing::debug!(%error, "an upgrade broke off");
                    }
                }
            }
            drop((permit, active));
        });
        let (mut head, _) = answer.into_parts();
        client::strip_hop_by_hop(&mut head.headers);
        let mut granted = Response::from_parts(head, Body::empty());
        handshake.grant(&mut granted);
        granted
    }
}
