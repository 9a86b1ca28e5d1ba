//! The calls of a disk's files: each is written once, at the paths of volumes, and answers at those of what
//! is kept of agents too ([`crate::api::kept`]).

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use domain::{ContentCall, VolumeId};
use http::Request;
use wire::content::{
    ArchiveQuery, ComposeFile, ContentError, ContentQuery, ImportedArchive, VolumeEntryChange, VolumeEntryStat,
};

use crate::api::content::{AskedDisk, ContentResult};
use crate::edge::source::RequestSource;
use crate::state::Gateway;

/// What is at a path: a link is told, not followed.
#[utoipa::path(
    get,
    operation_id = "volumeStat",
    tag = "volumes",
    path = "/volumecontent/{id}/path",
    params(("id" = VolumeId, Path, description = "The volume"), ContentQuery),
    responses(
        (status = 200, description = "What is there", body = VolumeEntryStat),
        (status = "default", description = "What is wrong, by `code`", body = ContentError),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []), ("content" = []), ("bearer" = []), ("api_key" = []))
)]
pub(crate) async fn stat(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    disk: AskedDisk,
    request: Request<Body>,
) -> ContentResult {
    gateway.content(&source, disk, ContentCall::Path, request).await
}

/// Changes whose something is, or its permissions.
#[utoipa::path(
    patch,
    operation_id = "volumeChange",
    tag = "volumes",
    path = "/volumecontent/{id}/path",
    request_body = VolumeEntryChange,
    params(("id" = VolumeId, Path, description = "The volume"), ContentQuery),
    responses(
        (status = 200, description = "How it is now", body = VolumeEntryStat),
        (status = "default", description = "What is wrong, by `code`", body = ContentError),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []), ("content" = []), ("bearer" = []), ("api_key" = []))
)]
pub(crate) async fn change(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    disk: AskedDisk,
    request: Request<Body>,
) -> ContentResult {
    gateway.content(&source, disk, ContentCall::Path, request).await
}

/// Removes a file, or a folder with all in it.
#[utoipa::path(
    delete,
    operation_id = "volumeRemove",
    tag = "volumes",
    path = "/volumecontent/{id}/path",
    params(("id" = VolumeId, Path, description = "The volume"), ContentQuery),
    responses(
        (status = 204, description = "It is gone"),
        (status = "default", description = "What is wrong, by `code`", body = ContentError),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []), ("content" = []), ("bearer" = []), ("api_key" = []))
)]
pub(crate) async fn remove(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    disk: AskedDisk,
    request: Request<Body>,
) -> ContentResult {
    gateway.content(&source, disk, ContentCall::Path, request).await
}

/// What is in a folder.
#[utoipa::path(
    get,
    operation_id = "volumeList",
    tag = "volumes",
    path = "/volumecontent/{id}/dir",
    params(("id" = VolumeId, Path, description = "The volume"), ContentQuery),
    responses(
        (status = 200, description = "By name, a folder before what is in it", body = Vec<VolumeEntryStat>),
        (status = "default", description = "What is wrong, by `code`", body = ContentError),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []), ("content" = []), ("bearer" = []), ("api_key" = []))
)]
pub(crate) async fn list(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    disk: AskedDisk,
    request: Request<Body>,
) -> ContentResult {
    gateway.content(&source, disk, ContentCall::Dir, request).await
}

/// Makes a folder.
#[utoipa::path(
    post,
    operation_id = "volumeMakeDir",
    tag = "volumes",
    path = "/volumecontent/{id}/dir",
    params(("id" = VolumeId, Path, description = "The volume"), ContentQuery),
    responses(
        (status = 201, description = "It is there", body = VolumeEntryStat),
        (status = "default", description = "What is wrong, by `code`", body = ContentError),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []), ("content" = []), ("bearer" = []), ("api_key" = []))
)]
pub(crate) async fn make(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    disk: AskedDisk,
    request: Request<Body>,
) -> ContentResult {
    gateway.content(&source, disk, ContentCall::Dir, request).await
}

/// Reads a file, or the `Range` of it that is asked for.
#[utoipa::path(
    get,
    operation_id = "volumeRead",
    tag = "volumes",
    path = "/volumecontent/{id}/file",
    params(("id" = VolumeId, Path, description = "The volume"), ContentQuery),
    responses(
        (status = 200, description = "Its bytes", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "Those that were asked for", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = "default", description = "What is wrong, by `code`", body = ContentError),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []), ("content" = []), ("bearer" = []), ("api_key" = []))
)]
pub(crate) async fn read(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    disk: AskedDisk,
    request: Request<Body>,
) -> ContentResult {
    gateway.content(&source, disk, ContentCall::File, request).await
}

/// Writes a file: it is there when all of it is, on disk.
#[utoipa::path(
    put,
    operation_id = "volumeWrite",
    tag = "volumes",
    path = "/volumecontent/{id}/file",
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "Its bytes"),
    params(("id" = VolumeId, Path, description = "The volume"), ContentQuery),
    responses(
        (status = 201, description = "It is there", body = VolumeEntryStat),
        (status = "default", description = "What is wrong, by `code`", body = ContentError),
    ),
    security(("content" = []), ("bearer" = []), ("api_key" = []))
)]
pub(crate) async fn write(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    disk: AskedDisk,
    request: Request<Body>,
) -> ContentResult {
    gateway.content(&source, disk, ContentCall::File, request).await
}

/// Makes one file of several, in their order, in place of the one before; they are gone then. So a
/// large file is sent in pieces, and what broke off goes on with the next one.
#[utoipa::path(
    post,
    operation_id = "volumeCompose",
    tag = "volumes",
    path = "/volumecontent/{id}/compose",
    request_body = ComposeFile,
    params(("id" = VolumeId, Path, description = "The volume")),
    responses(
        (status = 201, description = "It is there, on disk", body = VolumeEntryStat),
        (status = "default", description = "What is wrong, by `code`", body = ContentError),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []), ("content" = []), ("bearer" = []), ("api_key" = []))
)]
pub(crate) async fn compose(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    disk: AskedDisk,
    request: Request<Body>,
) -> ContentResult {
    gateway.content(&source, disk, ContentCall::Compose, request).await
}

/// All files as one tar archive, with their names, permissions, owners, times, links, holes and extended
/// attributes. Its length and a tag are known before: `Range: bytes=N-` with `If-Range` goes on where one
/// broke off. No agent may have the disk meanwhile.
#[utoipa::path(
    get,
    operation_id = "volumeExport",
    tag = "volumes",
    path = "/volumecontent/{id}/archive",
    params(("id" = VolumeId, Path, description = "The volume")),
    responses(
        (status = 200, description = "The archive", body = Vec<u8>, content_type = "application/x-tar", headers(
            ("palatine-entries" = u64, description = "Files, folders and links in it"),
            ("palatine-left-out" = u64, description = "Devices, sockets and files of lost+found that are not in it"),
        )),
        (status = 206, description = "The rest of it", body = Vec<u8>, content_type = "application/x-tar"),
        (status = "default", description = "What is wrong, by `code`", body = ContentError),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []), ("content" = []), ("bearer" = []), ("api_key" = []))
)]
pub(crate) async fn export(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    disk: AskedDisk,
    request: Request<Body>,
) -> ContentResult {
    gateway.content(&source, disk, ContentCall::Archive, request).await
}

/// Fills an empty disk from a tar archive: all that it holds is there, on disk, or nothing. With `replace`
/// what is on the disk gives way to it, once all of it is there: there must be room for both. A device, a
/// path that leads elsewhere and whatever else no disk keeps is refused by its name.
#[utoipa::path(
    put,
    operation_id = "volumeImport",
    tag = "volumes",
    path = "/volumecontent/{id}/archive",
    request_body(content = Vec<u8>, content_type = "application/x-tar", description = "The archive"),
    params(("id" = VolumeId, Path, description = "The volume"), ArchiveQuery),
    responses(
        (status = 201, description = "It is there", body = ImportedArchive),
        (status = "default", description = "What is wrong, by `code`", body = ContentError),
    ),
    security(("content" = []), ("bearer" = []), ("api_key" = []))
)]
pub(crate) async fn import(
    State(gateway): State<Arc<Gateway>>,
    Extension(source): Extension<RequestSource>,
    disk: AskedDisk,
    request: Request<Body>,
) -> ContentResult {
    gateway.content(&source, disk, ContentCall::Archive, request).await
}
