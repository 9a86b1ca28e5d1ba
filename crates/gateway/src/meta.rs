//! What the gateway says of itself.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode, Version};
use serde::Serialize;
use wire::fault::Code;
use wire::public::{HealthResponse, ReadyResponse, TiersResponse};
use wire::relay::Health;

use crate::entry::Arrival;
use crate::headers;
use crate::refusal::Refusal;
use crate::shape::json;
use crate::state::Gateway;

/// What a balance buys, and what can be spawned.
#[utoipa::path(
    get,
    operation_id = "tiers",
    tag = "gateway",
    path = "/tiers",
    responses((status = 200, description = "Romulus's table", body = TiersResponse))
)]
pub(crate) async fn tiers(State(gateway): State<Arc<Gateway>>) -> Result<Response<Body>, Refusal> {
    let tiers = gateway.parts.tiers.iter().map(|(name, tier)| (name.to_string(), *tier)).collect();
    let agent_types = gateway.parts.images.table().map(|table| table.keys().cloned().collect()).unwrap_or_default();
    json(StatusCode::OK, &TiersResponse { tiers, mint: gateway.parts.balances.mint().to_owned(), agent_types })
}

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
pub(crate) async fn health(State(gateway): State<Arc<Gateway>>) -> Result<Response<Body>, Refusal> {
    let relayer = gateway.parts.treasury.as_ref().and_then(|treasury| treasury.relayer().ok());
    let Some(relayer) = relayer else { return state(StatusCode::OK, "ok") };
    // The chain is asked for it, and anybody may ask us: not more often than this.
    let relayer = gateway.relayer_health.get_with((), async { Arc::new(relayer.health().await.1) }).await;
    json(StatusCode::OK, &RelayerHealth { relayer: &relayer, version: env!("CARGO_PKG_VERSION") })
}

/// CroGas's fields, and ours beside them.
#[derive(Serialize)]
struct RelayerHealth<'a> {
    #[serde(flatten)]
    relayer: &'a Health,
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
pub(crate) async fn ready(State(gateway): State<Arc<Gateway>>) -> Result<Response<Body>, Refusal> {
    let (status, answer) = gateway.readiness().await;
    json(status, &answer)
}

fn state(status: StatusCode, text: &str) -> Result<Response<Body>, Refusal> {
    json(status, &HealthResponse { status: text.to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// Prometheus' text, for those the operator named.
#[utoipa::path(
    get,
    operation_id = "metrics",
    tag = "gateway",
    path = "/metrics",
    responses((status = 200, description = "Prometheus' text", body = String, content_type = "text/plain"))
)]
pub(crate) async fn metrics(
    State(gateway): State<Arc<Gateway>>,
    Extension(arrival): Extension<Arrival>,
    version: Version,
    headers: HeaderMap,
) -> Result<Response<Body>, Refusal> {
    let direct = arrival.trusted || !headers::passed_on(version, &headers);
    let allowed = direct && gateway.config.watchers().contains(&arrival.client.to_canonical());
    let recorder = gateway.parts.metrics.as_ref().filter(|_| allowed);
    let recorder = recorder.ok_or_else(|| Refusal::new(Code::NotFound, "there is nothing at this path for you"))?;
    Ok(text("text/plain; version=0.0.4", recorder.render()))
}

/// This API, described.
#[utoipa::path(
    get,
    operation_id = "openapi",
    tag = "gateway",
    path = "/openapi.json",
    responses((status = 200, description = "This document", body = String, content_type = "application/json"))
)]
pub(crate) async fn openapi(State(gateway): State<Arc<Gateway>>) -> Response<Body> {
    text("application/json", gateway.openapi.clone())
}

fn text(kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
