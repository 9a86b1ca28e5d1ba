//! `POST /agents/{id}/timeout`: how long an agent that runs has to live.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use control::LifetimeError;
use domain::PodId;
use http::{Response, StatusCode};
use store::RunExpiry;
use wire::fault::{Code, Fault};
use wire::v1::public::{TimeoutRequest, TimeoutResponse};

use crate::api::extract::{PodPath, json, parse_json};
use crate::auth::caller::RunningHolder;
use crate::error::ApiError;
use crate::state::Gateway;

/// Gives an agent that runs a time to live, from now on, in the place of the one it had; or
/// takes it away. When it is over the agent is stopped as by `POST /stop/{id}`: its data is
/// kept, and an ephemeral agent is removed.
#[utoipa::path(
    post,
    operation_id = "setTimeout",
    tag = "agents",
    path = "/agents/{id}/timeout",
    params(("id" = PodId, Path, description = "The agent")),
    request_body = TimeoutRequest,
    responses(
        (status = 200, description = "When it is stopped", body = TimeoutResponse),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("bearer" = []),
        ("api_key" = [])
    )
)]
pub(crate) async fn set(
    State(gateway): State<Arc<Gateway>>,
    PodPath(id): PodPath,
    RunningHolder(holder): RunningHolder,
) -> Result<Response<Body>, ApiError> {
    let TimeoutRequest { timeout_seconds } = parse_json(&holder.body)?;
    let record = gateway.owned(id, holder.wallet).await?;
    let set = gateway.parts.control.set_lifetime(record.id, timeout_seconds).await.map_err(refused)?;
    let Some(record) = set else {
        let said = "the agent does not run: start it again, with timeout_seconds if it is to end by itself";
        return Err(ApiError::new(Code::WrongState, said));
    };
    json(StatusCode::OK, &TimeoutResponse { success: true, expires_at: record.expiry.map(|expiry| expiry.at) })
}

impl Gateway {
    /// When a run that is asked for now is stopped, if that is asked for too.
    pub(crate) async fn expiry(&self, timeout_seconds: Option<u64>) -> Result<Option<RunExpiry>, ApiError> {
        match timeout_seconds {
            Some(seconds) => self.parts.control.expiry(seconds).await.map(Some).map_err(refused),
            None => Ok(None),
        }
    }
}

fn refused(error: LifetimeError) -> ApiError {
    match error {
        LifetimeError::OutOfBounds { most, asked } => {
            let said = format!("timeout_seconds must be from 1 to {most}, not {asked}");
            Fault::new(Code::InvalidRequest, said).field("timeout_seconds").into()
        }
        LifetimeError::Store(error) => error.into(),
    }
}
