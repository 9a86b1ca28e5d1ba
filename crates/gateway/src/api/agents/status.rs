//! `GET /status/{id}` and `GET /agents`: how a holder's agents are.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use domain::PodId;
use http::{Response, StatusCode};
use wire::fault::Fault;
use wire::v1::public::{AgentsResponse, StatusResponse};

use crate::api::extract::{PodPath, json};
use crate::auth::caller::ReadOnlyHolder;
use crate::error::ApiError;
use crate::state::Gateway;

/// Agents in one list at most.
const MAX_LISTED: u32 = 100;

/// How one agent is.
#[utoipa::path(
    get,
    operation_id = "status",
    tag = "agents",
    path = "/status/{id}",
    params(("id" = PodId, Path, description = "The agent")),
    responses((status = 200, description = "How it is", body = StatusResponse), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = []),
        ("bearer" = []),
        ("api_key" = [])
    )
)]
pub(crate) async fn status(
    State(gateway): State<Arc<Gateway>>,
    PodPath(id): PodPath,
    ReadOnlyHolder(holder): ReadOnlyHolder,
) -> Result<Response<Body>, ApiError> {
    let record = gateway.owned(id, holder.wallet).await?;
    let uptime_ms = record.meter.uptime_ms(holder.now);
    let vault = match &gateway.parts.treasury {
        Some(treasury) => treasury.known_vault(record.pod).await?,
        None => None,
    };
    let guest = gateway.parts.control.guest_report(&record).await;
    json(StatusCode::OK, &StatusResponse { agent: gateway.view(&record), uptime_ms, vault, guest })
}

/// A holder's agents, newest first.
#[utoipa::path(
    get,
    operation_id = "listAgents",
    tag = "agents",
    path = "/agents",
    responses((status = 200, description = "One's own agents, newest first", body = AgentsResponse), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = []),
        ("bearer" = []),
        ("api_key" = [])
    )
)]
pub(crate) async fn list(
    State(gateway): State<Arc<Gateway>>,
    ReadOnlyHolder(holder): ReadOnlyHolder,
) -> Result<Response<Body>, ApiError> {
    let records = gateway.parts.store.of(holder.wallet, MAX_LISTED).await?;
    json(StatusCode::OK, &AgentsResponse { agents: records.iter().map(|record| gateway.view(record)).collect() })
}
