//! The files of disks that no agent has, for their holder: a volume's in the shapes of E2B's
//! volume-content API, and with the same calls what is kept of an agent that does not run. A volume
//! that an agent has is read and written through that agent's guest.
//!
//! | opened by | which |
//! |---|---|
//! | the disk's token ([`crate::api::volumes::show`], [`data_token`]) | all |
//! | an API key of its holder's | `GET` from scope `read` on, all from `run` on |
//! | its holder's signature | all but `PUT file`, whose body no signature waits for |
//!
//! Bytes go through as they come, in both directions. What is wrong is said in E2B's form,
//! `{"code": …, "message": …}`, beside our own.

use std::sync::Arc;
use std::time::Duration;

use auth::ContentGrant;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, State};
use axum::response::IntoResponse;
use control::Node;
use domain::{ContentCall, KeyId, KeyScope, OwnedDisk, PodId, VolumeId, VolumeState, Wallet};
use http::header::{CONTENT_TYPE, HeaderValue, RANGE, RETRY_AFTER};
use http::header::{HeaderMap, IF_NONE_MATCH, IF_RANGE};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use wire::fault::{Code, Fault};
use wire::v1::content::{ContentAccess, VolumeAndToken};
use wire::v1::volumes::Volume;
use wire::{Secret, TRACEPARENT};

use crate::api::extract::{PathParams, PodPath, json};
use crate::api::kept::KEPT;
use crate::auth::apikeys;
use crate::auth::caller::{Authority, Holder, ReadOnlyHolder};
use crate::edge::guarded::GuardedBody;
use crate::edge::headers::bearer;
use crate::edge::idle::IdleTimer;
use crate::edge::source::RequestSource;
use crate::edge::streams::broken_off;
use crate::error::{ApiError, SOON_S};
use crate::state::Gateway;

/// How long a token opens a disk's files.
const TOKEN_MS: u64 = 24 * 60 * 60 * 1000;
/// How long an upload may stand still: a helper may have to be started for it.
const UPLOAD_IDLE: Duration = Duration::from_secs(180);
/// The same of an archive, which is put in its place when all of it has come. One that stands still
/// before is ended much sooner, where it is taken in.
const ARCHIVE_IDLE: Duration = Duration::from_mins(30);
/// The headers of a call that its answer depends on.
const PASSED: [http::HeaderName; 4] = [CONTENT_TYPE, RANGE, IF_RANGE, IF_NONE_MATCH];

/// The disk that a path names: a volume, or what is kept of an agent.
pub(crate) enum AskedDisk {
    /// This one.
    Of(OwnedDisk),
    /// What cannot be the id of a volume.
    NoVolume,
    /// What cannot be the id of an agent.
    NoAgent,
}

impl<S: Send + Sync> FromRequestParts<S> for AskedDisk {
    type Rejection = ContentFailure;

    async fn from_request_parts(head: &mut Parts, state: &S) -> Result<Self, ContentFailure> {
        #[derive(Deserialize)]
        struct Segment {
            id: String,
        }
        let PathParams(Segment { id }) = PathParams::from_request_parts(head, state).await?;
        let is_agents = head.extensions.get::<MatchedPath>().is_some_and(|path| path.as_str().starts_with(KEPT));
        Ok(match is_agents {
            true => id.parse().map_or(Self::NoAgent, |id| Self::Of(OwnedDisk::Data(id))),
            false => id.parse().map_or(Self::NoVolume, |id| Self::Of(OwnedDisk::Volume(id))),
        })
    }
}

impl AskedDisk {
    const fn known(&self) -> Option<OwnedDisk> {
        match self {
            Self::Of(disk) => Some(*disk),
            Self::NoVolume | Self::NoAgent => None,
        }
    }

    fn found(self) -> Result<OwnedDisk, ApiError> {
        match self {
            Self::Of(disk) => Ok(disk),
            Self::NoVolume => Err(unknown()),
            Self::NoAgent => Err(ApiError::not_found()),
        }
    }
}

/// A fault in E2B's form beside ours.
#[derive(Serialize)]
struct ContentFault {
    message: String,
    #[serde(flatten)]
    fault: Fault,
}

/// An [`ApiError`] of this API on its way out.
pub(crate) struct ContentFailure(ApiError);

impl<E: Into<ApiError>> From<E> for ContentFailure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for ContentFailure {
    fn into_response(self) -> Response<Body> {
        let fault = Fault::from(self.0);
        let status = StatusCode::from_u16(fault.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let wait = fault.retry_after.map(HeaderValue::from);
        let mut response = (status, axum::Json(ContentFault { message: fault.error.clone(), fault })).into_response();
        if let Some(wait) = wait {
            response.headers_mut().insert(RETRY_AFTER, wait);
        }
        response
    }
}

pub(crate) type ContentResult = Result<Response<Body>, ContentFailure>;

/// A token for the files of what is kept of one's own agent. They can be reached while it does not
/// run, and run they are reached through it.
#[utoipa::path(
    get,
    operation_id = "agentDataToken",
    tag = "agents",
    path = "/agents/{id}/data",
    params(("id" = PodId, Path, description = "The agent")),
    responses((status = 200, description = "The token", body = ContentAccess), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []), ("bearer" = []), ("api_key" = []))
)]
pub(crate) async fn data_token(
    State(gateway): State<Arc<Gateway>>,
    PodPath(id): PodPath,
    ReadOnlyHolder(holder): ReadOnlyHolder,
) -> Result<Response<Body>, ApiError> {
    let unbound = || ApiError::new(Code::UnboundSignature, "a token needs a signature of this very request");
    let access = gateway.content_access(OwnedDisk::Data(id), &holder).ok_or_else(unbound)?;
    gateway.owned(id, holder.wallet).await?;
    json(StatusCode::OK, &access)
}

impl Gateway {
    /// A volume with the token that opens its files.
    pub(crate) fn with_token(&self, volume: Volume, holder: &Holder) -> VolumeAndToken {
        let access = self.content_access(OwnedDisk::Volume(volume.id), holder);
        let (token, token_expires_at) = access.map(|access| (access.token, access.expires_at)).unzip();
        VolumeAndToken { volume, token, token_expires_at }
    }

    /// A token for a disk's files, in the holder's name; none for a signature that can be used again
    /// at another gateway.
    fn content_access(&self, disk: OwnedDisk, holder: &Holder) -> Option<ContentAccess> {
        let key = match holder.by {
            Authority::Signature { bound: false } => return None,
            Authority::Signature { bound: true } => None,
            Authority::Key(key) => Some(key),
        };
        let expires_at = holder.now.plus(TOKEN_MS);
        let token = self.parts.tokens.content_token(disk, &ContentGrant { wallet: holder.wallet, key, expires_at });
        Some(ContentAccess { token: Secret(token), expires_at })
    }

    /// Whose call it is, by which key, and its body.
    async fn content_caller(
        self: &Arc<Self>,
        disk: Option<OwnedDisk>,
        request: Request<Body>,
    ) -> Result<(Wallet, Option<KeyId>, Body), ApiError> {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let needs = if reads { KeyScope::Read } else { KeyScope::Run };
        let headers = request.headers();
        if let Some(key) = apikeys::presented(headers)? {
            let record = self.open(&key, needs).await?;
            self.rates.wallets.check(record.wallet)?;
            return Ok((record.wallet, Some(record.id), request.into_body()));
        }
        if let Some(token) = bearer(headers) {
            let said = "the token does not open this disk, or is over; GET /volumes/{id} shows another one";
            let grant = disk.and_then(|disk| self.parts.tokens.verify_content(disk, token, self.now()));
            let grant = grant.ok_or_else(|| ApiError::new(Code::InvalidToken, said))?;
            self.must_be_good(&grant, needs).await?;
            self.rates.wallets.check(grant.wallet)?;
            return Ok((grant.wallet, grant.key, request.into_body()));
        }
        let holder = Holder::from_request(request, self).await?;
        Ok((holder.wallet, None, Body::from(holder.body)))
    }

    /// A token that was shown to an API key opens what the key does, as long as that is good.
    async fn must_be_good(&self, grant: &ContentGrant, needs: KeyScope) -> Result<(), ApiError> {
        let Some(id) = grant.key else { return Ok(()) };
        let record = self.parts.store.api_key(id).await?;
        let Some(record) = record.filter(|key| key.wallet == grant.wallet && key.expires_at > self.now()) else {
            return Err(ApiError::new(Code::InvalidKey, "the API key that the token was shown to is good no more"));
        };
        if record.scope < needs {
            let said =
                format!("the API key that the token was shown to is of scope {}, and this needs {needs}", record.scope);
            return Err(ApiError::new(Code::KeyScope, said));
        }
        Ok(())
    }

    /// The node that has a disk of this holder's.
    async fn content_node(&self, disk: OwnedDisk, wallet: Wallet) -> Result<Arc<dyn Node>, ApiError> {
        let name = match disk {
            OwnedDisk::Volume(id) => self.volume_node(id, wallet).await?,
            OwnedDisk::Data(id) => self.data_node(id, wallet).await?,
        };
        self.parts.control.fleet().node(&name).cloned().ok_or_else(|| {
            tracing::warn!(node = name, %disk, "the node of a holder's disk is not configured");
            away()
        })
    }

    async fn volume_node(&self, id: VolumeId, wallet: Wallet) -> Result<String, ApiError> {
        let volume = self.parts.store.volume(wallet, id).await?.ok_or_else(unknown)?;
        match volume.state {
            VolumeState::Ready => Ok(volume.node),
            state @ (VolumeState::Creating | VolumeState::Copying | VolumeState::Removing) => {
                let said = format!("the volume is {} just now", state.as_str());
                Err(Fault::new(Code::WrongState, said).retry_after(SOON_S).into())
            }
        }
    }

    async fn data_node(&self, id: PodId, wallet: Wallet) -> Result<String, ApiError> {
        let record = self.owned(id, wallet).await?;
        if record.state.is_live() {
            let said =
                "the agent runs: its files are reached through it; what is kept of it is reached when it is stopped";
            return Err(ApiError::new(Code::WrongState, said));
        }
        let nothing = || ApiError::new(Code::NoData, "nothing is kept of the agent");
        record.data.filter(|data| !data.is_over(self.now())).and(record.data_node).ok_or_else(nothing)
    }

    /// Passes a call on, and its answer back. Who asks for what is no disk is told so once it is known
    /// who that is.
    pub(crate) async fn content(
        self: &Arc<Self>,
        source: &RequestSource,
        disk: AskedDisk,
        call: ContentCall,
        request: Request<Body>,
    ) -> ContentResult {
        let (method, uri, headers) = (request.method().clone(), request.uri().clone(), request.headers().clone());
        let (wallet, key, body) = self.content_caller(disk.known(), request).await?;
        let disk = disk.found()?;
        let node = self.content_node(disk, wallet).await?;
        let permit = self.streams.for_wallet(wallet)?;
        let timer = IdleTimer::new();
        let mut outgoing = Request::new(timer.wrap(body).map_err(Into::into).boxed_unsync());
        *outgoing.method_mut() = method.clone();
        *outgoing.uri_mut() = uri;
        *outgoing.headers_mut() = passed(&headers, source);
        let holder = wallet.to_string();
        let asked = node.content(disk, call, &holder, outgoing);
        let answer = if method == Method::PUT {
            tokio::select! {
                answer = asked => answer,
                () = timer.expired(if call == ContentCall::Archive { ARCHIVE_IDLE } else { UPLOAD_IDLE }) => {
                    return Err(ApiError::invalid("the upload stood still for too long").into());
                }
            }
        } else {
            asked.await
        };
        let (mut head, body) = answer
            .map_err(|error| {
                tracing::warn!(%error, %disk, "a node does not answer for a disk's files");
                away()
            })?
            .into_parts();
        client::strip_hop_by_hop(&mut head.headers);
        let body = Body::new(GuardedBody::new(Body::new(body), permit));
        let over = self.draining.clone().cancelled_owned();
        let body = self.while_good(key, broken_off(body, over, "the gateway goes down"));
        Ok(Response::from_parts(head, body))
    }
}

/// The headers that go on. Credentials end here.
fn passed(headers: &HeaderMap, source: &RequestSource) -> HeaderMap {
    let mut passed = HeaderMap::new();
    for name in PASSED {
        if let Some(value) = headers.get(&name) {
            passed.insert(name, value.clone());
        }
    }
    if let Ok(trace) = source.trace.traceparent().parse() {
        passed.insert(TRACEPARENT, trace);
    }
    passed
}

fn unknown() -> ApiError {
    ApiError::new(Code::NotFound, "there is no such volume, or it is not yours")
}

fn away() -> ApiError {
    let said = "the node with the disk does not answer just now; try the same again";
    Fault::new(Code::NodeUnavailable, said).retry_after(SOON_S).into()
}
