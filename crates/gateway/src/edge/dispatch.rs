//! What every request passes: its trace, the limits of its address, and the
//! choice between the API and an agent.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use http::header::{CACHE_CONTROL, HOST, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::uri::Authority;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tower::ServiceExt;
use tracing::{Instrument, Span};
use wire::fault::Code;

use crate::edge::headers;
use crate::edge::limits::client_key;
use crate::edge::trace::Trace;
use crate::ingress::proxy;
use crate::ingress::target::{Listener, Target};
use crate::refusal::Refusal;
use crate::state::Gateway;
use axum::response::IntoResponse;

/// The trace's id, so that a caller can name it to the operator.
pub(crate) const X_TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");

/// Where a request comes from.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    /// The client's address.
    pub(crate) client: IpAddr,
    /// Whether the peer is a trusted proxy.
    pub(crate) trusted: bool,
    /// Whether it came over TLS.
    pub(crate) tls: bool,
    /// Its trace.
    pub(crate) trace: Trace,
}

/// The connection a request came on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    pub(crate) listener: Listener,
    pub(crate) tls: bool,
}

/// Answers one request.
pub(crate) async fn enter(
    gateway: Arc<Gateway>,
    router: Router,
    peer: Peer,
    request: Request<Incoming>,
) -> Response<Body> {
    let began = Instant::now();
    let arrival = arrive(&gateway, peer, &request);
    let trace_id = arrival.trace.id();
    let span = tracing::info_span!("request", %trace_id, method = %request.method());
    if let Some(follow) = gateway.parts.follow {
        follow(&span, &arrival.trace.traceparent());
    }
    let answering = dispatch(gateway, router, arrival, peer.listener, request);
    let (route, mut response) = answering.instrument(span.clone()).await;
    if let Ok(value) = HeaderValue::from_str(&trace_id) {
        response.headers_mut().insert(X_TRACE_ID, value);
    }
    record(&span, route, response.status(), began);
    response
}

fn arrive(gateway: &Gateway, peer: Peer, request: &Request<Incoming>) -> Arrival {
    let trusted = gateway.config.trusted_proxies.contains(&peer.address.to_canonical());
    Arrival {
        client: headers::client_address(peer.address, trusted, request.headers()),
        trusted,
        tls: peer.tls,
        trace: Trace::of(request.headers(), rand::random()),
    }
}

async fn dispatch(
    gateway: Arc<Gateway>,
    router: Router,
    arrival: Arrival,
    listener: Listener,
    mut request: Request<Incoming>,
) -> (&'static str, Response<Body>) {
    let host = match check(&gateway, &request) {
        Ok(host) => host,
        Err(refusal) => return ("refused", refusal.into_response()),
    };
    match Target::of(&gateway, listener, host.as_deref(), &mut request) {
        Ok(Target::Api) => {}
        Ok(Target::Agent(named)) => {
            // A client of HTTP/1.0 need not name a host: it is the agent's own.
            let host = host.unwrap_or_else(|| gateway.agent_url.host(named.id));
            // Apart: what a visit of an agent's needs is nothing that a call of the API should carry.
            let answer = Box::pin(proxy::pass(&gateway, &arrival, &named, &host, request)).await;
            return ("ingress", answer.unwrap_or_else(IntoResponse::into_response));
        }
        Ok(Target::Elsewhere(response)) => return ("ingress", response),
        Err(refusal) => return ("refused", refusal.into_response()),
    }
    let route = route(request.uri().path());
    if let Err(refusal) = admit(&gateway, &arrival, route) {
        return (route, refusal.into_response());
    }
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(arrival);
    let Ok(mut response) = router.oneshot(request).await;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    (route, response)
}

/// Checks what holds for every request, and finds its host.
fn check(gateway: &Gateway, request: &Request<Incoming>) -> Result<Option<String>, Refusal> {
    let most = usize::try_from(gateway.limits.header_bytes).unwrap_or(usize::MAX);
    if headers::size(request.headers()) > most {
        return Err(Refusal::new(Code::HeadersTooLarge, format!("the headers are larger than {most} bytes")));
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next().map(|host| host.to_str().map_err(|_| Refusal::invalid("Host is not text"))).transpose()?;
    if hosts.next().is_some() {
        return Err(Refusal::invalid("there is more than one Host header"));
    }
    let authority = request.uri().authority().map(Authority::as_str);
    if let (Some(host), Some(authority)) = (host, authority)
        && !host.eq_ignore_ascii_case(authority)
    {
        return Err(Refusal::invalid("the request's target and its Host header name two hosts"));
    }
    Ok(authority.or(host).map(str::to_owned))
}

/// Whether a route is for machines that must always be answered.
pub(crate) fn is_unlimited(route: &str) -> bool {
    matches!(route.trim_start_matches('/'), "health" | "ready" | "metrics")
}

/// Counts a request of the API against its address.
fn admit(gateway: &Gateway, arrival: &Arrival, route: &str) -> Result<(), Refusal> {
    let rates = &gateway.rates;
    if is_unlimited(route) {
        return Ok(());
    }
    let rate = match route {
        "stop" => &rates.stops,
        _ => &rates.addresses,
    };
    Ok(rate.check(client_key(arrival.client))?)
}

/// A route's name, for metrics: one of a few, whatever a client sends.
fn route(path: &str) -> &'static str {
    const ROUTES: [&str; 20] = [
        "spawn",
        "stop",
        "status",
        "usage",
        "tiers",
        "agents",
        "health",
        "ready",
        "metrics",
        "openapi.json",
        "chain",
        "links",
        "vaults",
        "meta",
        "relay",
        "estimate",
        "supported",
        "verify",
        "settle",
        "v2",
    ];
    let first = path.trim_start_matches('/').split('/').next().unwrap_or("");
    ROUTES.into_iter().find(|route| *route == first).unwrap_or("other")
}

fn record(span: &Span, route: &'static str, status: StatusCode, began: Instant) {
    let class = match status.as_u16() {
        100..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    };
    let seconds = began.elapsed().as_secs_f64();
    metrics::counter!("palatine_gateway_requests_total", "route" => route, "status" => class).increment(1);
    metrics::histogram!("palatine_gateway_request_seconds", "route" => route).record(seconds);
    if status.is_server_error() {
        tracing::info!(parent: span, route, status = status.as_u16(), seconds, "answered");
    } else {
        tracing::debug!(parent: span, route, status = status.as_u16(), seconds, "answered");
    }
}
