//! Sandboxes: made, shown, deleted.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use domain::{PodId, RunId};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;
use wire::TRACEPARENT;
use wire::fault::{Code, Fault};
use wire::v1::node::{DataPolicy, DeleteResponse, GuestReport, Sandbox, SandboxPhase, SandboxSpec, Sandboxes};

use super::fault::{ApiError, json};
use super::state::{Api, id, query};
use crate::journal::MAX_WAIT;
use crate::logs::last_lines;
use crate::node::CreateOutcome;
use crate::task::SandboxHandle;

/// What a reader waits for.
#[derive(Clone, Copy, Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Until {
    /// Ready, or never.
    Ready,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaitQuery {
    /// Milliseconds to wait at most; no more than 60000 are waited.
    #[serde(default)]
    wait_ms: u64,
    /// What is waited for.
    until: Option<Until>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeleteQuery {
    /// The POD that it is a run of: a node that does not know the run any more answers
    /// for what it keeps of that POD.
    pod: Option<PodId>,
    /// Milliseconds the agent may take to end by itself.
    #[serde(default)]
    grace_ms: u64,
    /// What becomes of its POD's data: it is kept, unless its owner has it erased.
    #[serde(default)]
    data: DataPolicy,
}

/// Makes a sandbox run.
#[utoipa::path(
    put,
    path = "/v1/sandboxes/{id}",
    params(("id" = RunId, Path, description = "The run")),
    request_body = SandboxSpec,
    responses(
        (status = 202, description = "It is in the ledger and will run", body = Sandbox),
        (status = 200, description = "It was there, with the same spec", body = Sandbox),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn put(
    State(api): State<Api>,
    path: Result<Path<RunId>, PathRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let id = id(path)?;
    let body = body.map_err(|_| ApiError::new(Code::BodyTooLarge, "the spec is too large"))?;
    // The text of a parser's error may repeat what it read; its place does not.
    let spec: SandboxSpec = serde_json::from_slice(&body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        ApiError::new(Code::InvalidRequest, format!("the body is not a spec (line {line}, column {column})"))
    })?;
    let trace = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Ok(match api.node.create(id, spec, trace).await? {
        CreateOutcome::New(sandbox) => json(StatusCode::ACCEPTED, &sandbox),
        CreateOutcome::Existing(sandbox) => json(StatusCode::OK, &sandbox),
    })
}

/// All sandboxes.
#[utoipa::path(
    get,
    path = "/v1/sandboxes",
    responses((status = 200, description = "In the order of their ids", body = Sandboxes))
)]
pub(crate) async fn list(State(api): State<Api>) -> Response {
    let registry = &api.node.shared.registry;
    let sandboxes = registry.all().iter().map(|handle| handle.sandbox()).collect();
    json(StatusCode::OK, &Sandboxes { sandboxes, quarantined: registry.quarantine.list() })
}

/// One sandbox, now or when it is ready.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}",
    params(("id" = RunId, Path, description = "The run"), WaitQuery),
    responses(
        (status = 200, description = "How it is", body = Sandbox),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn get(
    State(api): State<Api>,
    path: Result<Path<RunId>, PathRejection>,
    wait: Result<Query<WaitQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let (id, wait) = (id(path)?, query(wait)?);
    let handle = api.sandbox(id)?;
    let sandbox = match wait.until {
        None => handle.sandbox(),
        Some(Until::Ready) => {
            let most = Duration::from_millis(wait.wait_ms).min(MAX_WAIT);
            tokio::select! {
                sandbox = handle.settled(most) => sandbox,
                () = api.closing.cancelled() => handle.sandbox(),
            }
        }
    };
    Ok(json(StatusCode::OK, &with_last_lines(sandbox, &handle)))
}

/// The same with what its agent wrote last, unless all is well with it.
fn with_last_lines(sandbox: Sandbox, handle: &SandboxHandle) -> Sandbox {
    if sandbox.phase == SandboxPhase::Ready && sandbox.guest.is_none() {
        return sandbox;
    }
    let Some(logs) = handle.logs.get() else { return sandbox };
    let last_lines = last_lines(&logs.agent).unwrap_or_else(|error| {
        tracing::warn!(id = %handle.id(), %error, "an agent's log cannot be read");
        Vec::new()
    });
    if last_lines.is_empty() {
        return sandbox;
    }
    let guest = Some(GuestReport { last_lines, ..sandbox.guest.clone().unwrap_or_default() });
    Sandbox { guest, ..sandbox }
}

/// Takes a sandbox down.
#[utoipa::path(
    delete,
    path = "/v1/sandboxes/{id}",
    params(("id" = RunId, Path, description = "The run"), DeleteQuery),
    responses(
        (status = 200, description = "Nothing of it runs; what is kept of its POD", body = DeleteResponse),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn delete(
    State(api): State<Api>,
    path: Result<Path<RunId>, PathRejection>,
    ending: Result<Query<DeleteQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let (id, ending) = (id(path)?, query(ending)?);
    let gone = api.node.delete(id, ending.pod, Duration::from_millis(ending.grace_ms), ending.data).await?;
    Ok(json(StatusCode::OK, &gone))
}

/// What a guest's `pod` counts.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}/metrics",
    params(("id" = RunId, Path, description = "The run")),
    responses(
        (status = 200, description = "OpenMetrics text, as the guest wrote it", body = String, content_type = "text/plain"),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn metrics(
    State(api): State<Api>,
    path: Result<Path<RunId>, PathRejection>,
) -> Result<Response, ApiError> {
    let id = id(path)?;
    let handle = api.sandbox(id)?;
    let pod = handle.pod.get().cloned().ok_or_else(ApiError::not_ready)?;
    let text = pod.metrics().await.map_err(|error| ApiError::unreachable(&error))?;
    // The guest may write anything: a reader is not to take it for more than text.
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}
