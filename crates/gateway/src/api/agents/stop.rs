//! `POST /stop/{id}`: an agent is ended, and its data erased.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use domain::{AgentId, StopReason};
use http::{Response, StatusCode};
use wire::fault::Fault;
use wire::public::StopResponse;

use crate::api::extract::{Id, json};
use crate::auth::caller::Stopper;
use crate::refusal::Refusal;
use crate::state::Gateway;

/// Stops an agent and erases its data. Ownership is enough: the balance is not asked
/// for. Of an agent that has ended another way, erases what its node still keeps.
#[utoipa::path(
    post,
    operation_id = "stop",
    tag = "agents",
    path = "/stop/{id}",
    params(("id" = AgentId, Path, description = "The agent")),
    responses(
        (status = 200, description = "It has ended", body = StopResponse),
        (status = 202, description = "Its node does not answer; it will end", body = StopResponse),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = [])
    )
)]
pub(crate) async fn stop(
    State(gateway): State<Arc<Gateway>>,
    Id(id): Id,
    Stopper(owner): Stopper,
) -> Result<Response<Body>, Refusal> {
    gateway.owned(id, owner.wallet).await?;
    let record = gateway.parts.control.stop(id, StopReason::Requested).await?;
    let status = if record.state.is_live() { StatusCode::ACCEPTED } else { StatusCode::OK };
    let uptime_ms = record.meter.uptime_ms(gateway.now());
    json(status, &StopResponse { success: true, uptime_ms, state: record.state.name() })
}
