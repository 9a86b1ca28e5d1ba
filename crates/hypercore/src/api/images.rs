//! Images that holders bring: received, made, forgotten.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::response::Response;
use domain::ImageId;
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use wire::fault::{Code, Fault};
use wire::v1::images::{ArchiveSpec, BuildLogPart, HeldImage, ImportSpec, UPLOAD_OFFSET};

use super::fault::{ApiError, json};
use super::state::Api;
use crate::streams::ConnectionPermit;
use crate::uploads::{BuildMachines, UploadError, Uploads};

/// Says that an archive is to come; the same again changes nothing.
#[utoipa::path(
    put,
    operation_id = "begin_image",
    path = "/v1/images/{id}",
    params(("id" = ImageId, Path, description = "The image")),
    request_body = ArchiveSpec,
    responses(
        (status = 200, description = "How it is", body = HeldImage),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn put(
    State(api): State<Api>,
    path: Result<Path<ImageId>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let (id, spec) = (image(path)?, read::<ArchiveSpec>(body)?);
    Ok(json(StatusCode::OK, &uploads(&api)?.begin(id, spec).await?))
}

/// Takes a piece of the archive, which begins at `Upload-Offset`. What has come stays, however
/// the request ends; whoever was at it before is ended.
#[utoipa::path(
    patch,
    operation_id = "append_image",
    path = "/v1/images/{id}",
    params(
        ("id" = ImageId, Path, description = "The image"),
        ("Upload-Offset" = u64, Header, description = "Where in the archive the body begins"),
    ),
    request_body(content = Vec<u8>, content_type = "application/partial-upload"),
    responses(
        (status = 200, description = "How it is", body = HeldImage),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn patch(
    State(api): State<Api>,
    path: Result<Path<ImageId>, PathRejection>,
    connection: Option<Extension<ConnectionPermit>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (id, offset) = (image(path)?, offset(request.headers())?);
    let uploads = uploads(&api)?;
    let permit = Arc::clone(&uploads.places).try_acquire_owned();
    let _permit = permit.map_err(|_| ApiError::new(Code::RateLimited, "too many uploads are under way"))?;
    if let Some(Extension(connection)) = connection {
        connection.free();
    }
    let body = request.into_body().into_data_stream();
    let taken = tokio::select! {
        taken = uploads.append(id, offset, body) => taken?,
        () = api.closing.cancelled() => return Err(ApiError::new(Code::ShuttingDown, "the node is going down")),
    };
    Ok(json(StatusCode::OK, &taken))
}

/// How an image or its upload is.
#[utoipa::path(
    get,
    operation_id = "held_image",
    path = "/v1/images/{id}",
    params(("id" = ImageId, Path, description = "The image")),
    responses(
        (status = 200, description = "How it is", body = HeldImage),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn get(
    State(api): State<Api>,
    path: Result<Path<ImageId>, PathRejection>,
) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &uploads(&api)?.status(image(path)?).await?))
}

/// Has an image made of an archive that is whole; asked again, says how that is.
#[utoipa::path(
    post,
    operation_id = "import_image",
    path = "/v1/images/{id}/import",
    params(("id" = ImageId, Path, description = "The image")),
    request_body = ImportSpec,
    responses(
        (status = 200, description = "How it is", body = HeldImage),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn import(
    State(api): State<Api>,
    path: Result<Path<ImageId>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let (id, spec) = (image(path)?, read::<ImportSpec>(body)?);
    let machines: Arc<dyn BuildMachines> = Arc::clone(&api.node.shared) as _;
    Ok(json(StatusCode::OK, &uploads(&api)?.import(id, spec, machines).await?))
}

/// What the build of an image has said, from this byte on: the last of it, while the node goes on.
#[utoipa::path(
    get,
    operation_id = "build_log",
    path = "/v1/images/{id}/log",
    params(
        ("id" = ImageId, Path, description = "The image"),
        ("from" = Option<u64>, Query, description = "Where to go on; by default the beginning"),
    ),
    responses(
        (status = 200, description = "What it said", body = BuildLogPart),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn log(
    State(api): State<Api>,
    path: Result<Path<ImageId>, PathRejection>,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let query = query.map_err(|_| ApiError::new(Code::InvalidRequest, "from is a count of bytes"))?;
    Ok(json(StatusCode::OK, &uploads(&api)?.log(image(path)?, query.from.unwrap_or_default())?))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogQuery {
    from: Option<u64>,
}

/// Forgets an image or its upload. Its files go once nothing runs from it, and nobody else has
/// brought the same.
#[utoipa::path(
    delete,
    operation_id = "forget_image",
    path = "/v1/images/{id}",
    params(("id" = ImageId, Path, description = "The image")),
    responses(
        (status = 204, description = "It is forgotten, or was not there"),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn delete(
    State(api): State<Api>,
    path: Result<Path<ImageId>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    uploads(&api)?.forget(image(path)?).await?;
    api.node.sweep_soon();
    Ok(StatusCode::NO_CONTENT)
}

fn uploads(api: &Api) -> Result<&Arc<Uploads>, UploadError> {
    api.node.shared.uploads.as_ref().ok_or(UploadError::NotHere)
}

fn image(path: Result<Path<ImageId>, PathRejection>) -> Result<ImageId, ApiError> {
    path.map(|Path(id)| id).map_err(|_| ApiError::new(Code::InvalidRequest, domain::ImageRefError::Id.to_string()))
}

fn offset(headers: &HeaderMap) -> Result<u64, ApiError> {
    let offset = headers.get(UPLOAD_OFFSET).and_then(|value| value.to_str().ok()?.parse().ok());
    offset.ok_or_else(|| ApiError::new(Code::InvalidRequest, "Upload-Offset is not a count of bytes"))
}

fn read<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, ApiError> {
    let body = body.map_err(|_| ApiError::new(Code::BodyTooLarge, "the body is too large"))?;
    serde_json::from_slice(&body).map_err(|error| ApiError::new(Code::InvalidRequest, error.to_string()))
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        let code = match &error {
            UploadError::NotHere | UploadError::Unknown => Code::NotFound,
            UploadError::Other | UploadError::Importing | UploadError::Superseded | UploadError::Missing { .. } => {
                Code::WrongState
            }
            UploadError::Offset(_) => Code::UploadOffset,
            UploadError::TooLong { .. } => Code::BodyTooLarge,
            UploadError::Broken | UploadError::Containerfile | UploadError::Date => Code::InvalidRequest,
            UploadError::NoBuilds | UploadError::NoBuildMachines | UploadError::NoBuildPrograms(_) => {
                Code::ImageRefused
            }
            UploadError::QueueFull(_) => Code::RateLimited,
            UploadError::NoRoom | UploadError::TooMany | UploadError::NoMachineRoom => Code::NoCapacity,
            UploadError::Disk(_) | UploadError::Images(_) | UploadError::Machine(_) => {
                return Self::internal(&error, "the node cannot work on the upload");
            }
        };
        Self::new(code, error.to_string())
    }
}
