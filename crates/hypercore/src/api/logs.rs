//! What an agent and its console have said.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use domain::RunId;
use futures_util::StreamExt;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde::Deserialize;
use utoipa::IntoParams;
use wire::fault::{Code, Fault};

use super::fault::ApiError;
use super::state::{Api, id, query};
use crate::logs::{LogFormat, read};
use crate::streams::ConnectionPermit;

/// Which log.
#[derive(Clone, Copy, Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogSource {
    /// What the agent printed.
    #[default]
    Agent,
    /// What the guest's kernel and `pod` printed.
    Console,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogsQuery {
    /// Whether to stay for what comes.
    #[serde(default)]
    follow: bool,
    /// Which log.
    #[serde(default)]
    source: LogSource,
}

/// Text lines: what is kept, and what comes.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}/logs",
    params(("id" = RunId, Path, description = "The agent"), LogsQuery),
    responses(
        (status = 200, description = "Lines", body = String, content_type = "text/plain"),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn logs(
    State(api): State<Api>,
    path: Result<Path<RunId>, PathRejection>,
    which: Result<Query<LogsQuery>, QueryRejection>,
    connection: Option<Extension<ConnectionPermit>>,
) -> Result<Response, ApiError> {
    let (id, which) = (id(path)?, query(which)?);
    let handle = api.sandbox(id)?;
    let permit = handle.streams.call(connection.as_deref());
    let permit = permit.ok_or_else(|| ApiError::new(Code::RateLimited, "too many calls of the agent are open"))?;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    let Some(logs) = handle.logs.get() else { return Ok(([(CONTENT_TYPE, kind)], "").into_response()) };
    let (files, form) = match which.source {
        LogSource::Agent => (Arc::clone(&logs.agent), LogFormat::Text),
        LogSource::Console => (Arc::clone(&logs.console), LogFormat::Raw),
    };
    let lines =
        read(files, form, which.follow).map_err(|error| ApiError::internal(&error, "the log cannot be read"))?;
    let lines = lines.take_until(api.closing.clone().cancelled_owned()).map(move |piece| {
        let _held = &permit;
        piece
    });
    Ok(([(CONTENT_TYPE, kind)], Body::from_stream(lines)).into_response())
}
