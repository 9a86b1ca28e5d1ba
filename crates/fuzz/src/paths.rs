//! What a path costs, held against the routers of agents.

use std::convert::Infallible;
use std::sync::LazyLock;

use actix_router::{Quoter, ResourceDef};
use axum::Router;
use axum::body::Body;
use axum::routing::any;
use futures_util::FutureExt;
use http::{Request, StatusCode, Uri};
use tower::ServiceExt;

/// What costs something, as an agent has it in its router.
const PRICED: &str = "/v1/chat";

/// axum's.
static AXUM: LazyLock<Router> = LazyLock::new(|| {
    let priced = || any(|| async { StatusCode::PAYMENT_REQUIRED });
    Router::new().route(PRICED, priced()).route("/v1/chat/", priced()).route("/v1/chat/{*rest}", priced())
});
/// actix's, and how it decodes a path before it looks.
static ACTIX: LazyLock<(ResourceDef, Quoter)> =
    LazyLock::new(|| (ResourceDef::prefix(PRICED), Quoter::new(b"", b"%/+")));

/// Whatever gets to an agent for nothing, none of the routers takes for what costs
/// something.
pub(crate) fn path(bytes: &[u8]) {
    let Ok(uri) = Uri::try_from(bytes) else { return };
    if uri.scheme().is_some() || uri.authority().is_some() || !gateway::fuzz::is_free(PRICED, uri.path()) {
        return;
    }
    let request = Request::builder().uri(uri.clone()).body(Body::empty());
    let Ok(request) = request else { return };
    let answer = AXUM.clone().oneshot(request).now_or_never();
    let answer = answer.map(|answer| answer.unwrap_or_else(|never: Infallible| match never {}).status());
    assert_eq!(answer, Some(StatusCode::NOT_FOUND), "axum takes {uri} for {PRICED}");
    let (priced, quoter) = &*ACTIX;
    let decoded = quoter.requote(uri.path().as_bytes());
    let decoded = decoded.map_or_else(|| uri.path().into(), |bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(!priced.is_match(&decoded), "actix takes {uri} for {PRICED}");
}
