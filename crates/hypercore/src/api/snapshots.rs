//! Snapshots of volumes: made, put back, listed, erased.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::response::Response;
use domain::{SnapshotId, SnapshotIdError};
use http::StatusCode;
use serde::de::DeserializeOwned;
use wire::fault::{Code, Fault};
use wire::v1::node::{CopyState, NodeRestore, NodeSnapshot, NodeSnapshots, RestoreSpec, SnapshotSpec};

use super::fault::{ApiError, json};
use super::state::Api;

/// Has a volume copied that no sandbox has, or finds the copy.
#[utoipa::path(
    put,
    path = "/v1/snapshots/{id}",
    operation_id = "put_snapshot",
    params(("id" = SnapshotId, Path, description = "The snapshot")),
    request_body = SnapshotSpec,
    responses(
        (status = 200, description = "It is there", body = NodeSnapshot),
        (status = 202, description = "It is made; ask again", body = NodeSnapshot),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn put(
    State(api): State<Api>,
    path: Result<Path<SnapshotId>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let snapshot = api.node.make_snapshot(id(path)?, spec(body)?).await?;
    Ok(json(status(snapshot.state), &snapshot))
}

/// Has a volume that no sandbox has put back to what the snapshot holds.
#[utoipa::path(
    post,
    path = "/v1/snapshots/{id}/restore",
    operation_id = "restore_snapshot",
    params(("id" = SnapshotId, Path, description = "The snapshot")),
    request_body = RestoreSpec,
    responses(
        (status = 200, description = "It is done, now or before", body = NodeRestore),
        (status = 202, description = "It is being done; ask again", body = NodeRestore),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn restore(
    State(api): State<Api>,
    path: Result<Path<SnapshotId>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let restored = api.node.restore(id(path)?, spec(body)?).await?;
    Ok(json(status(restored.state), &restored))
}

/// All snapshots that are whole.
#[utoipa::path(
    get,
    path = "/v1/snapshots",
    operation_id = "list_snapshots",
    responses(
        (status = 200, description = "In the order of their ids", body = NodeSnapshots),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn list(State(api): State<Api>) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &api.node.all_snapshots().await?))
}

/// Erases a snapshot.
#[utoipa::path(
    delete,
    path = "/v1/snapshots/{id}",
    operation_id = "delete_snapshot",
    params(("id" = SnapshotId, Path, description = "The snapshot")),
    responses(
        (status = 204, description = "It is gone"),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn delete(
    State(api): State<Api>,
    path: Result<Path<SnapshotId>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    api.node.erase_snapshot(id(path)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

const fn status(state: CopyState) -> StatusCode {
    match state {
        CopyState::Done => StatusCode::OK,
        CopyState::Copying => StatusCode::ACCEPTED,
    }
}

fn id(path: Result<Path<SnapshotId>, PathRejection>) -> Result<SnapshotId, ApiError> {
    path.map(|Path(id)| id).map_err(|_| ApiError::new(Code::InvalidRequest, SnapshotIdError.to_string()))
}

fn spec<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, ApiError> {
    let body = body.map_err(|_| ApiError::new(Code::BodyTooLarge, "the spec is too large"))?;
    serde_json::from_slice(&body).map_err(|error| ApiError::new(Code::InvalidRequest, format!("the body: {error}")))
}
