//! `GET /v1/tunnel?port=`: bytes to and from a port at the guest's loopback.
//!
//! The node reaches what listens on the guest's link by itself. What listens for its own
//! machine alone refuses it there, and is reached this way.

use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::response::Response;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use wire::fault::Code;
use wire::v1::node::TUNNEL;

use super::error::ApiError;
use crate::agent::{Pod, connect_loopback};

/// How long who listens may take to accept.
const CONNECT: Duration = Duration::from_secs(2);
/// Bytes held in each direction.
const BUFFER: usize = 16 * 1024;

/// `?port=`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TunnelQuery {
    port: u16,
}

pub(super) async fn tunnel(
    State(pod): State<Pod>,
    query: Result<Query<TunnelQuery>, QueryRejection>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let Query(TunnelQuery { port }) = query.map_err(|error| ApiError::new(Code::InvalidRequest, error.body_text()))?;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().filter(|_| wants_tunnel(request.headers()));
    let asks = || ApiError::new(Code::InvalidRequest, format!("a tunnel is asked for with Upgrade: {TUNNEL}"));
    let upgrade = upgrade.ok_or_else(asks)?;
    let full = || ApiError::new(Code::RateLimited, "too many tunnels are open");
    let permit = pod.tunnel_permit().ok_or_else(full)?;
    let nobody = || ApiError::new(Code::AgentUnreachable, format!("nobody listens on port {port}"));
    let stream = timeout(CONNECT, connect_loopback(port)).await.ok().and_then(Result::ok).ok_or_else(nobody)?;
    tokio::spawn(carry(upgrade, stream, permit));
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(UPGRADE, TUNNEL)
        .header(CONNECTION, "upgrade")
        .body(Body::empty());
    response.map_err(|_| ApiError::new(Code::Internal, "the tunnel's answer cannot be made"))
}

fn wants_tunnel(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(TUNNEL.as_bytes()))
}

/// Each side may end its half by itself, as over a connection without anything between.
async fn carry(upgrade: OnUpgrade, mut stream: TcpStream, permit: OwnedSemaphorePermit) {
    let Ok(upgraded) = upgrade.await else { return };
    let mut upgraded = TokioIo::new(upgraded);
    // Either side may hang up as it likes.
    let _ = copy_bidirectional_with_sizes(&mut upgraded, &mut stream, BUFFER, BUFFER).await;
    drop(permit);
}
