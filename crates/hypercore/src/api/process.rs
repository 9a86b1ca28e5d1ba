//! Commands and files in a guest: passed to `pod` with the node's own credential.

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use domain::RunId;
use futures_util::{StreamExt, stream};
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, COOKIE, HOST, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method};
use wire::Secret;
use wire::fault::{Code, Fault};
use wire::v1::node::SandboxPhase;

use super::fault::ApiError;
use super::state::{Api, id};
use crate::guest::{PodClient, PodConnection};
use crate::task::SandboxHandle;

/// How long `pod` may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// How long it may take to begin its answer. It has deadlines of its own, which its
/// callers may set; this one is for a guest that has none.
pub(super) const BEGIN: Duration = Duration::from_secs(600);
/// How long it may take to begin its answer to an upload, which it does when it has all of
/// it. One that stands still ends much sooner, by `pod` and by whoever sends it.
pub(super) const BEGIN_AFTER_UPLOAD: Duration = Duration::from_hours(24);
/// Headers that end at each hop, or are not the guest's business.
const DROPPED: [HeaderName; 8] = [CONNECTION, COOKIE, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, ACCEPT_ENCODING];
/// How the node shows its credential to `pod`: the other way names the user for whom a
/// call works.
const ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-access-token");

/// One call of the process protocol, streamed both ways.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/pod/process.Process/{method}",
    params(
        ("id" = RunId, Path, description = "The agent"),
        ("method" = String, Path, description = "Start, Connect, List, SendInput, StreamInput, CloseStdin, SendSignal, Update"),
    ),
    responses(
        (status = 200, description = "What pod answers, as it comes"),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn process(
    State(api): State<Api>,
    path: Result<Path<(RunId, String)>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    call(&api, path, "process.Process", request).await
}

/// One call of the protocol of files.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/pod/filesystem.Filesystem/{method}",
    params(
        ("id" = RunId, Path, description = "The agent"),
        ("method" = String, Path, description = "Stat, MakeDir, Move, ListDir, Remove, WatchDir, CreateWatcher, GetWatcherEvents, RemoveWatcher"),
    ),
    responses(
        (status = 200, description = "What pod answers, as it comes"),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn filesystem(
    State(api): State<Api>,
    path: Result<Path<(RunId, String)>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    call(&api, path, "filesystem.Filesystem", request).await
}

/// A file's bytes, out of the guest.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}/pod/files",
    params(
        ("id" = RunId, Path, description = "The agent"),
        ("path" = Option<String>, Query, description = "Which file"),
        ("username" = Option<String>, Query, description = "Who reads it"),
    ),
    responses(
        (status = 200, description = "What pod answers, as it comes"),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn download(
    State(api): State<Api>,
    path: Result<Path<RunId>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    files(&api, path, "/files", request).await
}

/// A file's bytes, into the guest.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/pod/files",
    params(
        ("id" = RunId, Path, description = "The agent"),
        ("path" = Option<String>, Query, description = "Which file"),
        ("username" = Option<String>, Query, description = "Whose it is"),
    ),
    responses(
        (status = 200, description = "What pod answers"),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn upload(
    State(api): State<Api>,
    path: Result<Path<RunId>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    files(&api, path, "/files", request).await
}

/// One file out of several pieces.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/pod/files/compose",
    params(("id" = RunId, Path, description = "The agent")),
    responses(
        (status = 200, description = "What pod answers"),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn compose(
    State(api): State<Api>,
    path: Result<Path<RunId>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    files(&api, path, "/files/compose", request).await
}

/// The environment of the agent.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}/pod/envs",
    params(("id" = RunId, Path, description = "The agent")),
    responses(
        (status = 200, description = "What pod answers"),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn envs(
    State(api): State<Api>,
    path: Result<Path<RunId>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    pass(&api, id(path)?, "/envs", BEGIN, request).await
}

/// What the guest uses.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}/pod/usage",
    params(("id" = RunId, Path, description = "The agent")),
    responses(
        (status = 200, description = "What pod answers"),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn usage(
    State(api): State<Api>,
    path: Result<Path<RunId>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    pass(&api, id(path)?, "/usage", BEGIN, request).await
}

/// Whether `pod` answers.
#[utoipa::path(
    get,
    operation_id = "pod_health",
    path = "/v1/sandboxes/{id}/pod/health",
    params(("id" = RunId, Path, description = "The agent")),
    responses(
        (status = 204, description = "It does"),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    )
)]
pub(crate) async fn health(
    State(api): State<Api>,
    path: Result<Path<RunId>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    pass(&api, id(path)?, "/health", BEGIN, request).await
}

async fn call(
    api: &Api,
    path: Result<Path<(RunId, String)>, PathRejection>,
    service: &str,
    request: Request,
) -> Result<Response, ApiError> {
    let (path, method) = match path {
        Ok(Path((id, method))) => (Ok(Path(id)), method),
        Err(error) => (Err(error), String::new()),
    };
    let id = id(path)?;
    if !method.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(ApiError::new(Code::NotFound, "there is no such call"));
    }
    pass(api, id, &format!("/{service}/{method}"), BEGIN, request).await
}

/// The query says which file: it goes on as it is.
async fn files(
    api: &Api,
    path: Result<Path<RunId>, PathRejection>,
    target: &str,
    request: Request,
) -> Result<Response, ApiError> {
    let target = request.uri().query().map_or_else(|| target.to_owned(), |query| format!("{target}?{query}"));
    let begin = if request.method() == Method::POST { BEGIN_AFTER_UPLOAD } else { BEGIN };
    pass(api, id(path)?, &target, begin, request).await
}

/// Passes a request to a sandbox's `pod`, and its answer back as it comes.
pub(super) async fn pass(
    api: &Api,
    id: RunId,
    target: &str,
    begin: Duration,
    request: Request,
) -> Result<Response, ApiError> {
    let handle = api.sandbox(id)?;
    let permit = handle.streams.call(request.extensions().get());
    let permit = permit.ok_or_else(|| ApiError::new(Code::RateLimited, "too many calls of the agent are open"))?;
    let gone = handle.guest_gone();
    let (line, pod) = reach(&handle).await?;
    pass_over(api, line, Some(pod.token()), target, begin, request, (permit, gone)).await
}

/// The same over a connection that is open. `held` is given back with the end of the answer, which breaks off when
/// `gone` comes: the guest has ended.
pub(super) async fn pass_over(
    api: &Api,
    mut line: PodConnection<Body>,
    token: Option<&Secret>,
    target: &str,
    begin: Duration,
    request: Request,
    (held, gone): (impl Send + 'static, impl Future<Output = ()> + Send + 'static),
) -> Result<Response, ApiError> {
    let outgoing = outgoing(request, target, token)?;
    let mut gone = Box::pin(gone);
    let answer = tokio::select! {
        answer = line.send(outgoing, begin) => answer.map_err(|error| ApiError::unreachable(&error))?,
        () = &mut gone => return Err(ApiError::new(Code::AgentUnreachable, "the guest ended before it answered")),
    };
    let driver = line.into_driver();
    let (mut head, body) = answer.into_parts();
    strip(&mut head.headers);
    let pieces = Body::new(body).into_data_stream().map(move |piece| {
        let _held = (&driver, &held);
        piece
    });
    let closing = api.closing.clone();
    let ends = Box::pin(async move {
        tokio::select! {
            () = closing.cancelled_owned() => "the node ends",
            () = gone => "the guest has ended",
        }
    });
    // Then the answer breaks off: what came of it is not taken for all of it.
    let pieces = stream::unfold(Some((pieces, ends)), |open| async move {
        let (mut pieces, mut ends) = open?;
        tokio::select! {
            biased;
            why = &mut ends => Some((Err(axum::Error::new(io::Error::other(why))), None)),
            piece = pieces.next() => piece.map(|piece| (piece, Some((pieces, ends)))),
        }
    });
    Ok(Response::from_parts(head, Body::from_stream(pieces)))
}

async fn reach(handle: &SandboxHandle) -> Result<(PodConnection<Body>, PodClient), ApiError> {
    let pod = handle.pod.get().cloned().ok_or_else(ApiError::not_ready)?;
    let ready = match handle.sandbox().phase {
        SandboxPhase::Ready => true,
        // While `pod` starts its agent again, commands help to find out why.
        SandboxPhase::Booting => false,
        SandboxPhase::Backoff { .. }
        | SandboxPhase::Waiting { .. }
        | SandboxPhase::Stopping
        | SandboxPhase::Failed { .. } => {
            return Err(ApiError::not_ready());
        }
    };
    match pod.connect(CONNECT).await {
        Ok(line) => Ok((line, pod)),
        Err(error) if ready => Err(ApiError::unreachable(&error)),
        Err(_) => Err(ApiError::not_ready()),
    }
}

fn outgoing(request: Request, target: &str, token: Option<&Secret>) -> Result<Request, ApiError> {
    let (mut head, body) = request.into_parts();
    strip(&mut head.headers);
    let user = head.headers.remove(AUTHORIZATION).filter(|value| value.as_bytes().starts_with(b"Basic "));
    head.headers.remove(ACCESS_TOKEN);
    if let Some(user) = user {
        head.headers.insert(AUTHORIZATION, user);
    }
    if let Some(token) = token {
        let mut token = HeaderValue::from_str(token.expose())
            .map_err(|error| ApiError::internal(&error, "the guest's credential is broken"))?;
        token.set_sensitive(true);
        head.headers.insert(ACCESS_TOKEN, token);
    }
    head.headers.insert(HOST, HeaderValue::from_static("pod"));
    let mut outgoing = Request::new(body);
    *outgoing.method_mut() = head.method;
    *outgoing.headers_mut() = head.headers;
    *outgoing.uri_mut() = target
        .parse()
        .map_err(|error: http::uri::InvalidUri| ApiError::internal(&error, "the call's path is broken"))?;
    Ok(outgoing)
}

fn strip(headers: &mut HeaderMap) {
    for name in DROPPED {
        headers.remove(name);
    }
}
