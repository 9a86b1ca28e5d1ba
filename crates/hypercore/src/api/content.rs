//! The files of disks, in the shapes of E2B's volume-content API: passed to the run that has the
//! disk, or to a helper. What is wrong is said in that API's form, whoever says it.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use domain::{ContentCall, OwnedDisk, PodId, RunId, VolumeId};
use http::{Method, StatusCode};
use sandbox::Runtime;
use serde::Deserialize;
use tokio::time::timeout;
use wire::content::{ContentError, ContentQuery, HOLDER, VolumeEntryStat};
use wire::fault::{Code, Fault};
use wire::v1::pod::PORT;

use super::fault::ApiError;
use super::process::{BEGIN, BEGIN_AFTER_UPLOAD, pass, pass_over};
use super::state::Api;
use crate::guest::{PodConnection, PodError};
use crate::helpers::HelperError;
use crate::node::ContentServer;
use crate::streams::ConnectionPermit;

/// How long a helper may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Bytes of the name of a holder that are read.
const MAX_HOLDER: usize = 64;

/// `/v1/volumes/{id}/content/{call}`.
#[derive(Deserialize)]
pub(crate) struct VolumePath {
    id: VolumeId,
    call: String,
}

/// `/v1/pods/{pod}/data/{call}`.
#[derive(Deserialize)]
pub(crate) struct DataPath {
    pod: PodId,
    call: String,
}

/// The files of a volume: those of the guest that has it, or of a helper's. `PATCH` and `DELETE` of
/// `path`, `POST` of `dir` and `compose`, `PUT` of `file` and `archive` change them.
#[utoipa::path(
    get,
    operation_id = "volume_content",
    path = "/v1/volumes/{id}/content/{call}",
    params(
        ("id" = VolumeId, Path, description = "The volume"),
        ("call" = String, Path, description = "path, dir, file, compose, archive"),
        ("palatine-holder" = Option<String>, Header, description = "For whom it is read and written"),
        ContentQuery,
    ),
    responses(
        (status = 200, description = "What the disk's guest answers, as it comes", body = VolumeEntryStat),
        (status = "default", description = "What is wrong, by `code`", body = ContentError),
    )
)]
pub(crate) async fn volume(
    State(api): State<Api>,
    path: Result<Path<VolumePath>, PathRejection>,
    request: Request,
) -> Response {
    let path = path.map(|Path(VolumePath { id, call })| (OwnedDisk::Volume(id), call));
    answer(&api, path, request).await
}

/// The files of what is kept of a POD that does not run.
#[utoipa::path(
    get,
    operation_id = "data_content",
    path = "/v1/pods/{pod}/data/{call}",
    params(
        ("pod" = PodId, Path, description = "The POD"),
        ("call" = String, Path, description = "path, dir, file, compose, archive"),
        ("palatine-holder" = Option<String>, Header, description = "For whom it is read and written"),
        ContentQuery,
    ),
    responses(
        (status = 200, description = "What a helper answers, as it comes", body = VolumeEntryStat),
        (status = "default", description = "What is wrong, by `code`", body = ContentError),
    )
)]
pub(crate) async fn data(
    State(api): State<Api>,
    path: Result<Path<DataPath>, PathRejection>,
    request: Request,
) -> Response {
    let path = path.map(|Path(DataPath { pod, call })| (OwnedDisk::Data(pod), call));
    answer(&api, path, request).await
}

async fn answer(api: &Api, path: Result<(OwnedDisk, String), PathRejection>, request: Request) -> Response {
    let answered = match path {
        Ok((disk, call)) => match ContentCall::of(&call) {
            Some(call) => serve(api, disk, call, request).await,
            None => Err(ApiError::new(Code::NotFound, "there is no such path")),
        },
        Err(_) => Err(ApiError::new(Code::InvalidRequest, "the path names no disk")),
    };
    answered.unwrap_or_else(|error| said(error.into_fault()))
}

fn said(fault: Fault) -> Response {
    metrics::counter!("hypercore_refusals_total", "code" => fault.code.as_str()).increment(1);
    let status = StatusCode::from_u16(fault.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(ContentError { code: fault.code.as_str().to_owned(), message: fault.error })).into_response()
}

async fn serve(api: &Api, disk: OwnedDisk, call: ContentCall, request: Request) -> Result<Response, ApiError> {
    let holder = request.headers().get(HOLDER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let holder: String = holder.chars().take(MAX_HOLDER).collect();
    let server = api.node.content_server(disk, &holder).await?;
    let target = server.target(call, request.uri().query());
    let begin = match request.method() == Method::PUT || call == ContentCall::Compose {
        true => BEGIN_AFTER_UPLOAD,
        false => BEGIN,
    };
    match server {
        ContentServer::Run(id, _) => pass(api, id, &target, begin, request).await,
        ContentServer::Helper(place) => {
            if let Some(connection) = request.extensions().get::<ConnectionPermit>() {
                connection.free();
            }
            let line = reach(&*api.node.shared.runtime, place.id()).await;
            let line = line.map_err(|error| ApiError::unreachable(&error))?;
            let gone = place.gone();
            pass_over(api, line, None, &target, begin, request, (place, gone)).await
        }
    }
}

async fn reach(runtime: &dyn Runtime, id: RunId) -> Result<PodConnection<axum::body::Body>, PodError> {
    let link = timeout(CONNECT, runtime.connect(id, PORT)).await;
    PodConnection::over(link.map_err(|_| PodError::Late(CONNECT))?.map_err(PodError::Unreachable)?).await
}

impl From<HelperError> for ApiError {
    fn from(error: HelperError) -> Self {
        let plain = |code| Self::new(code, error.to_string());
        match &error {
            HelperError::NoMachines | HelperError::Checking(_) | HelperError::Starting => plain(Code::NodeUnavailable),
            HelperError::NoVolume(_) => plain(Code::NoVolume),
            HelperError::NoData(_) => plain(Code::NoData),
            HelperError::Quarantined(_) | HelperError::Damaged(_) => plain(Code::WrongState),
            HelperError::Attached(_) => plain(Code::PodRunning),
            HelperError::Taken | HelperError::Copied(_) => plain(Code::VolumeAttached),
            HelperError::HolderFull | HelperError::Busy => plain(Code::RateLimited),
            HelperError::Full(_) | HelperError::DiskFull => plain(Code::NoCapacity),
            HelperError::Closing => plain(Code::ShuttingDown),
            HelperError::Start(_) | HelperError::Died(_) => {
                Self::internal(&error, "the disk's files cannot be reached just now")
            }
            HelperError::Look(_) => Self::internal(&error, "the disk cannot be looked at"),
        }
    }
}
