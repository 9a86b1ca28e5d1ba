//! `/volumes/{id}/snapshots`: copies of one's volumes, and putting a volume back to one. An API key
//! of scope `run` makes one; only the wallet itself removes one, or puts a volume back, which what
//! is on it now does not outlive.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use control::VolumeError;
use domain::{SnapshotId, SnapshotState, VolumeId};
use http::{Response, StatusCode};
use serde::Deserialize;
use store::SnapshotRecord;
use wire::fault::{Code, Fault};
use wire::v1::volumes::{RestoreRequest, Snapshot};

use crate::api::extract::{PathParams, json, parse_json};
use crate::api::volumes::{VolumePath, fault, unknown};
use crate::auth::caller::{Holder, ReadOnlyHolder, RemovingHolder, RunningHolder};
use crate::error::{ApiError, SOON_S};
use crate::state::Gateway;

#[derive(Deserialize)]
pub(crate) struct SnapshotPath {
    id: String,
    snapshot: String,
}

impl SnapshotPath {
    fn read(&self) -> Result<(VolumeId, SnapshotId), ApiError> {
        let volume = self.id.parse().map_err(|_| unknown())?;
        Ok((volume, self.snapshot.parse().map_err(|_| missing())?))
    }
}

/// Has a volume copied that no live agent has: what is on its disk, as a crash would leave it,
/// whole and of one instant. No agent gets the volume until that is done.
#[utoipa::path(
    post,
    operation_id = "createSnapshot",
    tag = "volumes",
    path = "/volumes/{id}/snapshots",
    params(("id" = VolumeId, Path, description = "The volume")),
    responses(
        (status = 201, description = "It is there", body = Snapshot),
        (status = 202, description = "Its node makes it; list them to see how it is", body = Snapshot),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []), ("bearer" = []), ("api_key" = []))
)]
pub(crate) async fn create(
    State(gateway): State<Arc<Gateway>>,
    PathParams(path): PathParams<VolumePath>,
    RunningHolder(holder): RunningHolder,
) -> Result<Response<Body>, ApiError> {
    let id = SnapshotId::from_bits(rand::random());
    let made = gateway.parts.control.create_snapshot(holder.wallet, path.id()?, id).await.map_err(fault)?;
    let status = if made.state == SnapshotState::Ready { StatusCode::CREATED } else { StatusCode::ACCEPTED };
    json(status, &shown(made))
}

/// The snapshots of a volume, the oldest first.
#[utoipa::path(
    get,
    operation_id = "listSnapshots",
    tag = "volumes",
    path = "/volumes/{id}/snapshots",
    params(("id" = VolumeId, Path, description = "The volume")),
    responses((status = 200, description = "Its snapshots", body = Vec<Snapshot>), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = []),
        ("bearer" = []),
        ("api_key" = [])
    )
)]
pub(crate) async fn list(
    State(gateway): State<Arc<Gateway>>,
    PathParams(path): PathParams<VolumePath>,
    ReadOnlyHolder(holder): ReadOnlyHolder,
) -> Result<Response<Body>, ApiError> {
    let id = path.id()?;
    gateway.parts.store.volume(holder.wallet, id).await?.ok_or_else(unknown)?;
    let snapshots = gateway.parts.store.snapshots_of(holder.wallet, id).await?;
    json(StatusCode::OK, &snapshots.into_iter().map(shown).collect::<Vec<_>>())
}

/// Puts a volume that no live agent has back to what a snapshot of it holds: what is on it now is
/// gone. No agent gets the volume until that is done.
#[utoipa::path(
    post,
    operation_id = "restoreVolume",
    tag = "volumes",
    path = "/volumes/{id}/restore",
    params(("id" = VolumeId, Path, description = "The volume")),
    request_body = RestoreRequest,
    responses(
        (status = 200, description = "It is what the snapshot holds", body = Snapshot),
        (status = 202, description = "Its node is at it; list the snapshots to see how it is", body = Snapshot),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []))
)]
pub(crate) async fn restore(
    State(gateway): State<Arc<Gateway>>,
    PathParams(path): PathParams<VolumePath>,
    holder: Holder,
) -> Result<Response<Body>, ApiError> {
    let RestoreRequest { snapshot_id } = parse_json(&holder.body)?;
    let snapshot = snapshot_id.parse().map_err(|error: domain::SnapshotIdError| {
        ApiError::from(Fault::new(Code::InvalidRequest, error.to_string()).field("snapshotID"))
    })?;
    let restored = gateway.parts.control.restore_volume(holder.wallet, path.id()?, snapshot).await.map_err(of_one)?;
    let status = if restored.state == SnapshotState::Ready { StatusCode::OK } else { StatusCode::ACCEPTED };
    json(status, &shown(restored))
}

/// Removes a snapshot.
#[utoipa::path(
    delete,
    operation_id = "removeSnapshot",
    tag = "volumes",
    path = "/volumes/{id}/snapshots/{snapshot}",
    params(("id" = VolumeId, Path, description = "The volume"), ("snapshot" = SnapshotId, Path, description = "The snapshot")),
    responses((status = 204, description = "It is gone"), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []))
)]
pub(crate) async fn remove(
    State(gateway): State<Arc<Gateway>>,
    PathParams(path): PathParams<SnapshotPath>,
    RemovingHolder(holder): RemovingHolder,
) -> Result<Response<Body>, ApiError> {
    let (volume, snapshot) = path.read()?;
    match gateway.parts.control.remove_snapshot(holder.wallet, volume, snapshot).await {
        Ok(()) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            Ok(response)
        }
        Err(VolumeError::NodeUnavailable(_)) => {
            let said = "nobody pays for the snapshot any more, and its node does not answer just now: it is erased when \
                        it does";
            Err(Fault::new(Code::NodeUnavailable, said).retry_after(SOON_S).into())
        }
        Err(error) => Err(of_one(error)),
    }
}

/// What is wrong with what was asked of one snapshot.
fn of_one(error: VolumeError) -> ApiError {
    match error {
        VolumeError::Unknown => missing(),
        error => fault(error),
    }
}

fn missing() -> ApiError {
    ApiError::new(Code::NotFound, "there is no such snapshot of this volume, or they are not yours")
}

/// A snapshot as its owner sees it.
fn shown(record: SnapshotRecord) -> Snapshot {
    let SnapshotRecord { id, volume, state, size_mib, bytes, created_at, error, wallet: _, node: _, order: _ } = record;
    let bytes = (!matches!(state, SnapshotState::Creating | SnapshotState::Failed)).then_some(bytes);
    Snapshot { id, volume_id: volume, state, size_mib, bytes, created_at, error }
}
