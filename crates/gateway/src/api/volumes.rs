//! `/volumes`: a wallet's own disks, which outlive every agent. An API key of scope `read` sees
//! them, one of scope `run` makes and grows them; the wallet alone removes one.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use control::{VolumeError, VolumeGrowthOrder, VolumeOrder};
use domain::{
    DEFAULT_VOLUME_MIB, MAX_VOLUME_MIB, MIN_VOLUME_MIB, SnapshotState, VolumeId, VolumeName, VolumeNameError,
    VolumeState,
};
use http::{Response, StatusCode};
use serde::Deserialize;
use store::VolumeRecord;
use wire::fault::{Code, Fault};
use wire::v1::content::VolumeAndToken;
use wire::v1::volumes::{Volume, VolumeAttachment, VolumeRequest, VolumeResize};

use crate::api::agents::admission::refused;
use crate::api::agents::mounts::{attached, misnamed};
use crate::api::extract::{PathParams, json, parse_json};
use crate::auth::caller::{ReadOnlyHolder, RemovingHolder, RunningHolder};
use crate::error::{ApiError, LATER_S, SOON_S};
use crate::state::Gateway;

#[derive(Deserialize)]
pub(crate) struct VolumePath {
    id: String,
}

impl VolumePath {
    /// What cannot be an id is not found.
    pub(crate) fn id(&self) -> Result<VolumeId, ApiError> {
        self.id.parse().map_err(|_| unknown())
    }
}

/// Makes a volume, empty, on the node that has the most room for it.
#[utoipa::path(
    post,
    operation_id = "createVolume",
    tag = "volumes",
    path = "/volumes",
    request_body = VolumeRequest,
    responses(
        (status = 201, description = "It can be attached", body = VolumeAndToken),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []), ("bearer" = []), ("api_key" = []))
)]
pub(crate) async fn create(
    State(gateway): State<Arc<Gateway>>,
    RunningHolder(holder): RunningHolder,
) -> Result<Response<Body>, ApiError> {
    let VolumeRequest { name, size_mib } = parse_json(&holder.body)?;
    let name: VolumeName = name.parse().map_err(|error: VolumeNameError| misnamed(&error.to_string(), "name"))?;
    let size_mib = checked_size(size_mib.unwrap_or(DEFAULT_VOLUME_MIB))?;
    let order = VolumeOrder { holder: holder.wallet, id: VolumeId::from_bits(rand::random()), name, size_mib };
    let volume = gateway.parts.control.create_volume(order).await.map_err(fault)?;
    json(StatusCode::CREATED, &gateway.with_token(shown(volume), &holder))
}

/// The caller's volumes, in the order of their names.
#[utoipa::path(
    get,
    operation_id = "listVolumes",
    tag = "volumes",
    path = "/volumes",
    responses((status = 200, description = "One's own volumes", body = Vec<Volume>), (status = "default", description = "What is wrong, by `code`", body = Fault)),
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
    let volumes = gateway.parts.store.volumes_of(holder.wallet).await?;
    json(StatusCode::OK, &volumes.into_iter().map(shown).collect::<Vec<_>>())
}

/// One of the caller's volumes, with what it takes of its node's disk.
#[utoipa::path(
    get,
    operation_id = "volume",
    tag = "volumes",
    path = "/volumes/{id}",
    params(("id" = VolumeId, Path, description = "The volume")),
    responses((status = 200, description = "The volume, with a token for its files", body = VolumeAndToken), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = []),
        ("bearer" = []),
        ("api_key" = [])
    )
)]
pub(crate) async fn show(
    State(gateway): State<Arc<Gateway>>,
    PathParams(path): PathParams<VolumePath>,
    ReadOnlyHolder(holder): ReadOnlyHolder,
) -> Result<Response<Body>, ApiError> {
    let volume = gateway.parts.store.volume(holder.wallet, path.id()?).await?.ok_or_else(unknown)?;
    let bytes = gateway.parts.control.volume_bytes(&volume).await;
    json(StatusCode::OK, &gateway.with_token(Volume { bytes, ..shown(volume) }, &holder))
}

/// Grows a volume that no live agent has. The agent that has it next finds the room.
#[utoipa::path(
    put,
    operation_id = "resizeVolume",
    tag = "volumes",
    path = "/volumes/{id}",
    request_body = VolumeResize,
    params(("id" = VolumeId, Path, description = "The volume")),
    responses((status = 200, description = "It has that size", body = Volume), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []), ("bearer" = []), ("api_key" = []))
)]
pub(crate) async fn resize(
    State(gateway): State<Arc<Gateway>>,
    PathParams(path): PathParams<VolumePath>,
    RunningHolder(holder): RunningHolder,
) -> Result<Response<Body>, ApiError> {
    let VolumeResize { size_mib } = parse_json(&holder.body)?;
    let order = VolumeGrowthOrder { holder: holder.wallet, id: path.id()?, size_mib: checked_size(size_mib)? };
    let volume = gateway.parts.control.grow_volume(order).await.map_err(fault)?;
    json(StatusCode::OK, &shown(volume))
}

/// Removes a volume that no live agent has, with all that is on it.
#[utoipa::path(
    delete,
    operation_id = "removeVolume",
    tag = "volumes",
    path = "/volumes/{id}",
    params(("id" = VolumeId, Path, description = "The volume")),
    responses((status = 204, description = "It is gone"), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []))
)]
pub(crate) async fn remove(
    State(gateway): State<Arc<Gateway>>,
    PathParams(path): PathParams<VolumePath>,
    RemovingHolder(holder): RemovingHolder,
) -> Result<Response<Body>, ApiError> {
    match gateway.parts.control.remove_volume(holder.wallet, path.id()?).await {
        Ok(()) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            Ok(response)
        }
        Err(VolumeError::NodeUnavailable(_)) => {
            let said =
                "nobody gets the volume any more, and its node does not answer just now: it is erased when it does";
            Err(Fault::new(Code::NodeUnavailable, said).retry_after(SOON_S).into())
        }
        Err(error) => Err(fault(error)),
    }
}

/// A volume as its owner sees it.
fn shown(record: VolumeRecord) -> Volume {
    let VolumeRecord { id, name, size_mib, state, created_at, attached, wallet: _, node: _ } = record;
    let attached = attached.map(|(agent_id, path)| VolumeAttachment { agent_id, path });
    Volume { id, name, size_mib, bytes: None, state, created_at, attached }
}

fn checked_size(size_mib: u64) -> Result<u64, ApiError> {
    if (MIN_VOLUME_MIB..=MAX_VOLUME_MIB).contains(&size_mib) {
        return Ok(size_mib);
    }
    let said = format!("size_mib must be from {MIN_VOLUME_MIB} to {MAX_VOLUME_MIB}, not {size_mib}");
    Err(Fault::new(Code::InvalidRequest, said).field("size_mib").into())
}

pub(crate) fn unknown() -> ApiError {
    ApiError::new(Code::NotFound, "there is no such volume, or it is not yours")
}

/// Why nothing came of what was asked of a volume, in the words of this API.
pub(crate) fn fault(error: VolumeError) -> ApiError {
    match error {
        VolumeError::Tier(error) => refused(error),
        VolumeError::Exists(volume) if volume.state == VolumeState::Removing => {
            let said = format!("your volume {} is being removed, and its name is free when that is done", volume.name);
            Fault::new(Code::VolumeExists, said).field("name").retry_after(SOON_S).into()
        }
        VolumeError::Exists(volume) => {
            let said = format!("you have a volume {} ({} MiB); choose another name", volume.name, volume.size_mib);
            Fault::new(Code::VolumeExists, said).field("name").into()
        }
        VolumeError::TooMany => Fault::new(Code::DiskQuota, format!("{error}; remove one of them")).into(),
        VolumeError::QuotaFull { .. } => {
            let said = format!(
                "{error}, of your volumes, their snapshots and agents that do not run; ask for less, or remove some"
            );
            Fault::new(Code::DiskQuota, said).field("size_mib").into()
        }
        VolumeError::NoRoom => {
            Fault::new(Code::NoCapacity, "no node has disk for it just now; ask for less").retry_after(LATER_S).into()
        }
        VolumeError::TooLarge => {
            let said = "no node has a disk that could hold it, even if nothing else were on it; ask for less";
            Fault::new(Code::ExceedsCapacity, said).field("size_mib").into()
        }
        VolumeError::Unknown => unknown(),
        VolumeError::Unsettled(state) => {
            let said = format!("the volume is {} just now", state.as_str());
            Fault::new(Code::WrongState, said).retry_after(SOON_S).into()
        }
        VolumeError::SnapshotBusy(SnapshotState::Failed) => {
            ApiError::new(Code::WrongState, "the snapshot was not made: its entry says why, and can be removed")
        }
        VolumeError::SnapshotBusy(_) => Fault::new(Code::WrongState, error.to_string()).retry_after(SOON_S).into(),
        VolumeError::TooManySnapshots => Fault::new(Code::DiskQuota, format!("{error}; remove one of them")).into(),
        VolumeError::HasSnapshots(_) => {
            let said = format!("{error}, which cannot be put back without it; remove them first");
            ApiError::new(Code::WrongState, said)
        }
        VolumeError::NotCopied(_) => {
            tracing::warn!(%error, "a node does not do what is asked of a volume");
            let said = "the volume's node cannot do that just now, and has left the volume as it was; try again";
            Fault::new(Code::WrongState, said).retry_after(SOON_S).into()
        }
        VolumeError::Shrinks(_) => Fault::new(Code::InvalidRequest, error.to_string()).field("size_mib").into(),
        VolumeError::Attached(pod) => attached(format!("the agent {pod} has the volume; stop it first"), pod),
        VolumeError::Lost(_) => {
            tracing::error!(%error, "a volume is not where it should be");
            ApiError::new(Code::NoVolume, "the volume's node holds it no more; its operator may find it")
        }
        VolumeError::NodeUnavailable(_) => {
            let said = "the node does not answer just now; try the same again";
            Fault::new(Code::NodeUnavailable, said).retry_after(SOON_S).into()
        }
        VolumeError::Store(error) => error.into(),
    }
}
