//! `GET /agents/{id}/token`: what opens one's own agent, again. By one signature a holder may
//! make as many calls as it likes: commands, files, and connections to any port.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use domain::{PodId, State as RunState};
use http::{Response, StatusCode};
use wire::Secret;
use wire::fault::{Code, Fault};
use wire::v1::public::TokenResponse;

use crate::api::extract::{PodPath, json};
use crate::auth::caller::Holder;
use crate::error::ApiError;
use crate::state::Gateway;

/// Shows the token of one's own agent again. No API key opens this: a token would outlive it,
/// and a key opens the agent by itself.
#[utoipa::path(
    get,
    operation_id = "agentToken",
    tag = "agents",
    path = "/agents/{id}/token",
    params(("id" = PodId, Path, description = "The agent")),
    responses(
        (status = 200, description = "Its token", body = TokenResponse),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []))
)]
pub(crate) async fn token(
    State(gateway): State<Arc<Gateway>>,
    PodPath(id): PodPath,
    holder: Holder,
) -> Result<Response<Body>, ApiError> {
    let record = gateway.owned(id, holder.wallet).await?;
    match record.state {
        RunState::Reserved | RunState::Placed | RunState::Booting | RunState::Ready | RunState::Waiting(_) => {}
        RunState::Stopping(_) | RunState::Stopped(_) | RunState::Failed(_) => {
            let said = "the agent does not run, and nothing opens it; it has another token once it is started again";
            return Err(ApiError::new(Code::WrongState, said));
        }
    }
    let token = Secret(gateway.parts.tokens.token(record.id));
    json(StatusCode::OK, &TokenResponse { token, run: record.id })
}
