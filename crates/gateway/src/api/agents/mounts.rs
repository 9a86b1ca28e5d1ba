//! The volumes that a spawn asks for: read, and refused in the words of this API.

use domain::{MountPath, MountPathError, PodId, VolumeMount, VolumeName, VolumeNameError, check_mounts};
use store::VolumeRefusal;
use wire::fault::{Code, Fault};
use wire::v1::public::SpawnVolume;

use crate::error::ApiError;

/// The volumes that a spawn asks for, if one agent can have them.
pub(crate) fn mounts(asked: Vec<SpawnVolume>) -> Result<Vec<VolumeMount>, ApiError> {
    let mount = |SpawnVolume { name, path }: SpawnVolume| {
        let name: VolumeName =
            name.parse().map_err(|error: VolumeNameError| misnamed(&error.to_string(), "volumes.name"))?;
        let path: MountPath =
            path.parse().map_err(|error: MountPathError| misnamed(&error.to_string(), "volumes.path"))?;
        Ok::<_, ApiError>(VolumeMount { name, path })
    };
    let mounts = asked.into_iter().map(mount).collect::<Result<Vec<_>, _>>()?;
    check_mounts(&mounts).map_err(|error| misnamed(&error.to_string(), "volumes"))?;
    Ok(mounts)
}

/// Why a run cannot have its volumes.
pub(crate) fn no_volumes(refusal: VolumeRefusal) -> ApiError {
    match refusal {
        VolumeRefusal::Unknown(name) => {
            let said =
                format!("you have no volume {name} that is ready; see GET /volumes, or make it by POST /volumes");
            Fault::new(Code::NoVolume, said).field("volumes").into()
        }
        VolumeRefusal::Attached { name, pod } => attached(
            format!("the agent {pod} has the volume {name}, which has one writer at a time; stop that agent first"),
            pod,
        ),
        VolumeRefusal::Apart { one, other } => {
            let said = format!("the volumes {one} and {other} are on different nodes, and no agent can have both");
            Fault::new(Code::NoVolume, said).field("volumes").into()
        }
    }
}

/// A volume that a live agent has.
pub(crate) fn attached(said: String, pod: PodId) -> ApiError {
    let mut fault = Fault::new(Code::VolumeAttached, said);
    fault.agent_id = Some(pod);
    fault.into()
}

/// A field of a wrong shape.
pub(crate) fn misnamed(said: &str, field: &str) -> ApiError {
    Fault::new(Code::InvalidRequest, said).field(field).into()
}
