//! The port of E2B's in-sandbox daemon: what `pod` answers of its protocols, for whoever
//! has the agent's token or an API key of its holder's that lets agents run, and single files
//! for whoever has a URL that was signed with the token.
//!
//! | call | opened by |
//! |---|---|
//! | `GET`, `HEAD`, `POST /files?path=` | token or key, or `signature` in the query |
//! | `POST /files/compose`, `/process.Process/*`, `/filesystem.Filesystem/*` | token or key |
//! | `GET /health`, `/envs`, `/metrics` | token or key |
//! | `GET /tunnel?port=`, which is ours | token or key; see `tunnel` |
//!
//! Bytes go through as they come, in both directions. What is wrong is said as E2B's
//! clients read it: a status, and `{"code": status, "message": …}`.

use std::sync::Arc;
use std::time::Duration;

use auth::{FileOperation, FileUrl};
use axum::body::Body;
use axum::response::IntoResponse;
use domain::{KeyId, PodId, State};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, HeaderMap, HeaderName};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use store::RunRecord;
use wire::TRACEPARENT;
use wire::fault::Fault;
use wire::filesystem::FilesError;

use crate::edge::headers;
use crate::edge::idle::IdleTimer;
use crate::edge::limits::client_key;
use crate::edge::requester::Requester;
use crate::edge::source::RequestSource;
use crate::edge::streams::until_drained;
use crate::error::ApiError;
use crate::ingress::target::{SANDBOX_ID, SANDBOX_PORT};
use crate::ingress::tunnel;
use crate::state::Gateway;

/// E2B's header for the token: its SDKs name a user by `Authorization`.
const ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-access-token");
/// How long an upload may stand still.
const UPLOAD_IDLE: Duration = Duration::from_secs(60);
/// The one whose request goes on.
const STREAM_INPUT: &str = "/process.Process/StreamInput";
/// Services of `pod` whose calls go through.
const SERVICES: [&str; 2] = ["/process.Process/", "/filesystem.Filesystem/"];

/// Answers one call.
pub(crate) async fn forward(
    gateway: &Arc<Gateway>,
    source: &RequestSource,
    id: PodId,
    request: Request<Incoming>,
) -> Response<Body> {
    match answer(gateway, source, id, request).await {
        Ok(response) => response,
        Err(EnvdError::Said(error)) => respond(error),
        Err(EnvdError::Gateway(error)) => {
            let fault = Fault::from(error);
            respond(FilesError { code: fault.code.status(), message: fault.error })
        }
    }
}

fn respond(error: FilesError) -> Response<Body> {
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, axum::Json(error)).into_response()
}

/// Why a call is not answered by the guest.
enum EnvdError {
    /// In the daemon's own words.
    Said(FilesError),
    Gateway(ApiError),
}

impl From<ApiError> for EnvdError {
    fn from(error: ApiError) -> Self {
        Self::Gateway(error)
    }
}

fn said(status: StatusCode, message: impl Into<String>) -> EnvdError {
    EnvdError::Said(FilesError { code: status.as_u16(), message: message.into() })
}

async fn answer(
    gateway: &Arc<Gateway>,
    source: &RequestSource,
    id: PodId,
    request: Request<Incoming>,
) -> Result<Response<Body>, EnvdError> {
    let call = EnvdCall::of(request.method(), request.uri());
    let last_run = gateway.parts.store.last_run(id).await.map_err(ApiError::from)?;
    let opened_by = authorized(gateway, last_run.as_ref(), request.headers(), call.as_ref()).await?;
    if let (tunnel::PATH, OpenedBy::Holder(key)) = (request.uri().path(), opened_by) {
        return Ok(tunnel::open(gateway, &running(last_run)?, key, request).await?);
    }
    let call = call.ok_or_else(|| said(StatusCode::NOT_FOUND, "there is no such call"))?;
    let record = running(last_run)?;
    let (permit, key) = match opened_by {
        OpenedBy::Holder(key) => (gateway.streams.for_agent(id, Requester::Holder)?, key),
        OpenedBy::Signature => (gateway.streams.for_signed(id, client_key(source.address))?, None),
    };
    let node = gateway.parts.control.node_of(&record).map_err(ApiError::from)?;
    let timer = IdleTimer::new();
    let (head, body) = request.into_parts();
    let mut outgoing = Request::new(timer.wrap(body).map_err(Into::into).boxed_unsync());
    *outgoing.method_mut() = head.method;
    *outgoing.headers_mut() = passed(head.headers, source);
    let asked = node.forward(record.id, &call.target, outgoing);
    let answer = if call.is_upload {
        tokio::select! {
            answer = asked => answer,
            () = timer.expired(UPLOAD_IDLE) => {
                return Err(said(StatusCode::REQUEST_TIMEOUT, "the upload stood still for too long"));
            }
        }
    } else {
        asked.await
    };
    let (mut head, body) = answer.map_err(ApiError::from)?.into_parts();
    client::strip_hop_by_hop(&mut head.headers);
    let body = gateway.while_good(key, until_drained(Body::new(body), permit, &gateway.draining));
    if call.target != STREAM_INPUT {
        return Ok(Response::from_parts(head, body));
    }
    // Nobody holds a command's input open without a word.
    let silence = Duration::from_millis(gateway.limits.stream_idle_ms);
    Ok(Response::from_parts(head, timer.bound(body, silence)))
}

/// By what a call is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpenedBy {
    /// The agent's token, or this API key of its holder's.
    Holder(Option<KeyId>),
    /// The signature of its URL: for the one thing that it says.
    Signature,
}

/// By what the caller may do this.
async fn authorized(
    gateway: &Gateway,
    last_run: Option<&RunRecord>,
    headers: &HeaderMap,
    call: Option<&EnvdCall>,
) -> Result<OpenedBy, EnvdError> {
    let shown = headers.get(ACCESS_TOKEN).map(|token| token.to_str().unwrap_or_default());
    let shown = shown.or_else(|| headers::bearer(headers));
    if let Some(token) = shown {
        if last_run.is_some_and(|run| gateway.parts.tokens.verify(run.id, token)) {
            return Ok(OpenedBy::Holder(None));
        }
        let key = gateway.key_to(Some(token), last_run.map(|run| run.wallet)).await?;
        let refused = || said(StatusCode::UNAUTHORIZED, "access token present in header but does not match");
        return key.map(|key| OpenedBy::Holder(Some(key))).ok_or_else(refused);
    }
    let Some(file) = call.and_then(|call| call.file.as_ref()) else {
        return Err(said(StatusCode::UNAUTHORIZED, "unauthorized access, please provide a valid access token"));
    };
    let Some(signature) = &file.signature else {
        return Err(said(StatusCode::UNAUTHORIZED, "missing signature query parameter"));
    };
    let now = i64::try_from(gateway.now().0 / 1000).unwrap_or(i64::MAX);
    // Whose run is none is told the same as whose signature is none.
    let run = last_run.ok_or_else(|| said(StatusCode::UNAUTHORIZED, "invalid signature"))?;
    let verified = file.url().verify(signature, &gateway.parts.tokens.token(run.id), now);
    verified.map(|()| OpenedBy::Signature).map_err(|error| said(StatusCode::UNAUTHORIZED, error.to_string()))
}

/// The agent, where it can answer. One that does not run is gone, which E2B's clients
/// know by a 502.
fn running(last_run: Option<RunRecord>) -> Result<RunRecord, EnvdError> {
    let gone = || said(StatusCode::BAD_GATEWAY, "the sandbox was not found: the agent does not run");
    let record = last_run.ok_or_else(gone)?;
    match record.state {
        State::Stopping(_) | State::Stopped(_) | State::Failed(_) => Err(gone()),
        // While `pod` starts its agent again, commands and files help to find out why.
        State::Ready | State::Booting | State::Waiting(_) | State::Reserved | State::Placed => Ok(record),
    }
}

/// The headers of a call as the guest gets them. A user's name may stay; credentials end here.
fn passed(mut headers: HeaderMap, source: &RequestSource) -> HeaderMap {
    client::strip_hop_by_hop(&mut headers);
    headers::strip_ours(&mut headers);
    let basic = headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(b"Basic "));
    if !basic {
        headers.remove(AUTHORIZATION);
    }
    for ours in [ACCESS_TOKEN, SANDBOX_ID, SANDBOX_PORT, COOKIE, CONTENT_LENGTH] {
        headers.remove(ours);
    }
    if let Ok(trace) = source.trace.traceparent().parse() {
        headers.insert(TRACEPARENT, trace);
    }
    headers
}

/// A call that goes through.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EnvdCall {
    /// What `pod` is asked.
    pub(crate) target: String,
    /// Whether its body is a file's.
    is_upload: bool,
    /// The file that it is about, where a URL may have been signed for it.
    file: Option<NamedFile>,
}

/// The file that a query names.
#[derive(Debug, PartialEq, Eq)]
struct NamedFile {
    path: String,
    username: String,
    operation: FileOperation,
    signature: Option<String>,
    expires: Option<i64>,
    mode: Option<String>,
}

impl NamedFile {
    fn url(&self) -> FileUrl<'_> {
        let Self { path, username, operation, expires, .. } = self;
        FileUrl { path, operation: *operation, username, expires: *expires }
    }
}

impl EnvdCall {
    /// What is asked for, if it is one of the daemon's calls.
    pub(crate) fn of(method: &Method, uri: &Uri) -> Option<Self> {
        let plain = |target: &str| Some(Self { target: target.to_owned(), is_upload: false, file: None });
        match (method, uri.path()) {
            (&Method::GET | &Method::HEAD, "/files") => Some(Self::file(FileOperation::Read, uri)),
            (&Method::POST, "/files") => Some(Self::file(FileOperation::Write, uri)),
            (&Method::GET | &Method::HEAD, "/health") => plain("/health"),
            (&Method::GET, "/envs") => plain("/envs"),
            (&Method::GET, "/metrics") => plain("/usage"),
            (&Method::POST, "/files/compose") => plain("/files/compose"),
            (&Method::POST, path) if is_call(path) => plain(path),
            _ => None,
        }
    }

    /// The signature's part of the query ends here.
    fn file(operation: FileOperation, uri: &Uri) -> Self {
        let mut file = NamedFile {
            path: String::new(),
            username: String::new(),
            operation,
            signature: None,
            expires: None,
            mode: None,
        };
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            match &*name {
                "path" => file.path = value.to_string(),
                "username" => file.username = value.to_string(),
                "mode" => file.mode = Some(value.into_owned()),
                "signature" => file.signature = Some(value.into_owned()),
                // What is no number was signed by nobody.
                "signature_expiration" => file.expires = Some(value.parse().unwrap_or(i64::MIN)),
                _ => {}
            }
        }
        let named =
            uri.query().is_some_and(|query| form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "path"));
        if named {
            query.append_pair("path", &file.path);
        }
        if !file.username.is_empty() {
            query.append_pair("username", &file.username);
        }
        // Who signed a URL has said nothing of permissions.
        if let Some(mode) = file.mode.as_ref().filter(|_| file.signature.is_none()) {
            query.append_pair("mode", mode);
        }
        let query = query.finish();
        let target = if query.is_empty() { "/files".to_owned() } else { format!("/files?{query}") };
        Self { target, is_upload: operation == FileOperation::Write, file: Some(file) }
    }
}

fn is_call(path: &str) -> bool {
    let named = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    SERVICES.iter().any(|service| path.strip_prefix(service).is_some_and(named))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: Method, target: &str) -> Option<EnvdCall> {
        EnvdCall::of(&method, &target.parse().unwrap())
    }

    #[test]
    fn the_daemons_calls_go_through_and_no_others() {
        let target = |method: Method, target: &str| call(method, target).map(|call| call.target);
        for (asked, passed) in [
            ("/process.Process/Start", "/process.Process/Start"),
            ("/filesystem.Filesystem/ListDir", "/filesystem.Filesystem/ListDir"),
            ("/files/compose", "/files/compose"),
            ("/files", "/files"),
        ] {
            assert_eq!(target(Method::POST, asked).as_deref(), Some(passed), "{asked}");
        }
        assert_eq!(target(Method::GET, "/metrics").as_deref(), Some("/usage"));
        assert_eq!(target(Method::GET, "/envs").as_deref(), Some("/envs"));
        for other in ["/init", "/v1/stop", "/process.Process/", "/process.Process/../v1/stop", "/usage", "/", "//files"]
        {
            assert_eq!(target(Method::POST, other), None, "{other}");
        }
        assert_eq!(target(Method::GET, "/v1/identity"), None);
        assert_eq!(target(Method::DELETE, "/files?path=x"), None);
    }

    #[test]
    fn a_file_is_named_by_the_query_and_the_signature_goes_no_further() {
        let asked = "/files?path=%2Fa%20b%26c&username=user&signature=v1_x%2By&signature_expiration=7&path=%2Flast";
        let call = call(Method::GET, asked).unwrap();
        assert_eq!((call.target.as_str(), call.is_upload), ("/files?path=%2Flast&username=user", false));
        let file = call.file.unwrap();
        assert_eq!((file.path.as_str(), file.operation, file.expires), ("/last", FileOperation::Read, Some(7)));
        assert_eq!(file.signature.as_deref(), Some("v1_x+y"));
        let upload = self::call(Method::POST, "/files?path=a+b&signature_expiration=x").unwrap();
        assert_eq!((upload.target.as_str(), upload.is_upload), ("/files?path=a+b", true));
        assert_eq!(upload.file.unwrap().expires, Some(i64::MIN));
        assert_eq!(self::call(Method::POST, "/files?path=").unwrap().target, "/files?path=");
        let target = |query: &str| self::call(Method::POST, &format!("/files?path=a&mode=755{query}")).unwrap().target;
        assert_eq!((target("").as_str(), target("&signature=x").as_str()), ("/files?path=a&mode=755", "/files?path=a"));
    }
}
