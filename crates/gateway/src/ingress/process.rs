//! `POST /agents/{id}/process.Process/*`: commands in one's own agent, over
//! E2B's process protocol. The holder's signature opens it, or an API key that lets agents
//! run.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Path, State};
use domain::PodId;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use serde::Deserialize;
use wire::TRACEPARENT;
use wire::fault::Fault;
use wire::v1::keys::X_API_KEY;
use wire::v1::public::{X_AUDIENCE, X_SIGNATURE, X_TIMESTAMP, X_WALLET};

use crate::api::extract::PodPath;
use crate::auth::caller::{self, RunningHolder};
use crate::edge::idle::IdleTimer;
use crate::edge::source::RequestSource;
use crate::edge::streams::until_drained;
use crate::error::ApiError;
use crate::state::Gateway;
use axum::Extension;
use client::strip_hop_by_hop;

/// The calls the guest knows.
const CALLS: [&str; 8] = ["Start", "Connect", "List", "SendInput", STREAM_INPUT, "CloseStdin", "SendSignal", "Update"];
/// The one whose request goes on: its first message is what is signed of it.
const STREAM_INPUT: &str = "StreamInput";

#[derive(Deserialize)]
pub(crate) struct MethodPath {
    method: String,
}

/// Passes one call on to the guest, and its answer back as it comes.
#[utoipa::path(
    post,
    operation_id = "process",
    tag = "agents",
    path = "/agents/{id}/process.Process/{method}",
    params(
        ("id" = PodId, Path, description = "The agent"),
        ("method" = String, Path, description = "Start, Connect, List, SendInput, StreamInput, CloseStdin, SendSignal or Update"),
    ),
    request_body(
        content = String,
        content_type = "application/connect+json",
        description = "Enveloped JSON; unary calls are application/json"
    ),
    responses(
        (status = 200, description = "What the guest answers, as it comes", body = String,
            content_type = "application/connect+json"),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("bearer" = []),
        ("api_key" = [])
    )
)]
pub(crate) async fn forward(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    PodPath(id): PodPath,
    Path(MethodPath { method }): Path<MethodPath>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    if !CALLS.contains(&method.as_str()) {
        return Err(ApiError::not_found());
    }
    let mut headers = request.headers().clone();
    let (wallet, key, body) = if method == STREAM_INPUT {
        caller::of_stream(&gateway, request).await?
    } else {
        let RunningHolder(holder) = RunningHolder::from_request(request, &gateway).await?;
        (holder.wallet, holder.key(), Body::from(holder.body))
    };
    let record = gateway.owned(id, wallet).await?;
    let node = gateway.parts.control.node_of(&record)?;
    let permit = gateway.streams.for_wallet(wallet)?;
    strip_hop_by_hop(&mut headers);
    let credentials = [X_WALLET, X_SIGNATURE, X_TIMESTAMP, X_AUDIENCE, X_API_KEY];
    for ours in credentials.into_iter().chain([AUTHORIZATION.as_str(), COOKIE.as_str(), CONTENT_LENGTH.as_str()]) {
        headers.remove(ours);
    }
    if let Ok(trace) = source.trace.traceparent().parse() {
        headers.insert(TRACEPARENT, trace);
    }
    let timer = IdleTimer::new();
    let mut request = Request::new(timer.wrap(body).map_err(Into::into).boxed_unsync());
    *request.method_mut() = Method::POST;
    *request.headers_mut() = headers;
    let answer = node.forward(record.id, &format!("/process.Process/{method}"), request).await?;
    let (mut head, body) = answer.into_parts();
    strip_hop_by_hop(&mut head.headers);
    let body = gateway.while_good(key, until_drained(Body::new(body), permit, &gateway.draining));
    if method != STREAM_INPUT {
        return Ok(Response::from_parts(head, body));
    }
    // Nobody holds a command's input open without a word.
    let silence = Duration::from_millis(gateway.limits.stream_idle_ms);
    Ok(Response::from_parts(head, timer.bound(body, silence)))
}
