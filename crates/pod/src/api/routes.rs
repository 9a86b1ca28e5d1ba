//! The table of routes.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use http::StatusCode;
use wire::fault::Code;

use super::auth::token;
use super::fault::Refused;
use super::{life, metrics, process};
use crate::pod::Pod;

/// Bytes of a body: an environment of 64 KiB, escaped, twice; 128 KiB of input in base64.
const BODY_LIMIT: usize = 512 * 1024;

/// Everything `pod` answers.
pub(crate) fn routes(pod: Pod) -> Router {
    Router::new()
        .route("/v1/status", get(life::status))
        .route("/v1/logs", get(life::logs))
        .route("/v1/stop", post(life::stop))
        .route("/metrics", get(metrics::metrics))
        .route("/process.Process/{call}", post(process::process))
        .route_layer(from_fn_with_state(pod.clone(), token))
        .route("/v1/identity", post(life::identity))
        .route("/health", get(async || StatusCode::NO_CONTENT))
        .fallback(async || Refused::new(Code::NotFound, "there is no such path"))
        .method_not_allowed_fallback(async || Refused::new(Code::MethodNotAllowed, "not with this method"))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(pod)
}
