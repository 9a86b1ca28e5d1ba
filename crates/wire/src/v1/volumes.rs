//! Volumes: a wallet's own disks, which outlive every agent. The paths, and the names of the
//! first two fields, are those of E2B's `/volumes`; the other fields are ours.

use domain::{MountPath, PodId, SnapshotId, SnapshotState, UnixMillis, VolumeId, VolumeName, VolumeState};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /volumes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeRequest {
    /// What its owner calls it, in 1 to 63 letters, digits, dashes and underscores; one's own
    /// volumes have different names.
    #[schema(example = "work")]
    pub name: String,
    /// Its size, in MiB, from 64; 1024 where this is absent. It counts against the tier's disk
    /// quota, written or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 10_240)]
    pub size_mib: Option<u64>,
}

/// `PATCH /volumes/{id}`: a volume grows while no agent has it, and never shrinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeResize {
    /// Its new size, in MiB: no less than it has.
    #[schema(example = 20_480)]
    pub size_mib: u64,
}

/// A volume, as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    /// Its name for `/volumes/{id}`.
    #[serde(rename = "volumeID")]
    pub id: VolumeId,
    /// What its owner calls it.
    pub name: VolumeName,
    /// Its size, in MiB.
    pub size_mib: u64,
    /// What it takes of its node's disk. Of one volume that is asked for, where its node
    /// answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Where it is in its life.
    pub state: VolumeState,
    /// When it was asked for.
    pub created_at: UnixMillis,
    /// The live agent that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<VolumeAttachment>,
}

/// A live agent that has a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeAttachment {
    /// Which.
    pub agent_id: PodId,
    /// Where the volume is in it.
    pub path: MountPath,
}

/// `PUT /agents/{id}/volumes/{name}`: the agent, which does not run, has the volume at each of its
/// next starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// Where it is mounted.
    #[schema(example = "/workspace")]
    pub path: String,
}

/// A volume that each start of an agent has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentVolume {
    /// What its owner calls it.
    pub name: VolumeName,
    /// Where it is mounted.
    pub path: MountPath,
    /// The volume; absent where it was removed: then the agent does not start until it is detached.
    #[serde(default, rename = "volumeID", skip_serializing_if = "Option::is_none")]
    pub volume_id: Option<VolumeId>,
    /// The live agent that has it just now: one at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached_to: Option<PodId>,
}

/// A snapshot of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// Its name.
    #[serde(rename = "snapshotID")]
    pub id: SnapshotId,
    /// The volume that it is a copy of.
    #[serde(rename = "volumeID")]
    pub volume_id: VolumeId,
    /// Where it is in its life.
    pub state: SnapshotState,
    /// The size of the volume when it was made, in MiB.
    pub size_mib: u64,
    /// What it takes of its node's disk, which counts against the tier's disk quota; absent while it
    /// is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// When it was asked for.
    pub created_at: UnixMillis,
    /// Why it was not made, or the volume not put back to it the last time that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `POST /volumes/{id}/restore`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// The snapshot that the volume is put back to.
    #[serde(rename = "snapshotID")]
    #[schema(example = "5d1e2f3a4b6c7890")]
    pub snapshot_id: String,
}
