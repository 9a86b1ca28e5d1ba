//! Volumes: made, shown, grown, erased.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::response::Response;
use domain::{VolumeId, VolumeIdError};
use http::StatusCode;
use tracing::Instrument as _;
use wire::fault::{Code, Fault};
use wire::v1::node::{NodeVolume, NodeVolumes, VolumeSpec};

use super::fault::{ApiError, json};
use super::state::Api;
use crate::node::VolumeError;

/// Makes a volume, or finds it; one that is smaller is grown.
#[utoipa::path(
    put,
    path = "/v1/volumes/{id}",
    operation_id = "put_volume",
    params(("id" = VolumeId, Path, description = "The volume")),
    request_body = VolumeSpec,
    responses(
        (status = 201, description = "It is made", body = NodeVolume),
        (status = 200, description = "It was there, and has that size now", body = NodeVolume),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn put(
    State(api): State<Api>,
    path: Result<Path<VolumeId>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let id = id(path)?;
    let body = body.map_err(|_| ApiError::new(Code::BodyTooLarge, "the spec is too large"))?;
    let spec: VolumeSpec = serde_json::from_slice(&body)
        .map_err(|error| ApiError::new(Code::InvalidRequest, format!("the body is not a volume's spec: {error}")))?;
    let node = Arc::clone(&api.node);
    let (volume, is_new) = to_its_end(async move { node.make_volume(id, spec).await }).await?;
    Ok(json(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &volume))
}

/// All volumes.
#[utoipa::path(
    get,
    path = "/v1/volumes",
    operation_id = "list_volumes",
    responses(
        (status = 200, description = "In the order of their ids", body = NodeVolumes),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn list(State(api): State<Api>) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &api.node.volumes().await?))
}

/// One volume.
#[utoipa::path(
    get,
    path = "/v1/volumes/{id}",
    operation_id = "get_volume",
    params(("id" = VolumeId, Path, description = "The volume")),
    responses(
        (status = 200, description = "How it is", body = NodeVolume),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn get(
    State(api): State<Api>,
    path: Result<Path<VolumeId>, PathRejection>,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &api.node.volume(id(path)?).await?))
}

/// Erases a volume that no sandbox has.
#[utoipa::path(
    delete,
    path = "/v1/volumes/{id}",
    operation_id = "delete_volume",
    params(("id" = VolumeId, Path, description = "The volume")),
    responses(
        (status = 204, description = "It is gone"),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn delete(
    State(api): State<Api>,
    path: Result<Path<VolumeId>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let (node, id) = (Arc::clone(&api.node), id(path)?);
    to_its_end(async move { node.erase_volume(id).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Work on a volume is done to its end, whether or not whoever asked for it waits: nobody else
/// begins any meanwhile.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, VolumeError>> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::spawn(work.in_current_span()).await;
    Ok(done.map_err(|error| ApiError::internal(&error, "the volume could not be worked on"))??)
}

fn id(path: Result<Path<VolumeId>, PathRejection>) -> Result<VolumeId, ApiError> {
    path.map(|Path(id)| id).map_err(|_| ApiError::new(Code::InvalidRequest, VolumeIdError.to_string()))
}
