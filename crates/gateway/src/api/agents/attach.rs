//! `/agents/{id}/volumes`: which volumes an agent's starts have. They are changed while it does
//! not run; who has a volume is settled when an agent starts, one at a time.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use domain::{MountPath, MountPathError, PodId, VolumeMount, VolumeName, VolumeNameError};
use http::{Response, StatusCode};
use serde::Deserialize;
use store::{FoundVolume, MountOutcome, NewMount};
use wire::fault::{Code, Fault};
use wire::v1::volumes::{AgentVolume, AttachRequest};

use crate::api::agents::mounts::misnamed;
use crate::api::extract::{PathParams, PodPath, json, parse_json};
use crate::auth::caller::{ReadOnlyHolder, RunningHolder};
use crate::error::ApiError;
use crate::state::Gateway;

#[derive(Deserialize)]
pub(crate) struct AttachPath {
    id: String,
    name: String,
}

impl AttachPath {
    /// The agent and the volume. What cannot be an agent's id is not found.
    fn read(&self) -> Result<(PodId, VolumeName), ApiError> {
        let pod = self.id.parse().map_err(|_| ApiError::not_found())?;
        let name = self.name.parse().map_err(|error: VolumeNameError| misnamed(&error.to_string(), "name"))?;
        Ok((pod, name))
    }
}

/// The volumes that each start of an agent has, those that were removed included.
#[utoipa::path(
    get,
    operation_id = "agentVolumes",
    tag = "volumes",
    path = "/agents/{id}/volumes",
    params(("id" = PodId, Path, description = "The agent")),
    responses(
        (status = 200, description = "Its volumes, and where they are", body = Vec<AgentVolume>),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = []),
        ("bearer" = []),
        ("api_key" = [])
    )
)]
pub(crate) async fn list(
    State(gateway): State<Arc<Gateway>>,
    PodPath(id): PodPath,
    ReadOnlyHolder(holder): ReadOnlyHolder,
) -> Result<Response<Body>, ApiError> {
    let found = gateway.parts.store.pod_volumes(holder.wallet, id).await?;
    shown(found.ok_or_else(ApiError::not_found)?)
}

/// Has an agent that does not run find a volume at each of its next starts, or find it elsewhere.
#[utoipa::path(
    put,
    operation_id = "attachVolume",
    tag = "volumes",
    path = "/agents/{id}/volumes/{name}",
    params(("id" = PodId, Path, description = "The agent"), ("name" = VolumeName, Path, description = "The volume's name")),
    request_body = AttachRequest,
    responses(
        (status = 200, description = "All volumes that its next starts have", body = Vec<AgentVolume>),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []), ("bearer" = []), ("api_key" = []))
)]
pub(crate) async fn attach(
    State(gateway): State<Arc<Gateway>>,
    PathParams(path): PathParams<AttachPath>,
    RunningHolder(holder): RunningHolder,
) -> Result<Response<Body>, ApiError> {
    let (pod, name) = path.read()?;
    let AttachRequest { path } = parse_json(&holder.body)?;
    let path: MountPath = path.parse().map_err(|error: MountPathError| misnamed(&error.to_string(), "path"))?;
    let mount = VolumeMount { name, path };
    let new = NewMount { wallet: holder.wallet, pod, mount: mount.clone(), now: gateway.now() };
    match gateway.parts.store.mount_volume(new).await? {
        MountOutcome::NoVolume => {
            let said = format!("you have no volume {} that is ready; see GET /volumes", mount.name);
            Err(ApiError::new(Code::NoVolume, said))
        }
        outcome => changed(outcome, &mount.name),
    }
}

/// Has the next starts of an agent that does not run do without a volume, which stays.
#[utoipa::path(
    delete,
    operation_id = "detachVolume",
    tag = "volumes",
    path = "/agents/{id}/volumes/{name}",
    params(("id" = PodId, Path, description = "The agent"), ("name" = VolumeName, Path, description = "The volume's name")),
    responses(
        (status = 200, description = "The volumes that its next starts have", body = Vec<AgentVolume>),
        (status = "default", description = "What is wrong, by `code`", body = Fault),
    ),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []), ("bearer" = []), ("api_key" = []))
)]
pub(crate) async fn detach(
    State(gateway): State<Arc<Gateway>>,
    PathParams(path): PathParams<AttachPath>,
    RunningHolder(holder): RunningHolder,
) -> Result<Response<Body>, ApiError> {
    let (pod, name) = path.read()?;
    match gateway.parts.store.unmount_volume(holder.wallet, pod, name.clone()).await? {
        MountOutcome::NoVolume => {
            let said = format!("the agent has no volume {name}; see GET /agents/{pod}/volumes");
            Err(ApiError::new(Code::NoVolume, said))
        }
        outcome => changed(outcome, &name),
    }
}

fn changed(outcome: MountOutcome, name: &VolumeName) -> Result<Response<Body>, ApiError> {
    match outcome {
        MountOutcome::Changed(found) => shown(found),
        MountOutcome::NoPod => Err(ApiError::not_found()),
        MountOutcome::NoVolume => Err(ApiError::new(Code::NoVolume, format!("there is no volume {name}"))),
        MountOutcome::Runs => {
            let said = "an agent's volumes are changed while it does not run; stop it first, and start it again";
            Err(ApiError::new(Code::WrongState, said))
        }
        MountOutcome::Refused(error) => Err(misnamed(&error.to_string(), "path")),
        MountOutcome::Apart(other) => {
            let said = format!("the volumes {other} and {name} are on different nodes, and no agent can have both");
            Err(ApiError::new(Code::NoVolume, said))
        }
        MountOutcome::DataApart => {
            let said = format!(
                "the volume {name} and the data that is kept of the agent are on different nodes, and an agent has both \
                 where it runs; make a volume for another agent, or spawn a new agent with this one"
            );
            Err(ApiError::new(Code::NoVolume, said))
        }
    }
}

fn shown(found: Vec<FoundVolume>) -> Result<Response<Body>, ApiError> {
    let one = |FoundVolume { mount: VolumeMount { name, path }, volume }: FoundVolume| AgentVolume {
        name,
        path,
        volume_id: volume.as_ref().map(|volume| volume.id),
        attached_to: volume.and_then(|volume| volume.attached.map(|(pod, _)| pod)),
    };
    json(StatusCode::OK, &found.into_iter().map(one).collect::<Vec<_>>())
}
