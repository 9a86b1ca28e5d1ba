//! The process protocol's outside (`wire::process`): calls in, answers out.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use futures_util::{Stream, StreamExt as _, stream};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use rustix::process::Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use wire::connect::Envelope;
use wire::process::{
    KEEPALIVE_HEADER, OFFSET_HEADER, RpcCode, RpcError, SelectRequest, SendInputRequest, SendSignalRequest,
    StartRequest, TIMEOUT_HEADER, UpdateRequest,
};
use wire::proto::{Empty, FromProto, ToProto};

use super::error::locate;
use crate::agent::{Plan, Pod, home_of, user_environment};
use crate::codec::Codec;
use crate::exec::{CommandSpec, Process, StreamOptions, end_of_stream, events};
use crate::files::PathBase;
use crate::process::{Accounts, User};

/// The pause before a keepalive, unless the client says.
const KEEPALIVE: Duration = Duration::from_secs(90);
/// How long a process may take to read its input, unless the client says.
const INPUT_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) type RpcResult<T> = Result<T, RpcError>;

/// `POST /process.Process/{call}`.
pub(super) async fn process(
    State(pod): State<Pod>,
    Path(call): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match call.as_str() {
        "Start" | "Connect" => {
            RpcCall::of_stream(pod, headers).map_or_else(UnknownForm::into_response, |rpc| rpc.stream(&call, &body))
        }
        _ => match RpcCall::of_unary(pod, headers) {
            Ok(rpc) => rpc.answer(&call, &body).await.unwrap_or_else(|error| failure(&error)),
            Err(refused) => refused.into_response(),
        },
    }
}

/// A call in no form that is known; those that are, by their types.
#[derive(Debug)]
pub(super) struct UnknownForm(fn(Codec) -> &'static str);

impl IntoResponse for UnknownForm {
    fn into_response(self) -> Response {
        let known = [Codec::Json, Codec::Proto].map(self.0).join(", ");
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, [("accept-post", known)]).into_response()
    }
}

pub(super) struct RpcCall {
    pub(super) pod: Pod,
    pub(super) codec: Codec,
    headers: HeaderMap,
}

impl RpcCall {
    /// A call with one message and one answer; the refusal of one in no form that is known.
    pub(super) fn of_unary(pod: Pod, headers: HeaderMap) -> Result<Self, UnknownForm> {
        let codec = Codec::of_unary(&headers).ok_or(UnknownForm(Codec::unary_type))?;
        Ok(Self { pod, codec, headers })
    }

    /// The same for one whose messages come in envelopes.
    pub(super) fn of_stream(pod: Pod, headers: HeaderMap) -> Result<Self, UnknownForm> {
        let codec = Codec::of_stream(&headers).ok_or(UnknownForm(Codec::stream_type))?;
        Ok(Self { pod, codec, headers })
    }

    /// An answer that is one message.
    pub(super) fn answered(&self, message: &(impl Serialize + ToProto)) -> Response {
        ([(CONTENT_TYPE, self.codec.unary_type())], self.codec.encode(message)).into_response()
    }

    fn stream(&self, call: &str, body: &Bytes) -> Response {
        let (offset, bytes) = match self.begin(call, body) {
            Ok((offset, events)) => (offset, events.left_stream()),
            Err(error) => (0, stream::iter([end_of_stream(Some(error))]).right_stream()),
        };
        let headers = [(CONTENT_TYPE.as_str(), self.codec.stream_type()), (OFFSET_HEADER, &offset.to_string())];
        (headers, Body::from_stream(bytes.map(Ok::<_, Infallible>))).into_response()
    }

    /// The stream's events, and how many bytes of output there were before them.
    fn begin(&self, call: &str, body: &Bytes) -> RpcResult<(u64, impl Stream<Item = Bytes> + Send + use<>)> {
        let full = || fault(RpcCode::ResourceExhausted, "too many streams are open");
        let permit = self.pod.stream_permit().ok_or_else(full)?;
        let options = self.options()?;
        let process = match call {
            "Start" => self.start(self.unwrap(body)?, options.deadline)?,
            _ => self.pod.processes().find(&self.unwrap::<SelectRequest>(body)?.process)?,
        };
        let reader = process.subscribe();
        Ok((reader.offset(), events(process.number(), reader, options, permit)))
    }

    async fn answer(&self, call: &str, body: &Bytes) -> RpcResult<Response> {
        let table = self.pod.processes();
        match call {
            "List" => return Ok(self.answered(&table.list())),
            "SendInput" => {
                let request: SendInputRequest = self.parse(body)?;
                table.find(&request.process)?.write(&request.input, self.input_timeout()?).await?;
            }
            "CloseStdin" => {
                let request: SelectRequest = self.parse(body)?;
                table.find(&request.process)?.close_input(self.input_timeout()?).await?;
            }
            "SendSignal" => {
                let request: SendSignalRequest = self.parse(body)?;
                let signal = match request.signal {
                    wire::process::Signal::Term => Signal::TERM,
                    wire::process::Signal::Kill => Signal::KILL,
                };
                table.find(&request.process)?.signal(signal)?;
            }
            "Update" => {
                let request: UpdateRequest = self.parse(body)?;
                let process = table.find(&request.process)?;
                request.pty.map_or(Ok(()), |pty| process.resize(pty.size))?;
            }
            _ => return Err(fault(RpcCode::Unimplemented, format!("there is no call {call}"))),
        }
        Ok(self.answered(&Empty {}))
    }

    fn start(&self, request: StartRequest, deadline: Option<Instant>) -> RpcResult<Arc<Process>> {
        let plan = self.plan()?;
        if self.pod.is_stopping() {
            return Err(fault(RpcCode::Unavailable, "the pod is stopping"));
        }
        let (user, env) = self.user(&plan)?;
        let base = path_base(&plan, &user);
        let cwd = base.resolve(request.process.cwd.as_deref().unwrap_or_default());
        let cwd = cwd.map_err(|error| fault(RpcCode::InvalidArgument, format!("cwd: {error}")))?;
        self.pod.processes().start(CommandSpec { request, user, env, cwd, deadline })
    }

    pub(super) fn plan(&self) -> RpcResult<Arc<Plan>> {
        self.pod.plan().ok_or_else(|| fault(RpcCode::Unavailable, "the pod has no identity yet"))
    }

    /// The agent's user, or the one that E2B's SDKs name by HTTP's basic
    /// authentication.
    pub(super) fn user(&self, plan: &Plan) -> RpcResult<(User, std::collections::BTreeMap<String, wire::Secret>)> {
        let mut env = plan.env.clone();
        let Some(name) = basic_user(&self.headers) else { return Ok((plan.user.clone(), env)) };
        let refused = |error: crate::process::UserError| fault(RpcCode::PermissionDenied, error.to_string());
        let user = Accounts::read(plan.user.privileges).resolve(&name).map_err(refused)?;
        let theirs = user_environment(&user, &plan.run.state_dir);
        env.extend(theirs.into_iter().map(|(name, value)| (name, value.into())));
        Ok((user, env))
    }

    pub(super) fn options(&self) -> RpcResult<StreamOptions> {
        let keepalive = self.number(KEEPALIVE_HEADER)?.filter(|seconds| *seconds > 0).map(Duration::from_secs);
        Ok(StreamOptions {
            keepalive: keepalive.unwrap_or(KEEPALIVE),
            deadline: self.timeout()?.map(|left| Instant::now() + left),
            codec: self.codec,
        })
    }

    fn input_timeout(&self) -> RpcResult<Duration> {
        Ok(self.timeout()?.unwrap_or(INPUT_TIMEOUT))
    }

    /// The call's time; 0 is none, as in E2B.
    pub(super) fn timeout(&self) -> RpcResult<Option<Duration>> {
        Ok(self.number(TIMEOUT_HEADER)?.filter(|millis| *millis > 0).map(Duration::from_millis))
    }

    /// Ten digits at most, as Connect has it.
    fn number(&self, header: &str) -> RpcResult<Option<u64>> {
        let Some(value) = self.headers.get(header) else { return Ok(None) };
        let number = value.to_str().ok().filter(|text| text.len() <= 10).and_then(|text| text.parse().ok());
        number.map(Some).ok_or_else(|| fault(RpcCode::InvalidArgument, format!("{header} is not a number")))
    }

    /// The one message of a stream call's request.
    pub(super) fn unwrap<T: DeserializeOwned + FromProto>(&self, body: &Bytes) -> RpcResult<T> {
        let invalid = |message: String| fault(RpcCode::InvalidArgument, message);
        let mut bytes = BytesMut::from(&body[..]);
        let envelope = Envelope::decode(&mut bytes).map_err(|error| invalid(error.to_string()))?;
        let envelope = envelope.ok_or_else(|| invalid("the body is not one whole envelope".to_owned()))?;
        self.parse(&envelope.message)
    }

    /// A message in this call's form.
    pub(super) fn parse<T: DeserializeOwned + FromProto>(&self, body: &[u8]) -> RpcResult<T> {
        match self.codec {
            Codec::Json => parse_json(body),
            Codec::Proto => T::from_proto(body).map_err(|error| fault(RpcCode::InvalidArgument, error.to_string())),
        }
    }
}

/// What a user's paths are relative to.
pub(super) fn path_base<'a>(plan: &'a Plan, user: &'a User) -> PathBase<'a> {
    PathBase { home: home_of(user, &plan.run.state_dir), workdir: &plan.run.cwd }
}

/// A message is an object: serde would take a list for one whose fields all have defaults.
fn parse_json<T: DeserializeOwned>(body: &[u8]) -> RpcResult<T> {
    if body.trim_ascii_start().first().is_some_and(|first| *first == b'[') {
        return Err(fault(RpcCode::InvalidArgument, "a message is a JSON object, not a list"));
    }
    serde_json::from_slice(body).map_err(|error| fault(RpcCode::InvalidArgument, locate(&error)))
}

fn basic_user(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let text = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
    text.split(':').next().filter(|name| !name.is_empty()).map(str::to_owned)
}

pub(super) fn failure(error: &RpcError) -> Response {
    let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(error)).into_response()
}

pub(super) fn fault(code: RpcCode, message: impl Into<String>) -> RpcError {
    RpcError { code, message: message.into() }
}
