//! A request on its way to an agent: what of it the agent sees.

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, COOKIE, HOST, HeaderMap, HeaderValue, ORIGIN};
use http::request::Parts;
use http::{Method, Request, Uri, Version};
use wire::TRACEPARENT;
use wire::fault::Code;

use crate::edge::headers::{self, ForwardedHeaders};
use crate::edge::source::RequestSource;
use crate::error::ApiError;
use crate::ingress::upgrade::WebSocketHandshake;

/// The request as the agent sees it.
pub(crate) fn rewrite(
    mut head: Parts,
    source: &RequestSource,
    forwarded: &ForwardedHeaders<'_>,
    handshake: Option<WebSocketHandshake>,
) -> Result<Request<()>, ApiError> {
    if head.method == Method::CONNECT {
        return Err(ApiError::new(Code::MethodNotAllowed, "an agent is no proxy"));
    }
    head.uri = head.uri.path_and_query().cloned().map_or(Uri::from_static("/"), Uri::from);
    head.version = Version::HTTP_11;
    client::strip_hop_by_hop(&mut head.headers);
    headers::strip_ours(&mut head.headers);
    join_cookies(&mut head.headers);
    forwarded.write(&mut head.headers);
    let host =
        HeaderValue::from_str(forwarded.host).map_err(|_| ApiError::invalid("Host is not the name of a host"))?;
    head.headers.insert(HOST, host);
    if let Ok(trace) = source.trace.traceparent().parse() {
        head.headers.insert(TRACEPARENT, trace);
    }
    if let Some(handshake) = handshake {
        handshake.ask(&mut head.headers, rand::random());
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

/// Whether a browser asks what a page may send (a CORS preflight): a browser can bring no
/// payment with that, so it costs nothing.
pub(crate) fn is_preflight<B: hyper::body::Body>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(ORIGIN)
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        && request.body().is_end_stream()
}
