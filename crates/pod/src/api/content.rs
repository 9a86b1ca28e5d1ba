//! The calls of `wire::content`: the files of a disk, as a tree of their own.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use domain::ContentCall;
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use wire::content::{ContentError, ContentQuery, VolumeEntryChange};
use wire::fault::Code;
use wire::filesystem::FilesError;

use super::files::{FilesFailure, LINGER, PIECES, respond, send};
use crate::agent::Pod;
use crate::files::{FileError, FileMode, FileTree, FileWorkers, NewEntry};

/// Bytes of a change of an entry.
const MAX_CHANGE: usize = 4096;
/// Levels that are listed where nothing is said.
const DEPTH: u32 = 1;
/// Files that a helper reads and writes at once.
const MAX_STREAMS: usize = 16;

/// A [`ContentError`] on its way out.
#[derive(Debug)]
struct ContentFailure(StatusCode, ContentError);

type ContentResult<T> = Result<T, ContentFailure>;

impl ContentFailure {
    fn new(code: Code, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self(status, ContentError { code: code.as_str().to_owned(), message: message.into() })
    }
}

impl From<FileError> for ContentFailure {
    fn from(error: FileError) -> Self {
        let exists = matches!(error, FileError::Exists(_));
        let FilesError { code, message } = error.into();
        let name = match code {
            400 | 408 => Code::InvalidRequest.as_str(),
            403 => "forbidden",
            404 => Code::NotFound.as_str(),
            409 if exists => "already_exists",
            409 => Code::WrongState.as_str(),
            429 => Code::RateLimited.as_str(),
            507 => "no_space",
            _ => Code::Internal.as_str(),
        };
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self(status, ContentError { code: name.to_owned(), message })
    }
}

impl From<FilesFailure> for ContentFailure {
    fn from(FilesFailure(FilesError { code, message }): FilesFailure) -> Self {
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let name = if status.is_client_error() { Code::InvalidRequest } else { Code::Internal };
        Self(status, ContentError { code: name.as_str().to_owned(), message })
    }
}

impl IntoResponse for ContentFailure {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

/// The files of a helper's disk, and how many of them are read and written at once.
#[derive(Clone, Debug)]
pub(crate) struct HelperFiles {
    tree: FileTree,
    streams: Arc<Semaphore>,
}

impl HelperFiles {
    /// Those under this folder.
    pub(crate) fn new(root: &str) -> Self {
        Self { tree: FileTree::new(root, FileWorkers::default()), streams: Arc::new(Semaphore::new(MAX_STREAMS)) }
    }

    /// `/v1/content/{call}` of a helper.
    pub(super) async fn answer(
        self,
        call: &str,
        query: Result<Query<ContentQuery>, QueryRejection>,
        request: Request,
    ) -> Response {
        let permit = || Arc::clone(&self.streams).try_acquire_owned().ok();
        answer(&self.tree, permit, call, query, request).await
    }
}

/// `/v1/volumes/{name}/{call}` of a guest: of a volume that is mounted in it.
pub(super) async fn volume(
    State(pod): State<Pod>,
    Path((name, call)): Path<(String, String)>,
    query: Result<Query<ContentQuery>, QueryRejection>,
    request: Request,
) -> Response {
    let plan = pod.plan();
    let volume = plan.as_ref().and_then(|plan| plan.volumes.iter().find(|volume| volume.name.as_str() == name));
    let Some(volume) = volume else {
        return ContentFailure::new(Code::NoVolume, "the guest has no such volume").into_response();
    };
    let tree = FileTree::new(volume.path.as_str(), pod.files().clone());
    answer(&tree, || pod.stream_permit(), &call, query, request).await
}

async fn answer(
    tree: &FileTree,
    permit: impl Fn() -> Option<OwnedSemaphorePermit>,
    call: &str,
    query: Result<Query<ContentQuery>, QueryRejection>,
    request: Request,
) -> Response {
    let answered = match (ContentCall::of(call), query) {
        (None, _) => Err(ContentFailure::new(Code::NotFound, "there is no such path")),
        (_, Err(error)) => Err(ContentFailure::new(Code::InvalidRequest, error.body_text())),
        (Some(call), Ok(Query(query))) => dispatch(tree, permit, call, query, request).await,
    };
    answered.unwrap_or_else(ContentFailure::into_response)
}

async fn dispatch(
    tree: &FileTree,
    permit: impl Fn() -> Option<OwnedSemaphorePermit>,
    call: ContentCall,
    query: ContentQuery,
    request: Request,
) -> ContentResult<Response> {
    let permit =
        || permit().ok_or_else(|| ContentFailure::new(Code::RateLimited, "too many files are read and written"));
    let (head, body) = request.into_parts();
    let path = query.path.clone();
    match (call, head.method) {
        (ContentCall::Path, Method::GET) => Ok(Json(tree.stat(path).await?).into_response()),
        (ContentCall::Path, Method::PATCH) => Ok(Json(tree.change(path, change(body).await?).await?).into_response()),
        (ContentCall::Path, Method::DELETE) => {
            tree.remove(path).await?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        (ContentCall::Dir, Method::GET) => {
            let depth = query.depth.unwrap_or(DEPTH);
            Ok(Json(tree.list(path, depth).await?).into_response())
        }
        (ContentCall::Dir, Method::POST) => {
            Ok((StatusCode::CREATED, Json(tree.make_dir(path, new_entry(&query)?).await?)).into_response())
        }
        (ContentCall::File, Method::GET | Method::HEAD) => download(tree, path, &head.headers, permit()?).await,
        (ContentCall::File, Method::PUT) => upload(tree, path, new_entry(&query)?, body, permit()?).await,
        _ => Err(ContentFailure::new(Code::MethodNotAllowed, "the path has another method")),
    }
}

fn new_entry(query: &ContentQuery) -> ContentResult<NewEntry> {
    let mode = query.mode.map(FileMode::of).transpose()?;
    Ok(NewEntry { uid: query.uid, gid: query.gid, mode, force: query.force.unwrap_or(false) })
}

async fn change(body: Body) -> ContentResult<VolumeEntryChange> {
    let invalid = |said: String| ContentFailure::new(Code::InvalidRequest, said);
    let bytes: Bytes =
        to_bytes(body, MAX_CHANGE).await.map_err(|_| invalid(format!("the body has more than {MAX_CHANGE} bytes")))?;
    serde_json::from_slice(&bytes).map_err(|error| invalid(format!("the body is no change of an entry: {error}")))
}

async fn download(
    tree: &FileTree,
    path: String,
    headers: &HeaderMap,
    permit: OwnedSemaphorePermit,
) -> ContentResult<Response> {
    let download = tree.open(path.clone()).await?;
    Ok(respond(download, &path, headers, permit).await?)
}

async fn upload(
    tree: &FileTree,
    path: String,
    new: NewEntry,
    body: Body,
    permit: OwnedSemaphorePermit,
) -> ContentResult<Response> {
    let mut body = body.into_data_stream();
    let (pieces, taken) = mpsc::channel(PIECES);
    let (sent, received) = tokio::join!(send(&mut body, pieces), tree.receive(path, new, taken));
    let done = sent.map_err(ContentFailure::from).and_then(|()| Ok(received?));
    if done.is_err() {
        // A sender that is cut off in the middle of it does not read why.
        tokio::spawn(timeout(LINGER, async move { while let Some(Ok(_)) = body.next().await {} }));
    }
    drop(permit);
    Ok((StatusCode::CREATED, Json(done?)).into_response())
}
