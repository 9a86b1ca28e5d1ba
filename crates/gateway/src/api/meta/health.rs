//! `GET /health` and `GET /ready`: whether the process lives, and whether it can work.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use http::{Response, StatusCode};
use serde::Serialize;
use wire::v1::public::{HealthResponse, ReadyResponse};
use wire::v1::relay::RelayerHealth;

use crate::api::extract::json;
use crate::error::ApiError;
use crate::state::Gateway;

/// Whether the process lives. With a relayer, how that is, as CroGas tells it; a
/// relayer that is out of order is `degraded` here, and the process lives all the
/// same.
#[utoipa::path(
    get,
    operation_id = "health",
    tag = "gateway",
    path = "/health",
    responses((status = 200, description = "It lives", body = HealthResponse))
)]
pub(crate) async fn health(State(gateway): State<Arc<Gateway>>) -> Result<Response<Body>, ApiError> {
    let relayer = gateway.parts.treasury.as_ref().and_then(|treasury| treasury.relayer().ok());
    let Some(relayer) = relayer else { return state(StatusCode::OK, "ok") };
    // The chain is asked for it, and anybody may ask us: not more often than this.
    let relayer = gateway.relayer_health.get_with((), async { Arc::new(relayer.health().await.1) }).await;
    json(StatusCode::OK, &HealthBody { relayer: &relayer, version: env!("CARGO_PKG_VERSION") })
}

/// CroGas's fields, and ours beside them.
#[derive(Serialize)]
struct HealthBody<'a> {
    #[serde(flatten)]
    relayer: &'a RelayerHealth,
    version: &'static str,
}

/// Whether it can do its work; says what is missing.
#[utoipa::path(
    get,
    operation_id = "ready",
    tag = "gateway",
    path = "/ready",
    responses(
        (status = 200, description = "It can do its work", body = ReadyResponse),
        (status = "default", description = "What is missing", body = ReadyResponse),
    )
)]
pub(crate) async fn ready(State(gateway): State<Arc<Gateway>>) -> Result<Response<Body>, ApiError> {
    let (status, answer) = gateway.readiness().await;
    json(status, &answer)
}

fn state(status: StatusCode, text: &str) -> Result<Response<Body>, ApiError> {
    json(status, &HealthResponse { status: text.to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() })
}
