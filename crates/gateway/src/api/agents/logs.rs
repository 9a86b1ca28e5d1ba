//! `GET /agents/{id}/logs`: what an agent wrote, and goes on to write.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use control::LogSource;
use domain::PodId;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, Uri};
use serde::Deserialize;
use wire::fault::Fault;

use crate::api::extract::{PodPath, query};
use crate::auth::caller::ReadOnlyHolder;
use crate::edge::streams::until_drained;
use crate::error::ApiError;
use crate::state::Gateway;

/// `?follow=&source=`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogsQuery {
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    source: Source,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Source {
    /// The agent's own output.
    #[default]
    Agent,
    /// The guest's console.
    Console,
}

impl From<Source> for LogSource {
    fn from(source: Source) -> Self {
        match source {
            Source::Agent => Self::Agent,
            Source::Console => Self::Console,
        }
    }
}

/// Streams an agent's lines to its holder.
#[utoipa::path(
    get,
    operation_id = "logs",
    tag = "agents",
    path = "/agents/{id}/logs",
    params(
        ("id" = PodId, Path, description = "The agent"),
        ("follow" = Option<bool>, Query, description = "Go on with what it writes from now on"),
        ("source" = Option<String>, Query, description = "`agent` (default) or `console`"),
    ),
    responses((status = 200, description = "Lines of text", body = String, content_type = "text/plain"), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = []),
        ("bearer" = []),
        ("api_key" = [])
    )
)]
pub(crate) async fn logs(
    State(gateway): State<Arc<Gateway>>,
    PodPath(id): PodPath,
    uri: Uri,
    ReadOnlyHolder(holder): ReadOnlyHolder,
) -> Result<Response<Body>, ApiError> {
    let LogsQuery { follow, source } = query(&uri)?;
    let record = gateway.owned(id, holder.wallet).await?;
    let node = gateway.parts.control.node_of(&record)?;
    let permit = gateway.streams.for_wallet(holder.wallet)?;
    let lines = node.logs(record.id, source.into(), follow).await?;
    let lines = until_drained(Body::new(lines), permit, &gateway.draining);
    let mut response = Response::new(gateway.while_good(holder.key(), lines));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}
