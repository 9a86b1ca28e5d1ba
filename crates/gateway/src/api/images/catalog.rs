//! The images that are there: listed, named, published, removed.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use domain::{ImageId, ImageRef, Wallet};
use futures_util::future::join_all;
use http::{Response, StatusCode, Uri};
use serde::Deserialize;
use store::{HeldImageRecord, ImageOutcome};
use wire::fault::{Code, Fault};
use wire::v1::images::{ImageChange, ImageResponse, ImagesResponse, OperatorImage, RemovedImage, UploadState};

use crate::api::agents::admission::refused;
use crate::api::extract::{PathParams, json, parse_json, query};
use crate::api::images::quota::{no_image, over_quota, shown, used};
use crate::api::images::upload::PROMPT;
use crate::auth::caller::{Holder, ReadOnlyHolder, RemovingHolder};
use crate::error::ApiError;
use crate::state::Gateway;

/// Published images in one list at most.
const MAX_PUBLISHED: u32 = 500;

#[derive(Deserialize)]
pub(crate) struct ImagePath {
    image: String,
}

impl ImagePath {
    /// What is no name is not found.
    fn parse(&self) -> Result<ImageRef, ApiError> {
        self.image.parse().map_err(|_| no_image())
    }
}

/// `?wallet=`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageQuery {
    wallet: Option<Wallet>,
}

/// The images that the caller may spawn: its own, those of others that are published, the
/// operator's.
#[utoipa::path(
    get,
    operation_id = "images",
    tag = "images",
    path = "/images",
    responses((status = 200, description = "The images", body = ImagesResponse), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = []),
        ("bearer" = []),
        ("api_key" = [])
    )
)]
pub(crate) async fn list(
    State(gateway): State<Arc<Gateway>>,
    ReadOnlyHolder(holder): ReadOnlyHolder,
) -> Result<Response<Body>, ApiError> {
    // An image that the operator has just imported is listed; a node that hangs is not waited for.
    let _ = tokio::time::timeout(PROMPT, gateway.parts.control.fleet().refresh()).await;
    let on_their_way = gateway.parts.store.held_images_of(holder.wallet).await?;
    let uploads = join_all(on_their_way.iter().map(|record| gateway.listed_upload(record))).await;
    // One that has become an image meanwhile is one.
    let records = gateway.parts.store.held_images_of(holder.wallet).await?;
    let (published, published_more) = gateway.published().await?;
    let operator = gateway.parts.control.fleet().images().unwrap_or_default();
    let operator = operator.iter().map(|(name, digest)| OperatorImage { name: name.clone(), digest: *digest });
    let quota = gateway.image_quota(&holder.wallet).await.ok();
    let answer = ImagesResponse {
        own: records.iter().filter_map(shown).collect(),
        uploads: uploads.into_iter().flatten().filter(|upload| !is_there(&upload.state)).collect(),
        published: published.iter().filter(|record| record.wallet != holder.wallet).filter_map(shown).collect(),
        published_more,
        operator: operator.collect(),
        used_bytes: used(&records, None),
        quota_bytes: quota.map(|quota| quota.bytes),
    };
    json(StatusCode::OK, &answer)
}

/// One image: the caller's own, or with `wallet` one that this wallet has published.
#[utoipa::path(
    get,
    operation_id = "image",
    tag = "images",
    path = "/images/{image}",
    params(
        ("image" = ImageRef, Path, description = "What its holder calls it: `name:tag`, or `name` for its `latest`"),
        ("wallet" = Option<Wallet>, Query, description = "Whose it is, if it is not the caller's"),
    ),
    responses((status = 200, description = "The image", body = ImageResponse), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = []),
        ("bearer" = []),
        ("api_key" = [])
    )
)]
pub(crate) async fn one(
    State(gateway): State<Arc<Gateway>>,
    PathParams(path): PathParams<ImagePath>,
    uri: Uri,
    ReadOnlyHolder(holder): ReadOnlyHolder,
) -> Result<Response<Body>, ApiError> {
    let ImageQuery { wallet } = query(&uri)?;
    let of = wallet.unwrap_or(holder.wallet);
    let found = gateway.parts.store.held_image_named(of, path.parse()?).await?;
    let found = found.filter(|record| record.wallet == holder.wallet || record.published);
    told(&found.ok_or_else(no_image)?)
}

/// Gives one of the caller's images this name beside its own (`from`), or says whether
/// everybody may spawn the image of this name (`published`). What had the name is replaced.
#[utoipa::path(
    put,
    operation_id = "changeImage",
    tag = "images",
    path = "/images/{image}",
    params(("image" = ImageRef, Path, description = "The name: `name:tag`, or `name` for its `latest`")),
    request_body = ImageChange,
    responses((status = 200, description = "The image as it is now", body = ImageResponse), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []))
)]
pub(crate) async fn change(
    State(gateway): State<Arc<Gateway>>,
    PathParams(path): PathParams<ImagePath>,
    holder: Holder,
) -> Result<Response<Body>, ApiError> {
    let (image, change): (_, ImageChange) = (path.parse()?, parse_json(&holder.body)?);
    if change == ImageChange::default() {
        return Err(ApiError::invalid("say what is to change: from, published, or both"));
    }
    let mut record = match change.from {
        Some(from) => Some(gateway.tag(holder.wallet, from, image.clone()).await?),
        None => None,
    };
    if let Some(published) = change.published {
        record = gateway.parts.store.publish_image(holder.wallet, image, published).await?;
    }
    told(&record.ok_or_else(no_image)?)
}

/// Removes one of the caller's images: nobody spawns it any more. Agents that run from it go on;
/// what it takes of the disk comes back when the last of them has ended, and no other tag of the
/// same upload is left.
#[utoipa::path(
    delete,
    operation_id = "removeImage",
    tag = "images",
    path = "/images/{image}",
    params(("image" = ImageRef, Path, description = "The name: `name:tag`, or `name` for its `latest`")),
    responses((status = 200, description = "It is removed", body = RemovedImage), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []))
)]
pub(crate) async fn remove(
    State(gateway): State<Arc<Gateway>>,
    PathParams(path): PathParams<ImagePath>,
    RemovingHolder(holder): RemovingHolder,
) -> Result<Response<Body>, ApiError> {
    let image = path.parse()?;
    if !gateway.parts.store.remove_image(holder.wallet, image.clone()).await? {
        return Err(no_image());
    }
    gateway.images_over.notify_one();
    json(StatusCode::OK, &RemovedImage { success: true, image })
}

fn is_there(state: &UploadState) -> bool {
    matches!(state, UploadState::Imported { .. })
}

impl Gateway {
    /// What everybody may spawn, as many as one list has, and whether there are more: those that are left away are
    /// the older ones of whoever has published most.
    async fn published(&self) -> Result<(Vec<HeldImageRecord>, bool), ApiError> {
        let all = self.parts.store.published_images(MAX_PUBLISHED + 1).await?;
        if all.len() <= MAX_PUBLISHED as usize {
            return Ok((all, false));
        }
        Ok((self.parts.store.published_images(MAX_PUBLISHED).await?, true))
    }

    async fn tag(&self, wallet: Wallet, from: ImageRef, to: ImageRef) -> Result<HeldImageRecord, ApiError> {
        self.refuse_operators(&to)?;
        let quota = self.image_quota(&wallet).await.map_err(refused)?;
        let id = ImageId::from_bits(rand::random());
        let tagged = self.parts.store.tag_image(wallet, from, to, id, quota, self.now()).await?;
        match tagged {
            ImageOutcome::New(record) => {
                self.images_over.notify_one();
                Ok(record)
            }
            ImageOutcome::Existing(record) => Ok(record),
            ImageOutcome::OverQuota(over) => Err(over_quota(over, &quota, 0)),
            ImageOutcome::Unknown => {
                let fault = Fault::new(Code::NotFound, "there is no such image of yours to name so");
                Err(fault.field("from").into())
            }
        }
    }
}

fn told(record: &HeldImageRecord) -> Result<Response<Body>, ApiError> {
    json(StatusCode::OK, &ImageResponse { image: shown(record).ok_or_else(no_image)? })
}
