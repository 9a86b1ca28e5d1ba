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
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use wire::content::{ArchiveQuery, ComposeFile, ContentError, ContentQuery, VolumeEntryChange};
use wire::fault::Code;
use wire::filesystem::FilesError;

use super::export;
use super::files::{FilesFailure, LINGER, PIECES, respond, send};
use crate::agent::Pod;
use crate::files::{FileError, FileMode, FileTree, FileWorkers, ImportRequest, NewEntry, Piece};

/// Bytes of a change of an entry.
const MAX_CHANGE: usize = 4096;
/// Bytes of the list of what becomes one file.
const MAX_LIST: usize = 4 * 1024 * 1024;
/// Files that become one.
const MAX_SOURCES: usize = 10_000;
/// Bytes of the name of an archive that is taken in.
const MAX_NAME: usize = 64;
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
        let exists = matches!(error, FileError::Exists(_) | FileError::NotEmpty(_));
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
    /// Held by whoever takes an archive in.
    importing: Arc<Semaphore>,
}

impl HelperFiles {
    /// Those under this folder.
    pub(crate) fn new(root: &str) -> Self {
        let streams = Arc::new(Semaphore::new(MAX_STREAMS));
        Self { tree: FileTree::new(root, FileWorkers::default()), streams, importing: Arc::new(Semaphore::new(1)) }
    }

    /// `/v1/content/{call}` of a helper.
    pub(super) async fn answer(self, call: &str, is_read_only: bool, request: Request) -> Response {
        if is_read_only && !matches!(*request.method(), Method::GET | Method::HEAD) {
            let said = "what is kept is a container's, which no machine writes to: start the agent, and change its files \
                        through it";
            return ContentFailure::new(Code::WrongState, said).into_response();
        }
        let permit = || Arc::clone(&self.streams).try_acquire_owned().ok();
        match ContentCall::of(call) {
            Some(ContentCall::Archive) => {
                self.archive(permit(), request).await.unwrap_or_else(ContentFailure::into_response)
            }
            _ => answer(&self.tree, permit, call, request).await,
        }
    }

    /// All files at once. Nothing else answers for that: in a helper nobody changes them meanwhile.
    async fn archive(&self, permit: Option<OwnedSemaphorePermit>, request: Request) -> ContentResult<Response> {
        let permit = permit.ok_or_else(busy)?;
        match *request.method() {
            Method::GET | Method::HEAD => {
                let plan = self.tree.plan_archive().await?;
                Ok(export::respond(&self.tree, plan, request.headers(), permit)?)
            }
            Method::PUT => {
                let turn = Arc::clone(&self.importing).try_acquire_owned().map_err(|_| FileError::Importing)?;
                let query: ArchiveQuery = query(&request)?;
                import(&self.tree, query, request.into_body(), (permit, turn)).await
            }
            _ => Err(wrong_method()),
        }
    }
}

fn busy() -> ContentFailure {
    ContentFailure::new(Code::RateLimited, "too many files are read and written")
}

fn wrong_method() -> ContentFailure {
    ContentFailure::new(Code::MethodNotAllowed, "the path has another method")
}

fn query<T: DeserializeOwned>(request: &Request) -> ContentResult<T> {
    let read = Query::try_from_uri(request.uri());
    read.map(|Query(query)| query)
        .map_err(|error: QueryRejection| ContentFailure::new(Code::InvalidRequest, error.body_text()))
}

async fn import(
    tree: &FileTree,
    query: ArchiveQuery,
    body: Body,
    (permit, turn): (OwnedSemaphorePermit, OwnedSemaphorePermit),
) -> ContentResult<Response> {
    let name = query.import.unwrap_or_default();
    if name.len() > MAX_NAME || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        let said = format!("import must be at most {MAX_NAME} letters and digits");
        return Err(ContentFailure::new(Code::InvalidRequest, said));
    }
    let request = ImportRequest { name, replace: query.replace.unwrap_or(false) };
    let done = taken(body, |pieces| tree.receive_archive(request, turn, pieces)).await;
    drop(permit);
    Ok((StatusCode::CREATED, Json(done?)).into_response())
}

/// Takes a body in. The rest of one that is refused is read for a while: a sender that is cut off in
/// the middle of it does not read why.
async fn taken<T, F>(body: Body, take: impl FnOnce(mpsc::Receiver<Piece>) -> F) -> ContentResult<T>
where
    F: Future<Output = Result<T, FileError>>,
{
    let mut body = body.into_data_stream();
    let (pieces, taken) = mpsc::channel(PIECES);
    let (sent, received) = tokio::join!(send(&mut body, pieces), take(taken));
    let done = sent.map_err(ContentFailure::from).and_then(|()| Ok(received?));
    if done.is_err() {
        tokio::spawn(timeout(LINGER, async move { while let Some(Ok(_)) = body.next().await {} }));
    }
    done
}

/// `/v1/volumes/{name}/{call}` of a guest: of a volume that is mounted in it.
pub(super) async fn volume(
    State(pod): State<Pod>,
    Path((name, call)): Path<(String, String)>,
    request: Request,
) -> Response {
    let plan = pod.plan();
    let volume = plan.as_ref().and_then(|plan| plan.volumes.iter().find(|volume| volume.name.as_str() == name));
    let Some(volume) = volume else {
        return ContentFailure::new(Code::NoVolume, "the guest has no such volume").into_response();
    };
    let tree = FileTree::new(volume.path.as_str(), pod.files().clone());
    answer(&tree, || pod.stream_permit(), &call, request).await
}

async fn answer(
    tree: &FileTree,
    permit: impl Fn() -> Option<OwnedSemaphorePermit>,
    call: &str,
    request: Request,
) -> Response {
    let answered = match ContentCall::of(call) {
        Some(ContentCall::Compose) => compose(tree, permit, request).await,
        Some(ContentCall::Archive) => {
            let said = "a disk's files are made one archive while no agent runs that has it: stop the agent";
            Err(ContentFailure::new(Code::WrongState, said))
        }
        Some(call @ (ContentCall::Path | ContentCall::Dir | ContentCall::File)) => {
            dispatch(tree, permit, call, request).await
        }
        None => Err(ContentFailure::new(Code::NotFound, "there is no such path")),
    };
    answered.unwrap_or_else(ContentFailure::into_response)
}

async fn dispatch(
    tree: &FileTree,
    permit: impl Fn() -> Option<OwnedSemaphorePermit>,
    call: ContentCall,
    request: Request,
) -> ContentResult<Response> {
    let query: ContentQuery = query(&request)?;
    let permit = || permit().ok_or_else(busy);
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
        _ => Err(wrong_method()),
    }
}

/// `POST compose`.
async fn compose(
    tree: &FileTree,
    permit: impl Fn() -> Option<OwnedSemaphorePermit>,
    request: Request,
) -> ContentResult<Response> {
    if request.method() != Method::POST {
        return Err(wrong_method());
    }
    let permit = permit().ok_or_else(busy)?;
    let ComposeFile { sources, path, mode } = json(request.into_body(), MAX_LIST, "list of files").await?;
    if sources.is_empty() || sources.len() > MAX_SOURCES {
        let said = format!("sources must name 1 to {MAX_SOURCES} files");
        return Err(ContentFailure::new(Code::InvalidRequest, said));
    }
    let mode = mode.map(FileMode::of).transpose()?;
    let composed = tree.compose(sources, path, mode).await;
    drop(permit);
    Ok((StatusCode::CREATED, Json(composed?)).into_response())
}

fn new_entry(query: &ContentQuery) -> ContentResult<NewEntry> {
    let mode = query.mode.map(FileMode::of).transpose()?;
    Ok(NewEntry { uid: query.uid, gid: query.gid, mode, force: query.force.unwrap_or(false) })
}

async fn change(body: Body) -> ContentResult<VolumeEntryChange> {
    json(body, MAX_CHANGE, "change of an entry").await
}

async fn json<T: DeserializeOwned>(body: Body, most: usize, what: &str) -> ContentResult<T> {
    let invalid = |said: String| ContentFailure::new(Code::InvalidRequest, said);
    let bytes: Bytes =
        to_bytes(body, most).await.map_err(|_| invalid(format!("the body has more than {most} bytes")))?;
    serde_json::from_slice(&bytes).map_err(|error| invalid(format!("the body is no {what}: {error}")))
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
    let done = taken(body, |pieces| tree.receive(path, new, pieces)).await;
    drop(permit);
    Ok((StatusCode::CREATED, Json(done?)).into_response())
}
