//! What is kept of PODs that do not run.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use domain::PodId;
use http::StatusCode;
use wire::fault::{Code, Fault};

use super::fault::ApiError;
use super::state::Api;

/// Erases what is kept of a POD.
#[utoipa::path(
    delete,
    path = "/v1/pods/{pod}/data",
    params(("pod" = PodId, Path, description = "The POD")),
    responses(
        (status = 204, description = "Nothing is kept of it"),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn erase(
    State(api): State<Api>,
    path: Result<Path<PodId>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let Path(pod) = path.map_err(|_| ApiError::new(Code::InvalidRequest, "the path names no POD"))?;
    api.node.erase_data(pod).await?;
    Ok(StatusCode::NO_CONTENT)
}
