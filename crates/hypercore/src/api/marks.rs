//! Metering.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use wire::fault::Fault;
use wire::v1::node::MarksPage;

use super::fault::{ApiError, json};
use super::state::{Api, query};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct MarksQuery {
    /// The last number the caller keeps: up to it the node may forget.
    #[serde(default)]
    after: u64,
    /// Milliseconds to wait for the first mark; no more than 60000 are waited.
    #[serde(default)]
    wait_ms: u64,
}

/// What the node saw, oldest first.
#[utoipa::path(
    get,
    path = "/v1/marks",
    params(MarksQuery),
    responses(
        (status = 200, description = "A stretch of the journal", body = MarksPage),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn marks(
    State(api): State<Api>,
    after: Result<Query<MarksQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let after = query(after)?;
    let journal = &api.node.shared.journal;
    let marks = tokio::select! {
        marks = journal.after(after.after, Duration::from_millis(after.wait_ms)) => marks,
        () = api.closing.cancelled() => journal.after(after.after, Duration::ZERO).await,
    };
    Ok(json(StatusCode::OK, &marks))
}
