//! What every request passes: its trace, the limits of its address, and the
//! choice between the API and an agent.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::MatchedPath;
use axum::response::IntoResponse;
use http::header::{CACHE_CONTROL, HOST, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::uri::Authority;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tower::ServiceExt;
use tracing::field::{Empty, display};
use tracing::{Instrument, Span};
use wire::fault::Code;

use crate::edge::headers;
use crate::edge::source::{ConnectionInfo, RequestSource};
use crate::edge::trace::{TraceContext, X_TRACE_ID};
use crate::error::ApiError;
use crate::ingress::proxy;
use crate::ingress::target::{ListenerKind, Target};
use crate::state::Gateway;

/// Answers one request.
pub(crate) async fn handle(
    gateway: Arc<Gateway>,
    router: Router,
    connection: ConnectionInfo,
    request: Request<Incoming>,
) -> Response<Body> {
    let began = Instant::now();
    let source = source_of(&gateway, connection, &request);
    let trace_id = source.trace.id();
    let span = tracing::info_span!("request", %trace_id, method = %request.method(), agent = Empty);
    if let Some(follow) = gateway.parts.follow {
        follow(&span, &source.trace.traceparent());
    }
    let answering = dispatch(gateway, router, source, connection.listener, request);
    let (label, mut response) = answering.instrument(span.clone()).await;
    if let Ok(value) = HeaderValue::from_str(&trace_id) {
        response.headers_mut().insert(X_TRACE_ID, value);
    }
    record(&span, label.as_str(), response.status(), began);
    response
}

fn source_of(gateway: &Gateway, connection: ConnectionInfo, request: &Request<Incoming>) -> RequestSource {
    let trusted = gateway.config.trusted_proxies.contains(&connection.address.to_canonical());
    RequestSource {
        address: headers::client_address(connection.address, trusted, request.headers()),
        trusted,
        tls: connection.tls,
        trace: TraceContext::of(request.headers(), rand::random()),
    }
}

async fn dispatch(
    gateway: Arc<Gateway>,
    router: Router,
    source: RequestSource,
    listener: ListenerKind,
    mut request: Request<Incoming>,
) -> (Label, Response<Body>) {
    let host = match check(&gateway, &request) {
        Ok(host) => host,
        Err(refusal) => return (Label::Refused, refusal.into_response()),
    };
    match Target::of(&gateway, listener, host.as_deref(), &mut request) {
        Ok(Target::Api) => {}
        Ok(Target::Agent(named)) => {
            Span::current().record("agent", display(named.id));
            // An HTTP/1.0 client need not name a host: it is the agent's own.
            let host = host.unwrap_or_else(|| gateway.agent_url.host(named.id));
            // Boxed: the future of a call to the API should not be as large as this one.
            let answer = Box::pin(proxy::forward(&gateway, &source, &named, &host, request)).await;
            return (Label::Ingress, answer.unwrap_or_else(IntoResponse::into_response));
        }
        Ok(Target::Redirect(response)) => return (Label::Ingress, response),
        Err(refusal) => return (Label::Refused, refusal.into_response()),
    }
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(source);
    let Ok(mut response) = router.oneshot(request).await;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let label = response.extensions_mut().remove::<MatchedPath>().map_or(Label::Unknown, Label::Route);
    (label, response)
}

/// Checks what holds for every request, and finds its host.
fn check(gateway: &Gateway, request: &Request<Incoming>) -> Result<Option<String>, ApiError> {
    let most = usize::try_from(gateway.limits.header_bytes).unwrap_or(usize::MAX);
    if headers::size(request.headers()) > most {
        return Err(ApiError::new(Code::HeadersTooLarge, format!("the headers are larger than {most} bytes")));
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next().map(|host| host.to_str().map_err(|_| ApiError::invalid("Host is not text"))).transpose()?;
    if hosts.next().is_some() {
        return Err(ApiError::invalid("there is more than one Host header"));
    }
    let authority = request.uri().authority().map(Authority::as_str);
    if let (Some(host), Some(authority)) = (host, authority)
        && !host.eq_ignore_ascii_case(authority)
    {
        return Err(ApiError::invalid("the request's target and its Host header name two hosts"));
    }
    Ok(authority.or(host).map(str::to_owned))
}

/// By which name a request is counted in the metrics.
enum Label {
    /// A route of the API.
    Route(MatchedPath),
    /// A path of the API that has no route.
    Unknown,
    /// An agent.
    Ingress,
    /// None: refused before that was known.
    Refused,
}

impl Label {
    fn as_str(&self) -> &str {
        match self {
            Self::Route(path) => path.as_str(),
            Self::Unknown => "other",
            Self::Ingress => "ingress",
            Self::Refused => "refused",
        }
    }
}

fn record(span: &Span, route: &str, status: StatusCode, began: Instant) {
    let class = match status.as_u16() {
        100..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    };
    let seconds = began.elapsed().as_secs_f64();
    metrics::counter!("palatine_gateway_requests_total", "route" => route.to_owned(), "status" => class).increment(1);
    metrics::histogram!("palatine_gateway_request_seconds", "route" => route.to_owned()).record(seconds);
    if status.is_server_error() {
        tracing::info!(parent: span, route, status = status.as_u16(), seconds, "answered");
    } else {
        tracing::debug!(parent: span, route, status = status.as_u16(), seconds, "answered");
    }
}
