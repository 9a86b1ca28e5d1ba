//! The way to an agent: a request is passed to the agent's port as it comes, in
//! both directions, without buffering.
//!
//! A private agent answers its bearer token alone, and nobody learns without it
//! whether the agent exists. The token itself goes no further than here.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use domain::State;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, COOKIE, HOST, HeaderMap, HeaderValue, ORIGIN};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use store::Record;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Instrument;
use wire::TRACEPARENT;
use wire::fault::{Code, Fault};

use crate::edge::dispatch::Arrival;
use crate::edge::eviction::Work;
use crate::edge::guarded::Holding;
use crate::edge::headers::{self, Forwarded};
use crate::edge::idle::Pulse;
use crate::edge::limits::client_key;
use crate::edge::streams::{Asker, StreamPlace};
use crate::ingress::paywall::{Counter, Toll, Tolled, redeem};
use crate::ingress::pool::{Lease, unreachable};
use crate::ingress::response::confine;
use crate::ingress::target::{Named, Way};
use crate::ingress::upgrade::{self, Socket};
use crate::refusal::Refusal;
use crate::state::Gateway;

/// Passes a request to the agent it is for, and the answer back.
pub(crate) async fn pass(
    gateway: &Arc<Gateway>,
    arrival: &Arrival,
    named: &Named,
    host: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    gateway.rates.ingress.check(client_key(arrival.client))?;
    headers::one_credential(request.headers())?;
    let id = named.id;
    let socket = Socket::wanted(&mut request);
    let record = gateway.parts.store.last_run(id).await?;
    let held = record.as_ref().is_some_and(|record| {
        presented(request.headers(), socket).any(|token| gateway.parts.tokens.verify(record.id, token))
    });
    let tolled = if held { Tolled::default() } else { gateway.toll_of(id, request.uri().path()).await? };
    // A price opens what is private to whoever pays it.
    let record = open(record, held || tolled.toll.is_some_and(|toll| toll.opens))?;
    gateway.check_port(&record, named.port).await?;
    let client = socket.map(|socket| Client::of(socket, &mut request));
    let visitor = Asker::Visitor { address: client_key(arrival.client), beside_payers: tolled.sells };
    let asker = if held { Asker::Holder } else { visitor };
    let toll = tolled.toll.filter(|_| !is_preflight(&request));
    let (head, body) = request.into_parts();
    let prefix = if let Way::Path(prefix) = &named.way { Some(prefix.as_str()) } else { None };
    let told = Forwarded { client: arrival.client, host, prefix, tls: arrival.tls, trusted: arrival.trusted };
    let mut seen = head.clone();
    let token = upgrade::take_token(&mut seen.headers);
    let back = Back { way: named.way.clone(), host: host.to_owned(), subprotocol: token.filter(|_| socket.is_some()) };
    let Some(Toll { price, .. }) = toll else {
        let request = rewrite(seen, arrival, &told, socket)?.map(|()| Body::new(body));
        let places = gateway.places(&record, asker, client).await?;
        return gateway.answered(places, back, request).await;
    };
    let counter = gateway.counter(&record, price, &head, arrival.client).await?;
    headers::strip_payment(&mut seen.headers);
    let request = rewrite(seen, arrival, &told, socket)?;
    gateway.sold(Sale { counter, record, client, back, head, body, request }).await
}

/// What a request needs of us to be answered, secured.
struct Places {
    lease: Lease,
    /// Where the protocol may change.
    stream: Option<(Client, StreamPlace)>,
}

/// A client that asks for a WebSocket.
struct Client {
    /// How it asks.
    socket: Socket,
    upgrade: OnUpgrade,
    /// Its connection is not idle while the WebSocket is open.
    work: Option<Arc<Work>>,
}

impl Client {
    fn of(socket: Socket, request: &mut Request<Incoming>) -> Self {
        let work = request.extensions().get().cloned();
        Self { socket, upgrade: hyper::upgrade::on(request), work }
    }
}

/// The way back of an answer.
struct Back {
    way: Way,
    host: String,
    /// What the client takes the agent's token for.
    subprotocol: Option<HeaderValue>,
}

/// A request that costs something.
struct Sale {
    counter: Counter,
    record: Record,
    client: Option<Client>,
    back: Back,
    /// As it came: what the payment is bound to.
    head: Parts,
    body: Incoming,
    /// As the agent sees it.
    request: Request<()>,
}

/// Whether a browser asks what a page may send: it can bring no payment with that,
/// and its own answer to it is nothing that is sold.
fn is_preflight<B: hyper::body::Body>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(ORIGIN)
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        && request.body().is_end_stream()
}

/// How a request that costs something ends.
type Sold = Result<Response<Body>, Refusal>;

/// What may be the agent's token.
fn presented(headers: &HeaderMap, socket: Option<Socket>) -> impl Iterator<Item = &str> {
    let subprotocol = socket.and_then(|_| upgrade::token(headers));
    headers::bearer(headers).into_iter().chain(subprotocol)
}

/// The request as the agent sees it.
fn rewrite(
    mut head: Parts,
    arrival: &Arrival,
    told: &Forwarded<'_>,
    socket: Option<Socket>,
) -> Result<Request<()>, Refusal> {
    if head.method == Method::CONNECT {
        return Err(Refusal::new(Code::MethodNotAllowed, "an agent is no proxy"));
    }
    head.uri = head.uri.path_and_query().cloned().map_or(Uri::from_static("/"), Uri::from);
    head.version = Version::HTTP_11;
    client::strip_hop_by_hop(&mut head.headers);
    headers::strip_ours(&mut head.headers);
    join_cookies(&mut head.headers);
    told.write(&mut head.headers);
    let host = HeaderValue::from_str(told.host).map_err(|_| Refusal::invalid("the host is not one"))?;
    head.headers.insert(HOST, host);
    if let Ok(trace) = arrival.trace.traceparent().parse() {
        head.headers.insert(TRACEPARENT, trace);
    }
    if let Some(socket) = socket {
        socket.ask(&mut head.headers, rand::random());
    }
    Ok(Request::from_parts(head, ()))
}

/// HTTP/2 may split cookies over several headers; HTTP/1.1 may not.
fn join_cookies(headers: &mut HeaderMap) {
    let parts: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if parts.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&parts.join(&b"; "[..]))
    {
        headers.insert(COOKIE, whole);
    }
}

/// The agent, if the caller may talk to it and it can answer.
fn open(record: Option<Record>, held: bool) -> Result<Record, Refusal> {
    let Some(record) = record.filter(|record| held || record.public) else {
        if held {
            return Err(Refusal::not_found());
        }
        return Err(Refusal::new(Code::InvalidToken, "send this agent's token as Authorization: Bearer"));
    };
    match record.state {
        State::Ready => Ok(record),
        // It is being started again: it may be back before we are told.
        State::Booting if record.was_ready => Ok(record),
        State::Reserved | State::Placed | State::Booting | State::Waiting(_) => {
            Err(Fault::new(Code::AgentNotReady, "the agent is starting; try again").retry_after(1).into())
        }
        State::Stopping(_) | State::Stopped(_) | State::Failed(_) => {
            Err(Refusal::new(Code::NotFound, "the agent does not run; its holder can start it again"))
        }
    }
}

impl Gateway {
    /// Refuses a port that is not the agent's: a guest has no other that can be
    /// reached.
    async fn check_port(&self, record: &Record, asked: Option<u16>) -> Result<(), Refusal> {
        let Some(asked) = asked else { return Ok(()) };
        let port = self.pools.port(record).await?;
        if asked == port {
            return Ok(());
        }
        let said = format!("this agent serves port {port}, and no other can be reached from outside");
        Err(Fault::new(Code::InvalidRequest, said).field("E2b-Sandbox-Port").into())
    }

    /// A place for the stream that the request may become, and a connection to the
    /// agent.
    async fn places(&self, record: &Record, asker: Asker, client: Option<Client>) -> Result<Places, Refusal> {
        let stream = match client {
            Some(client) => Some((client, self.streams.to_agent(record.pod, asker)?)),
            None => None,
        };
        Ok(Places { lease: self.pools.lease(record, asker).await?, stream })
    }

    /// The same places after a payment was settled, with the time that a request has.
    fn renewed(&self, places: Places) -> Places {
        let until = Instant::now() + Duration::from_millis(self.limits.agent_wait_ms);
        Places { lease: places.lease.until(until), ..places }
    }

    /// Sells an answer. The work goes on in a task of its own: a client that hangs up
    /// once its payment is being taken has bought this answer, and does not have the
    /// agent asked again for it.
    async fn sold(self: &Arc<Self>, sale: Sale) -> Result<Response<Body>, Refusal> {
        let (mut client, answer) = oneshot::channel();
        let gateway = Arc::clone(self);
        let selling = async move {
            let sold = gateway.sell(sale, &mut client).await;
            // Nobody may be there to have it.
            let _ = client.send(sold);
        };
        tokio::spawn(selling.in_current_span());
        answer.await.unwrap_or_else(|_| Err(Refusal::new(Code::Internal, "the request broke off; send it again")))
    }

    /// Whatever can refuse the request does so before the money is taken; and nothing
    /// is held for who brings nothing, or has nothing.
    async fn sell(&self, sale: Sale, client: &mut oneshot::Sender<Sold>) -> Sold {
        let Sale { counter, record, client: upgrade, back, head, body, request } = sale;
        let secure = async {
            let payable = match counter.check(&head, self.now()).await {
                Ok(payable) => payable,
                Err(response) => return Ok(Err(response)),
            };
            let payer = payable.asker(counter.client());
            // First the body: while it comes, nothing of the agent's is held for it.
            let (body, room) = self.paid_body(body, payer).await?;
            let places = self.places(&record, payer, upgrade).await?;
            let bought = payable.hash(&head, &body);
            Ok(Ok((payable, bought, places, Holding::new(Full::new(body), room))))
        };
        let secured: Result<_, Refusal> = tokio::select! {
            secured = secure => secured,
            () = client.closed() => Err(Refusal::invalid("the client hung up")),
        };
        let (payable, bought, places, body) = match secured? {
            Ok(secured) => secured,
            Err(response) => return Ok(response),
        };
        match payable.pay(bought, self.now()).await {
            Ok(ticket) => {
                let places = self.renewed(places);
                let request = request.map(|()| Body::new(body));
                Ok(redeem(ticket, self.answered(places, back, request).await).await)
            }
            Err(response) => Ok(response),
        }
    }

    /// Has the agent answer.
    async fn answered(&self, places: Places, back: Back, request: Request<Body>) -> Result<Response<Body>, Refusal> {
        let Places { lease, stream } = places;
        let accept = stream.as_ref().and_then(|(client, _)| client.socket.accept(request.headers()));
        let mut answer = lease.send(request).await?;
        confine(answer.headers_mut(), &back.way, &back.host);
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let asked = stream.filter(|_| upgrade::is_granted(answer.headers(), accept.as_ref()));
            let asked = asked.ok_or_else(|| unreachable("the agent changed to a protocol that nobody asked for"))?;
            if let Some(token) = back.subprotocol {
                upgrade::choose(answer.headers_mut(), token);
            }
            return Ok(self.join(asked, answer));
        }
        // To an extended CONNECT, success is a WebSocket.
        let is_connect = stream.is_some_and(|(client, _)| client.socket == Socket::Connect);
        if is_connect && answer.status().is_success() {
            return Err(Refusal::new(Code::NoWebSocket, "the agent has no WebSocket at this path"));
        }
        let (mut head, body) = answer.into_parts();
        client::strip_hop_by_hop(&mut head.headers);
        Ok(Response::from_parts(head, body))
    }

    /// Joins the two halves of a connection whose protocol has changed.
    fn join(&self, (client, place): (Client, StreamPlace), mut answer: Response<Body>) -> Response<Body> {
        let Client { socket, upgrade: client, work } = client;
        let guest = hyper::upgrade::on(&mut answer);
        let draining = self.draining.clone();
        let silence = Duration::from_millis(self.limits.stream_idle_ms);
        self.tasks.spawn(async move {
            let pulse = Pulse::new();
            let joined = async {
                let (client, guest) = tokio::try_join!(client, guest)?;
                let (mut client, mut guest) = (pulse.of(TokioIo::new(client)), pulse.of(TokioIo::new(guest)));
                // Either side ends it by going away, as ends every connection.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut guest).await;
                Ok::<_, hyper::Error>(())
            };
            tokio::select! {
                () = draining.cancelled() => {}
                () = pulse.silent(silence) => tracing::debug!("a changed protocol fell silent and is ended"),
                joined = joined => {
                    if let Err(error) = joined {
                        tracing::debug!(%error, "a change of protocol broke off");
                    }
                }
            }
            drop((place, work));
        });
        let (mut head, _) = answer.into_parts();
        client::strip_hop_by_hop(&mut head.headers);
        let mut granted = Response::from_parts(head, Body::empty());
        socket.grant(&mut granted);
        granted
    }
}
