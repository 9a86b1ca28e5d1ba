//! Commands in a guest: passed to `pod` with the node's own credential.

use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use domain::RunId;
use futures_util::StreamExt;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, COOKIE, HOST, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue};
use wire::fault::{Code, Fault};
use wire::v1::node::SandboxPhase;

use super::fault::ApiError;
use super::state::{Api, id};
use crate::guest::{PodClient, PodConnection, bearer};
use crate::task::SandboxHandle;

/// How long `pod` may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// How long it may take to begin its answer. It has deadlines of its own, which its
/// callers may set; this one is for a guest that has none.
const BEGIN: Duration = Duration::from_secs(600);
/// Headers that end at each hop, or are not the guest's business.
const DROPPED: [HeaderName; 9] =
    [AUTHORIZATION, CONNECTION, COOKIE, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, ACCEPT_ENCODING];
/// Another way to show a credential to `pod`.
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
pub(crate) async fn forward(
    State(api): State<Api>,
    path: Result<Path<(RunId, String)>, PathRejection>,
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
    let handle = api.sandbox(id)?;
    let permit = handle.streams.call(request.extensions().get());
    let permit = permit.ok_or_else(|| ApiError::new(Code::RateLimited, "too many calls of the agent are open"))?;
    let mut line = reach(&handle).await?;
    let (sender, pod) = (&mut line.0, &line.1);
    let outgoing = outgoing(request, &method, pod)?;
    let answer = sender.send(outgoing, BEGIN).await.map_err(|error| ApiError::unreachable(&error))?;
    let driver = line.0.into_driver();
    let (mut head, body) = answer.into_parts();
    strip(&mut head.headers);
    let pieces = Body::new(body).into_data_stream().take_until(api.closing.clone().cancelled_owned());
    let pieces = pieces.map(move |piece| {
        let _held = (&driver, &permit);
        piece
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

fn outgoing(request: Request, method: &str, pod: &PodClient) -> Result<Request, ApiError> {
    let (mut head, body) = request.into_parts();
    strip(&mut head.headers);
    head.headers.remove(ACCESS_TOKEN);
    let token = bearer(pod.token()).map_err(|error| ApiError::internal(&error, "the guest's credential is broken"))?;
    head.headers.insert(AUTHORIZATION, token);
    head.headers.insert(HOST, HeaderValue::from_static("pod"));
    let mut outgoing = Request::new(body);
    *outgoing.method_mut() = head.method;
    *outgoing.headers_mut() = head.headers;
    *outgoing.uri_mut() = format!("/process.Process/{method}")
        .parse()
        .map_err(|error: http::uri::InvalidUri| ApiError::internal(&error, "the call's path is broken"))?;
    Ok(outgoing)
}

fn strip(headers: &mut HeaderMap) {
    for name in DROPPED {
        headers.remove(name);
    }
}
