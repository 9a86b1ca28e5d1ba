//! Uploads: begun by the wallet's signature; what follows is opened by the token that this
//! answers with, so that no piece need be signed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use control::Node;
use domain::{ImageDigest, ImageId, ImageRef};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use serde::Deserialize;
use store::{FinishOutcome, HeldImageRecord, HeldImageState, ImageOutcome, NewImageUpload, ReadyImage};
use wire::Secret;
use wire::fault::{Code, Fault};
use wire::v1::images::{
    ArchiveSpec, BuildLogPart, BuildSpec, CommitRequest, ContextBuild, HeldImage, ImageRequest, ImageUpload,
    ImportSpec, PARTIAL_UPLOAD, RemovedImage, UPLOAD_COMPLETE, UPLOAD_LENGTH, UPLOAD_OFFSET, UploadState,
};

use crate::api::agents::admission::refused;
use crate::api::extract::{PathParams, json, parse_json, query};
use crate::api::images::quota::{no_image, over_quota, shown, too_large, used};
use crate::api::images::turns::ImportTurn;
use crate::auth::apikeys;
use crate::auth::caller::Holder;
use crate::edge::body::read_at_most;
use crate::edge::headers::bearer;
use crate::edge::idle::IdleTimer;
use crate::error::{ApiError, LATER_S, SOON_S, answer};
use crate::state::Gateway;

/// How long nodes are waited for where a list would do without them.
pub(crate) const PROMPT: Duration = Duration::from_secs(1);
/// How long an upload may stand still.
const SILENCE: Duration = Duration::from_secs(60);
/// What the body of a piece may say that it is: the draft's word, tus's, and plain bytes.
const KINDS: [&str; 3] = [PARTIAL_UPLOAD, "application/offset+octet-stream", "application/octet-stream"];
/// Bytes of what a commit says, at most.
const MAX_COMMIT: usize = 4096;
const MIB: u64 = 1 << 20;

/// `?from=`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    from: Option<u64>,
}

#[derive(Deserialize)]
pub(crate) struct UploadPath {
    id: String,
}

/// Begins the upload of an archive: an OCI layout as tar, or what `docker save`, `podman save`
/// and `skopeo copy` write, plain or packed. The same request again goes on with the upload that
/// was begun, and answers with what is there if that was done.
#[utoipa::path(
    post,
    operation_id = "beginImage",
    tag = "images",
    path = "/images",
    request_body = ImageRequest,
    responses(
        (status = 201, description = "It may be sent", body = ImageUpload),
        (status = 200, description = "It was begun, or is there", body = ImageUpload),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []))
)]
pub(crate) async fn begin(State(gateway): State<Arc<Gateway>>, holder: Holder) -> Result<Response<Body>, ApiError> {
    let request: ImageRequest = parse_json(&holder.body)?;
    if request.size == 0 {
        return Err(Fault::new(Code::InvalidRequest, "size is the bytes of the archive, 1 at least")
            .field("size")
            .into());
    }
    gateway.refuse_operators(&request.image)?;
    let quota = gateway.image_quota(&holder.wallet).await.map_err(refused)?;
    let upload = NewImageUpload {
        id: ImageId::from_bits(rand::random()),
        wallet: holder.wallet,
        image: request.image,
        node: gateway.image_node().await?.name().to_owned(),
        size: request.size,
        archive: request.sha256,
        quota,
        now: holder.now,
        expires_at: holder.now.plus(gateway.limits.image_upload_s * 1000),
    };
    let (status, record) = match gateway.parts.store.begin_image(upload).await? {
        ImageOutcome::New(record) => (StatusCode::CREATED, record),
        ImageOutcome::Existing(record) => (StatusCode::OK, record),
        ImageOutcome::OverQuota(over) => return Err(over_quota(over, &quota, request.size)),
        ImageOutcome::Unknown => return Err(no_image()),
    };
    let state = match gateway.state_of(&record).await {
        // A node that has no room will not have it for this one either.
        Err(error) if status == StatusCode::CREATED && is_no_room(&error) => {
            gateway.parts.store.give_up_image(record.id).await?;
            return Err(error);
        }
        state => state?,
    };
    let mut response = told(status, &record, state, Some(Secret(gateway.parts.tokens.upload_token(record.id))))?;
    if let Ok(place) = HeaderValue::try_from(format!("/images/uploads/{}", record.id)) {
        response.headers_mut().insert(LOCATION, place);
    }
    Ok(response)
}

/// How an upload is. `HEAD` answers with `Upload-Offset`, `Upload-Length` and
/// `Upload-Complete` alone.
#[utoipa::path(
    get,
    operation_id = "imageUpload",
    tag = "images",
    path = "/images/uploads/{id}",
    params(("id" = ImageId, Path, description = "The upload")),
    responses(
        (status = 200, description = "How it is; the offset stands in `Upload-Offset` too", body = ImageUpload),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(("upload" = []))
)]
pub(crate) async fn status(
    State(gateway): State<Arc<Gateway>>,
    PathParams(path): PathParams<UploadPath>,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let record = gateway.upload(&path, &headers).await?;
    let state = gateway.state_of(&record).await?;
    told(StatusCode::OK, &record, state, None)
}

/// Takes a piece of the archive, which begins at `Upload-Offset`. However the request ends, what
/// has arrived stays; another request that goes on with the upload ends this one.
#[utoipa::path(
    patch,
    operation_id = "appendImage",
    tag = "images",
    path = "/images/uploads/{id}",
    params(
        ("id" = ImageId, Path, description = "The upload"),
        ("Upload-Offset" = u64, Header, description = "Where in the archive the body begins: as many bytes as have arrived"),
    ),
    request_body(content = Vec<u8>, content_type = "application/partial-upload", description = "The bytes from there on"),
    responses(
        (status = 200, description = "They have arrived", body = ImageUpload),
        (status = 409, description = "The upload is at another offset, which `Upload-Offset` says", body = Fault),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(("upload" = []))
)]
pub(crate) async fn append(
    State(gateway): State<Arc<Gateway>>,
    PathParams(path): PathParams<UploadPath>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let record = gateway.upload(&path, request.headers()).await?;
    let offset = offset(request.headers())?;
    let _permit = gateway.streams.for_wallet(record.wallet)?;
    if record.state != HeldImageState::Open {
        let state = gateway.state_of(&record).await?;
        return told(StatusCode::OK, &record, state, None);
    }
    let node = gateway.node_with(&record)?;
    let timer = IdleTimer::new();
    let body = timer.wrap(request.into_body()).map_err(Into::into).boxed_unsync();
    let taken = tokio::select! {
        taken = node.images().append(record.pin, offset, body) => taken,
        () = timer.expired(SILENCE) => {
            return Err(ApiError::invalid("the upload stood still for too long; go on from its offset"));
        }
    };
    match taken {
        Ok(held) => told(StatusCode::OK, &record, gateway.settle(&record, held).await?, None),
        Err(error) if error.code() == Some(Code::UploadOffset) => {
            let state = gateway.state_of(&record).await?;
            let fault = Fault::new(Code::UploadOffset, "the upload is at another offset: Upload-Offset says where");
            let mut response = answer(&fault.field("Upload-Offset"));
            tell_offset(response.headers_mut(), &record, &state);
            Ok(response)
        }
        Err(error) => Err(refusal(&error)),
    }
}

/// Has an image made of an archive that is whole, or built of it: then the archive is the context of a
/// build, and is built by its Containerfile on the node, shut in, without a network. Asked again, says how
/// that is. While another of the wallet's images is made, it is refused with `rate_limited`; where nothing
/// is built for holders, a build is refused with `image_refused`.
#[utoipa::path(
    post,
    operation_id = "commitImage",
    tag = "images",
    path = "/images/uploads/{id}/commit",
    params(("id" = ImageId, Path, description = "The upload")),
    request_body = Option<CommitRequest>,
    responses(
        (status = 202, description = "It is worked on: ask how the upload is", body = ImageUpload),
        (status = 200, description = "It is done", body = ImageUpload),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(("upload" = []))
)]
pub(crate) async fn commit(
    State(gateway): State<Arc<Gateway>>,
    PathParams(path): PathParams<UploadPath>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let record = gateway.upload(&path, request.headers()).await?;
    let body = read_at_most(request.into_body(), MAX_COMMIT, gateway.limits.body_ms).await?;
    let CommitRequest { build } = if body.is_empty() { CommitRequest::default() } else { parse_json(&body)? };
    let state = if record.state == HeldImageState::Open {
        gateway.have_made(&record, build).await?
    } else {
        gateway.state_of(&record).await?
    };
    let goes_on = matches!(state, UploadState::Importing { .. } | UploadState::Receiving { .. });
    told(if goes_on { StatusCode::ACCEPTED } else { StatusCode::OK }, &record, state, None)
}

/// What the build of an upload has said, from a byte on: while it goes on, the last of it; an hour after a
/// build has failed, the upload's own error has its last lines.
#[utoipa::path(
    get,
    operation_id = "buildLog",
    tag = "images",
    path = "/images/uploads/{id}/log",
    params(
        ("id" = ImageId, Path, description = "The upload"),
        ("from" = Option<u64>, Query, description = "Where to go on: `next` of the answer before; by default the beginning"),
    ),
    responses(
        (status = 200, description = "What it said", body = BuildLogPart),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(("upload" = []))
)]
pub(crate) async fn log(
    State(gateway): State<Arc<Gateway>>,
    PathParams(path): PathParams<UploadPath>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let record = gateway.upload(&path, &headers).await?;
    let LogQuery { from } = query(&uri)?;
    let from = from.unwrap_or_default();
    let said = match gateway.node_with(&record)?.images().log(record.pin, from).await {
        // Nothing is built of it, or its node has begun anew since.
        Err(error) if error.code() == Some(Code::NotFound) => BuildLogPart { from, next: from, ..Default::default() },
        said => said.map_err(|error| refusal(&error))?,
    };
    json(StatusCode::OK, &said)
}

/// Gives an upload up: nothing of it is kept.
#[utoipa::path(
    delete,
    operation_id = "giveUpImage",
    tag = "images",
    path = "/images/uploads/{id}",
    params(("id" = ImageId, Path, description = "The upload")),
    responses(
        (status = 200, description = "It is given up", body = RemovedImage),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(("upload" = []))
)]
pub(crate) async fn give_up(
    State(gateway): State<Arc<Gateway>>,
    PathParams(path): PathParams<UploadPath>,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let record = gateway.upload(&path, &headers).await?;
    if !gateway.parts.store.give_up_image(record.id).await? {
        return Err(ApiError::new(Code::WrongState, "the image is there: remove it by its name"));
    }
    gateway.images_over.notify_one();
    json(StatusCode::OK, &RemovedImage { success: true, image: record.image })
}

impl Gateway {
    /// Has an image made of an upload, or built of it.
    async fn have_made(&self, record: &HeldImageRecord, build: Option<ContextBuild>) -> Result<UploadState, ApiError> {
        let _turn = self.import_turn(record).await?;
        let quota = self.image_quota(&record.wallet).await.map_err(refused)?;
        let own = self.parts.store.held_images_of(record.wallet).await?;
        let others = used(&own, Some(record.id));
        let max_mib = quota.bytes.saturating_sub(others) / MIB;
        if max_mib == 0 {
            return Err(too_large(others, quota.bytes, record.size));
        }
        let build = build.map(|context| BuildSpec { context, bases: bases(&own, &record.node) });
        let (name, holder) = (record.image.name().to_owned(), Some(record.wallet));
        let spec = ImportSpec { name, max_mib, build, holder };
        let imported = self.node_with(record)?.images().import(record.pin, spec).await;
        self.settle(record, imported.map_err(|error| refusal(&error))?).await
    }

    /// The upload that a request's token opens.
    async fn upload(&self, path: &UploadPath, headers: &HeaderMap) -> Result<HeldImageRecord, ApiError> {
        apikeys::refuse(headers)?;
        let id: ImageId = path.id.parse().map_err(|_| no_image())?;
        let token = bearer(headers).filter(|token| self.parts.tokens.verify_upload(id, token));
        if token.is_none() {
            let said = "send the upload's token, which POST /images answers with, as Authorization: Bearer";
            return Err(ApiError::new(Code::InvalidToken, said));
        }
        let record = self.parts.store.held_image(id).await?.ok_or_else(no_image)?;
        self.rates.wallets.check(record.wallet)?;
        Ok(record)
    }

    /// The node that a new image goes to.
    async fn image_node(&self) -> Result<Arc<dyn Node>, ApiError> {
        let fleet = self.parts.control.fleet();
        if let Some(node) = fleet.roomiest() {
            return Ok(node);
        }
        fleet.refresh().await;
        fleet.roomiest().ok_or_else(away)
    }

    fn node_with(&self, record: &HeldImageRecord) -> Result<&Arc<dyn Node>, ApiError> {
        self.parts.control.fleet().node(&record.node).ok_or_else(|| {
            tracing::warn!(node = record.node, "the node of a holder's image is not configured");
            away()
        })
    }

    /// How an image or an upload is, as its node has it.
    async fn state_of(&self, record: &HeldImageRecord) -> Result<UploadState, ApiError> {
        match &record.state {
            HeldImageState::Open => {
                // A node that was never told, or has lost it, begins it again.
                let spec = ArchiveSpec { size: record.size, sha256: record.archive };
                let held = self.node_with(record)?.images().begin(record.pin, spec).await;
                self.settle(record, held.map_err(|error| refusal(&error))?).await
            }
            HeldImageState::Ready(_) => imported(record),
            HeldImageState::Failed { code, error } => {
                let code = Code::ALL.iter().find(|known| known.as_str() == code).copied();
                Ok(UploadState::Failed { code: code.unwrap_or(Code::InvalidImage), error: error.clone() })
            }
            HeldImageState::Gone => Err(no_image()),
        }
    }

    /// Writes down what a node says of an upload, where that is its end.
    async fn settle(&self, record: &HeldImageRecord, held: HeldImage) -> Result<UploadState, ApiError> {
        match held {
            HeldImage::Receiving { offset, .. } => Ok(UploadState::Receiving { offset }),
            HeldImage::Importing { step, runtime } => Ok(UploadState::Importing { step, runtime }),
            HeldImage::Failed { code: code @ Code::InvalidImage, error } => self.fail(record, code, error).await,
            HeldImage::Failed { code, error } => Err(Fault::new(code, error).retry_after(LATER_S).into()),
            HeldImage::Held { digest, bytes, needs, built_in } => {
                let quota = self.image_quota(&record.wallet).await.map_err(refused)?;
                let needs = serde_json::to_string(&needs).map_err(|error| {
                    tracing::error!(%error, "what an image needs cannot be written");
                    ApiError::new(Code::Internal, "something failed on our side; the operator's log says what")
                })?;
                let built_in = built_in.map(|runtime| runtime.as_str().to_owned());
                let (ready, now) = (ReadyImage { digest, bytes, needs, built_in }, self.now());
                match self.parts.store.finish_image(record.id, ready, quota.bytes, now).await? {
                    FinishOutcome::Ready(record) => {
                        self.images_over.notify_one();
                        imported(&record)
                    }
                    FinishOutcome::OverQuota { used } => {
                        let said = Fault::from(too_large(used, quota.bytes, bytes)).error;
                        self.fail(record, Code::ImageQuota, said).await
                    }
                    FinishOutcome::Unknown => Err(no_image()),
                }
            }
        }
    }

    async fn fail(&self, record: &HeldImageRecord, code: Code, error: String) -> Result<UploadState, ApiError> {
        let (said, now) = (error.clone(), self.now());
        if self.parts.store.fail_image(record.id, code.as_str().to_owned(), said, now).await? {
            self.take_off_its_node(record).await;
        }
        Ok(UploadState::Failed { code, error })
    }

    /// The turn to have an image made of this upload, while none of the wallet's others is made one. Those that have
    /// become one count from here on.
    async fn import_turn(&self, record: &HeldImageRecord) -> Result<ImportTurn<'_>, ApiError> {
        let turn = self.import_turns.take(record.wallet).ok_or_else(wait)?;
        let own = self.parts.store.held_images_of(record.wallet).await?;
        for other in own.iter().filter(|other| other.id != record.id && other.state == HeldImageState::Open) {
            // What its node does not say now holds up no other.
            if let Ok(UploadState::Importing { .. }) = self.state_of(other).await {
                return Err(wait());
            }
        }
        Ok(turn)
    }

    /// While it is told what was wrong with an upload, its node keeps nothing of it: who brings what cannot be taken
    /// would fill the disk with it, and the places of uploads. Where the node does not do so now, it is asked again
    /// when the upload is over.
    async fn take_off_its_node(&self, record: &HeldImageRecord) {
        let Some(node) = self.parts.control.fleet().node(&record.node) else { return };
        if let Err(error) = node.images().forget(record.pin).await {
            tracing::info!(node = record.node, %error, "an upload that failed is still on its node");
        }
    }

    /// One's own upload, for a list: its node is not waited for.
    pub(crate) async fn listed_upload(&self, record: &HeldImageRecord) -> Option<ImageUpload> {
        if matches!(record.state, HeldImageState::Ready(_) | HeldImageState::Gone) {
            return None;
        }
        let state = tokio::time::timeout(PROMPT, self.state_of(record)).await;
        Some(view(record, state.ok().and_then(Result::ok).unwrap_or(UploadState::Unknown), None))
    }
}

/// What may be built on of one's own, on this node: by the name that one calls it, and by that with its tag.
fn bases(own: &[HeldImageRecord], node: &str) -> BTreeMap<String, ImageDigest> {
    let here = own.iter().filter(|record| record.node == node);
    let named = here.filter_map(|record| match &record.state {
        HeldImageState::Ready(ready) => Some((&record.image, ready.digest)),
        HeldImageState::Open | HeldImageState::Failed { .. } | HeldImageState::Gone => None,
    });
    let names = |(image, digest): (&ImageRef, _)| {
        [image.to_string(), format!("{}:{}", image.name(), image.tag())].map(|name| (name, digest))
    };
    named.flat_map(names).collect()
}

fn imported(record: &HeldImageRecord) -> Result<UploadState, ApiError> {
    Ok(UploadState::Imported { image: shown(record).ok_or_else(no_image)? })
}

fn view(record: &HeldImageRecord, state: UploadState, token: Option<Secret>) -> ImageUpload {
    ImageUpload {
        id: record.id,
        image: record.image.clone(),
        size: record.size,
        state,
        expires_at: record.expires_at,
        token,
    }
}

fn told(
    status: StatusCode,
    record: &HeldImageRecord,
    state: UploadState,
    token: Option<Secret>,
) -> Result<Response<Body>, ApiError> {
    let upload = view(record, state, token);
    let mut response = json(status, &upload)?;
    tell_offset(response.headers_mut(), record, &upload.state);
    Ok(response)
}

/// The draft's headers.
fn tell_offset(headers: &mut HeaderMap, record: &HeldImageRecord, state: &UploadState) {
    let offset = match state {
        UploadState::Receiving { offset } => *offset,
        UploadState::Unknown => 0,
        UploadState::Importing { .. } | UploadState::Imported { .. } | UploadState::Failed { .. } => record.size,
    };
    let complete = if offset == record.size { "?1" } else { "?0" };
    headers.insert(UPLOAD_OFFSET, HeaderValue::from(offset));
    headers.insert(UPLOAD_LENGTH, HeaderValue::from(record.size));
    headers.insert(UPLOAD_COMPLETE, HeaderValue::from_static(complete));
}

fn offset(headers: &HeaderMap) -> Result<u64, ApiError> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !KINDS.contains(&kind) {
        let said = format!("send the piece with Content-Type: {PARTIAL_UPLOAD}");
        return Err(ApiError::new(Code::UnsupportedMediaType, said));
    }
    let offset = headers.get(UPLOAD_OFFSET).and_then(|value| value.to_str().ok()?.parse().ok());
    offset.ok_or_else(|| {
        let said = "Upload-Offset is where in the archive the body begins, in bytes";
        Fault::new(Code::InvalidRequest, said).field("Upload-Offset").into()
    })
}

fn wait() -> ApiError {
    let said = "another of your images is being made; commit this one again when it is there";
    Fault::new(Code::RateLimited, said).retry_after(SOON_S).into()
}

fn away() -> ApiError {
    Fault::new(Code::NodeUnavailable, "the node does not answer just now; try again").retry_after(SOON_S).into()
}

fn is_no_room(error: &ApiError) -> bool {
    matches!(error, ApiError::Fault(fault) if fault.code == Code::NoCapacity)
}

/// What a node says against an upload, in its words where they are for the holder.
fn refusal(error: &control::NodeError) -> ApiError {
    match error {
        control::NodeError::Refused(fault) => match fault.code {
            Code::BodyTooLarge | Code::WrongState | Code::InvalidRequest | Code::ImageRefused => {
                ApiError::new(fault.code, fault.error.clone())
            }
            Code::NoCapacity => {
                Fault::new(Code::NoCapacity, "the node has no room for it; try again later").retry_after(LATER_S).into()
            }
            Code::RateLimited => Fault::new(Code::RateLimited, fault.error.clone()).retry_after(SOON_S).into(),
            _ => {
                tracing::warn!(%error, "a node does not work on an upload");
                away()
            }
        },
        error => {
            tracing::warn!(%error, "a node does not answer about an upload");
            away()
        }
    }
}
