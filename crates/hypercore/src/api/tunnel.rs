//! Bytes to and from an agent's port.

use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::response::Response;
use domain::RunId;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use sandbox::GuestStream;
use serde::Deserialize;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;
use wire::fault::{Code, Fault};
use wire::v1::node::{SandboxPhase, TUNNEL};
use wire::v1::pod::PORT;

use super::fault::ApiError;
use super::state::{Api, id, query};
use crate::guest::PodError;
use crate::streams::StreamPermit;
use crate::task::SandboxHandle;

/// How long an agent may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Bytes held in each direction.
const BUFFER: usize = 16 * 1024;

/// `?port=`.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TunnelQuery {
    /// Another port of the guest than the agent's; never that of its `pod`
    port: Option<u16>,
}

/// A tunnel: after 101, bytes to and from a port of the guest: the agent's, unless another is named.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}/tunnel",
    params(("id" = RunId, Path, description = "The agent"), TunnelQuery),
    responses(
        (status = 101, description = "`Upgrade: palatine-tunnel`"),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn tunnel(
    State(api): State<Api>,
    path: Result<Path<RunId>, PathRejection>,
    asked: Result<Query<TunnelQuery>, QueryRejection>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let id = id(path)?;
    let handle = api.sandbox(id)?;
    let port = query(asked)?.port.unwrap_or(handle.port);
    if matches!(port, 0 | PORT) {
        return Err(ApiError::new(Code::InvalidRequest, format!("no tunnel leads to port {port}")));
    }
    if !wants_tunnel(request.headers()) {
        return Err(ApiError::new(Code::InvalidRequest, format!("a tunnel is asked for with Upgrade: {TUNNEL}")));
    }
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let upgrade = upgrade.ok_or_else(|| ApiError::new(Code::InvalidRequest, "the connection cannot be upgraded"))?;
    let permit = handle.streams.tunnel(request.extensions().get());
    let permit =
        permit.ok_or_else(|| ApiError::new(Code::RateLimited, "too many connections to the agent are open"))?;
    let gone = handle.guest_gone();
    let link = reach(&api, &handle, port).await?;
    tokio::spawn(carry(upgrade, link, permit, gone, api.closing.clone()));
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(UPGRADE, TUNNEL)
        .header(CONNECTION, "upgrade")
        .body(Body::empty());
    response.map_err(|error| ApiError::internal(&error, "the tunnel's answer cannot be made"))
}

fn wants_tunnel(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(TUNNEL.as_bytes()))
}

async fn reach(api: &Api, handle: &SandboxHandle, port: u16) -> Result<Box<dyn GuestStream>, ApiError> {
    match handle.sandbox().phase {
        SandboxPhase::Ready => {}
        SandboxPhase::Booting
        | SandboxPhase::Backoff { .. }
        | SandboxPhase::Waiting { .. }
        | SandboxPhase::Stopping
        | SandboxPhase::Failed { .. } => {
            return Err(ApiError::not_ready());
        }
    }
    let gone = |why: String| ApiError::new(Code::AgentUnreachable, why);
    match timeout(CONNECT, connect(api, handle, port)).await {
        Ok(Some(link)) => Ok(link),
        Ok(None) => Err(gone(format!("nothing listens on the agent's port {port}"))),
        Err(_) => Err(gone(format!("the agent did not accept a connection within {CONNECT:?}"))),
    }
}

/// A connection to a port of the agent's guest: by the guest's link, or where it refuses there, by `pod`
/// to the guest's loopback. So one that listens on the link has nothing between, and what
/// listens is asked each time: an agent may listen elsewhere tomorrow.
async fn connect(api: &Api, handle: &SandboxHandle, port: u16) -> Option<Box<dyn GuestStream>> {
    let id = handle.id();
    match api.node.shared.runtime.connect(id, port).await {
        Ok(link) => return Some(link),
        Err(error) => {
            tracing::debug!(%id, port, error = &error as &dyn std::error::Error, "an agent does not listen on its link");
        }
    }
    let told = |error: &PodError| {
        tracing::debug!(%id, port, error = error as &dyn std::error::Error, "an agent is not reached at its loopback");
    };
    handle.pod.get()?.tunnel(port).await.inspect_err(told).ok()
}

async fn carry(
    upgrade: OnUpgrade,
    mut link: Box<dyn GuestStream>,
    permit: StreamPermit,
    gone: impl Future<Output = ()>,
    closing: CancellationToken,
) {
    let Ok(upgraded) = upgrade.await else { return };
    let mut upgraded = TokioIo::new(upgraded);
    tokio::select! {
        // Either side may hang up as it likes.
        _ = copy_bidirectional_with_sizes(&mut upgraded, &mut link, BUFFER, BUFFER) => {}
        () = gone => {}
        () = closing.cancelled() => {}
    }
    drop(permit);
}
