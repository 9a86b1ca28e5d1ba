//! `POST /agents/{id}/process.Process/*`: commands in one's own agent, over
//! E2B's process protocol. Only the holder's signature opens it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use domain::AgentId;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, HeaderMap};
use http::{Method, Request, Response};
use http_body_util::Full;
use serde::Deserialize;
use wire::TRACEPARENT;
use wire::fault::Fault;
use wire::public::{X_SIGNATURE, X_TIMESTAMP, X_WALLET};

use crate::caller::Owner;
use crate::entry::Arrival;
use crate::logs::node_of;
use crate::refusal::Refusal;
use crate::shape::Id;
use crate::state::Gateway;
use axum::Extension;
use client::strip_hop_by_hop;

/// The calls the guest knows.
const CALLS: [&str; 7] = ["Start", "Connect", "List", "SendInput", "CloseStdin", "SendSignal", "Update"];

#[derive(Deserialize)]
pub(crate) struct Segment {
    method: String,
}

/// Passes one call on to the guest, and its answer back as it comes.
#[utoipa::path(
    post,
    operation_id = "process",
    tag = "agents",
    path = "/agents/{id}/process.Process/{method}",
    params(
        ("id" = AgentId, Path, description = "The agent"),
        ("method" = String, Path, description = "Start, Connect, List, SendInput, CloseStdin, SendSignal or Update"),
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
    security(("wallet" = [], "signature" = [], "timestamp" = []))
)]
pub(crate) async fn pass(
    State(gateway): State<Arc<Gateway>>,
    Extension(arrival): Extension<Arrival>,
    Id(id): Id,
    Path(Segment { method }): Path<Segment>,
    mut headers: HeaderMap,
    owner: Owner,
) -> Result<Response<Body>, Refusal> {
    if !CALLS.contains(&method.as_str()) {
        return Err(Refusal::not_found());
    }
    let record = gateway.owned(id, owner.wallet).await?;
    let node = node_of(&record)?;
    let place = gateway.streams.for_wallet(owner.wallet)?;
    strip_hop_by_hop(&mut headers);
    for ours in [X_WALLET, X_SIGNATURE, X_TIMESTAMP, AUTHORIZATION.as_str(), COOKIE.as_str(), CONTENT_LENGTH.as_str()] {
        headers.remove(ours);
    }
    if let Ok(trace) = arrival.trace.traceparent().parse() {
        headers.insert(TRACEPARENT, trace);
    }
    let mut request = Request::new(Full::new(owner.body));
    *request.method_mut() = Method::POST;
    *request.headers_mut() = headers;
    let answer = gateway.parts.guests.pass(node, id, &format!("/process.Process/{method}"), request).await?;
    let (mut head, body) = answer.into_parts();
    strip_hop_by_hop(&mut head.headers);
    Ok(Response::from_parts(head, gateway.until_drained(body, place)))
}
