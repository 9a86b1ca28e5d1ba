//! `POST /stop/{id}` ends an agent's run and keeps its data; `DELETE /agents/{id}` removes
//! all of it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use control::StopError;
use domain::{PodId, StopReason};
use http::{Response, StatusCode};
use store::RunRecord;
use wire::fault::Fault;
use wire::v1::public::StopResponse;

use crate::api::extract::{PodPath, json};
use crate::auth::caller::{RemovingHolder, StoppingHolder};
use crate::error::ApiError;
use crate::state::Gateway;

/// Stops an agent. Its data is kept, and a start goes on with it; an ephemeral agent is
/// removed. Ownership is enough: the balance is not asked for.
#[utoipa::path(
    post,
    operation_id = "stop",
    tag = "agents",
    path = "/stop/{id}",
    params(("id" = PodId, Path, description = "The agent")),
    responses(
        (status = 200, description = "It has ended", body = StopResponse),
        (status = 202, description = "Its node does not answer; it will end", body = StopResponse),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = []),
        ("bearer" = []),
        ("api_key" = [])
    )
)]
pub(crate) async fn stop(
    State(gateway): State<Arc<Gateway>>,
    PodPath(id): PodPath,
    StoppingHolder(holder): StoppingHolder,
) -> Result<Response<Body>, ApiError> {
    let record = gateway.owned(id, holder.wallet).await?;
    let record = match (record.ephemeral, record.state.is_live()) {
        (true, _) => gateway.remove(id).await?,
        (false, true) => gateway.parts.control.stop(record.id, StopReason::Requested).await?,
        (false, false) => record,
    };
    gateway.ended(&record)
}

/// Removes an agent, whether it runs or not: its run ends, and its data, prices,
/// history and key are erased. What it used, what is on the chain, and that the id was its
/// holder's, stays.
#[utoipa::path(
    delete,
    operation_id = "removeAgent",
    tag = "agents",
    path = "/agents/{id}",
    params(("id" = PodId, Path, description = "The agent")),
    responses(
        (status = 200, description = "It is gone", body = StopResponse),
        (status = 202, description = "Its node does not answer; it will be gone", body = StopResponse),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []))
)]
pub(crate) async fn remove(
    State(gateway): State<Arc<Gateway>>,
    PodPath(id): PodPath,
    RemovingHolder(holder): RemovingHolder,
) -> Result<Response<Body>, ApiError> {
    gateway.owned(id, holder.wallet).await?;
    let removed = gateway.remove(id).await;
    // Also when it is not known whether it was: its holder may take the id again.
    gateway.price_cache.changed(id);
    gateway.ended(&removed?)
}

impl Gateway {
    async fn remove(&self, id: PodId) -> Result<RunRecord, StopError> {
        let removed = self.parts.control.remove(id).await;
        if let Some(treasury) = &self.parts.treasury {
            treasury.removed(id).await;
        }
        removed
    }

    fn ended(&self, record: &RunRecord) -> Result<Response<Body>, ApiError> {
        let agent = self.view(record);
        let status = if record.state.is_live() { StatusCode::ACCEPTED } else { StatusCode::OK };
        json(
            status,
            &StopResponse {
                success: true,
                uptime_ms: record.meter.uptime_ms(self.now()),
                state: agent.state,
                data_kept_until: agent.data_kept_until,
                data_bytes: agent.data_bytes,
            },
        )
    }
}
