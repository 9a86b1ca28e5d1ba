//! The node API: what the control plane asks of `hypercore`.
//!
//! | call | does |
//! |---|---|
//! | `PUT /v1/sandboxes/{id}` [`SandboxSpec`] | makes it run; 202 [`Sandbox`]. The same spec again is 200 and changes nothing |
//! | `GET /v1/sandboxes` | all, as [`Sandboxes`] |
//! | `GET /v1/sandboxes/{id}` | one. `?wait_ms=` with `?until=ready` answers when it is ready or has failed |
//! | `DELETE /v1/sandboxes/{id}?pod=&grace_ms=&data=` | gone when this answers 200 [`DeleteResponse`]; unknown ids are gone already, and answered for by what is kept of `pod`. `data` is `keep` (default: the POD's data is kept) or `erase` |
//! | `GET /v1/disks` | disks that outlived their sandbox, as [`KeptDisks`] |
//! | `DELETE /v1/pods/{pod}/data` | erases what is kept of a POD: its owner's word; 204, also where nothing is kept |
//! | `PUT /v1/volumes/{id}` [`VolumeSpec`] | makes a volume, or finds it, and never another in its place: 201, 200 [`NodeVolume`]. One that is there is grown to a greater size, never shrunk |
//! | `GET /v1/volumes`, `GET /v1/volumes/{id}` | [`NodeVolumes`], [`NodeVolume`] |
//! | `DELETE /v1/volumes/{id}` | erases a volume that no sandbox has: its owner's word; 204, also where there is none |
//! | `PUT /v1/snapshots/{id}` [`SnapshotSpec`] | copies a volume that no sandbox has; asked again, says how that is: 202, 200 [`NodeSnapshot`] |
//! | `POST /v1/snapshots/{id}/restore` [`RestoreSpec`] | puts a volume back, once for each order; asked again, says how that is: 202, 200 [`NodeRestore`] |
//! | `GET /v1/snapshots`, `DELETE /v1/snapshots/{id}` | [`NodeSnapshots`]; erases one: its owner's word; 204, also where there is none |
//! | `GET /v1/sandboxes/{id}/logs?follow=&source=` | text lines; `source` is `agent` (default) or `console` |
//! | `GET /v1/sandboxes/{id}/tunnel` | `Upgrade: palatine-tunnel`: 101, then bytes to and from the agent's port |
//! | `POST /v1/sandboxes/{id}/pod/process.Process/*` | passed to `pod` with the node's own credential |
//! | `PUT`, `PATCH`, `GET`, `DELETE /v1/images/{id}`, `POST …/import` | a holder's image ([`crate::v1::images`]): its archive is to come, a piece of it, how it is, forget it; make it |
//! | `GET /v1/marks?after=&wait_ms=` | metering: [`MarksPage`], oldest first. Asking with `after=N` tells the node that 1..=N are kept |
//! | `GET /v1/node` | [`NodeInfo`] |
//! | `GET /health`, `/metrics`, `/openapi.json` | as everywhere |

use std::collections::BTreeMap;

use domain::{
    DiskMark, FailReason, Generation, ImageDigest, Mark, MountPath, NodeShortage, PodId, RunId, RuntimeKind,
    SnapshotId, TierName, UnixMillis, VolumeId, VolumeName, Wallet,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Environment;

/// The protocol name a tunnel upgrades to.
pub const TUNNEL: &str = "palatine-tunnel";

/// The desired state of one sandbox.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxSpec {
    /// The POD that this is a run of: its `/data` is called by that name.
    pub pod: PodId,
    /// Whether there must be something on that `/data` already.
    pub data: DataDisk,
    /// Rises with each change of what is desired.
    pub generation: Generation,
    /// What to boot; must be in the node's image store.
    pub image: ImageDigest,
    /// Virtual processors.
    pub cores: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// The volumes that it has for itself, each of which the node must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<SandboxVolume>,
    /// What isolates it: one of those that the node offers, and no other in its place. The
    /// strongest of those where it is absent. With volumes it must be a machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeName>,
    /// The agent's environment. Sealed on the node's disk, wiped at stop; in no
    /// answer.
    #[serde(default)]
    pub env: Environment,
}

/// A volume that a sandbox has, and where its guest mounts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxVolume {
    /// Which.
    pub id: VolumeId,
    /// What its owner calls it, for what is said of it.
    pub name: VolumeName,
    /// Where it is mounted.
    pub path: MountPath,
}

/// `PUT /v1/volumes/{id}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// Its size, in MiB: promised of the node's disk, written or not.
    pub size_mib: u64,
    /// Whether it must be there already: then it is grown, and none is made in its place.
    #[serde(default)]
    pub exists: bool,
}

/// A volume, as its node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeVolume {
    /// Which.
    pub id: VolumeId,
    /// Its size, in MiB.
    pub size_mib: u64,
    /// What it takes of the node's disk.
    pub bytes: u64,
    /// The sandbox that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<RunId>,
}

/// The volumes of a node.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeVolumes {
    /// In the order of their ids.
    pub volumes: Vec<NodeVolume>,
}

/// `PUT /v1/snapshots/{id}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotSpec {
    /// What it is to be a copy of.
    pub volume: VolumeId,
    /// Whose it is: holders' disks are copied by turns. Without it, it waits behind all others without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Wallet>,
}

/// `POST /v1/snapshots/{id}/restore`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreSpec {
    /// What is to be put back.
    pub volume: VolumeId,
    /// Rises with each restore of the volume: what comes late takes nothing back.
    pub order: u64,
    /// Whose it is: holders' disks are copied by turns. Without it, it waits behind all others without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Wallet>,
}

/// How far a copy of a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CopyState {
    /// It is made.
    Copying,
    /// It is there, whole.
    Done,
}

/// A snapshot, as its node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeSnapshot {
    /// Which.
    pub id: SnapshotId,
    /// How far it is.
    pub state: CopyState,
    /// The size of the disk that it is a copy of, in MiB; 0 while it is made.
    pub size_mib: u64,
    /// What it takes of the node's disk; 0 while it is made.
    pub bytes: u64,
}

/// The snapshots of a node that are whole.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeSnapshots {
    /// In the order of their ids.
    pub snapshots: Vec<NodeSnapshot>,
}

/// A volume that is put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeRestore {
    /// How far that is.
    pub state: CopyState,
}

/// What a run finds on its POD's `/data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DataDisk {
    /// What the node keeps of the POD; an empty disk, where it keeps nothing.
    KeptOrEmpty,
    /// What the node keeps of the POD. Where it keeps nothing the run is refused
    /// (`no_data`): an empty disk in its place would be found when the data is missed.
    Kept,
}

/// What a node says of one sandbox. Never its environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sandbox {
    /// The run it is for.
    pub id: RunId,
    /// The POD that this is a run of.
    pub pod: PodId,
    /// The generation it runs.
    pub generation: Generation,
    /// What it boots.
    pub image: ImageDigest,
    /// Virtual processors.
    pub cores: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// The TCP port that its agent serves.
    pub port: u16,
    /// Where it is.
    pub phase: SandboxPhase,
    /// What isolates it, with its accelerator.
    pub runtime: RuntimeName,
    /// How often it has been started again since it was made.
    pub restarts: u32,
    /// When the node was first told.
    pub created_at: UnixMillis,
    /// Milliseconds from the node being told to the first readiness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_after_ms: Option<u64>,
    /// The VMM's process id, for the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What it waits for, in a sentence for the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What its guest says of its agent; absent while it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestReport>,
}

/// What a guest says of its agent. The guest is its tenant's: this is shown to the tenant, and
/// nothing else is made of it. Texts are cut short, and hold nothing that a terminal obeys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestReport {
    /// How often the agent's process has ended by itself, or could not be started.
    #[serde(default)]
    pub exits: u32,
    /// How it ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<GuestExit>,
    /// How much of the check of its volumes is done, in per cent, while that goes on: it is not started before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<u8>,
    /// What it wrote last, oldest first: 10 lines at most. Where one sandbox alone is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
}

/// How an agent's process ended, by its guest's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestExit {
    /// Such as `exit status 1` or `signal: killed`.
    #[schema(example = "exit status 1")]
    pub how: String,
    /// When the node heard of it.
    pub at: UnixMillis,
}

/// Where a sandbox is, on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "name")]
pub enum SandboxPhase {
    /// The guest is starting.
    Booting,
    /// The agent answers.
    Ready,
    /// The guest died; it is started again at `at`.
    Backoff {
        /// When.
        at: UnixMillis,
    },
    /// The node lacks something. It is tried again, for as long as that takes; no
    /// failure of the agent, and not billed.
    Waiting {
        /// What it lacks.
        lacks: NodeShortage,
        /// Since when.
        since: UnixMillis,
    },
    /// It is being taken down.
    Stopping,
    /// It died too often. Waits to be deleted.
    Failed {
        /// Why.
        reason: FailReason,
    },
}

/// What really isolates a sandbox: never anything else in its place. The strongest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuntimeName {
    /// QEMU's `microvm` machine on KVM.
    QemuKvm,
    /// QEMU's `microvm` machine, emulated.
    QemuTcg,
    /// A container in a user namespace, whose kernel is gVisor's.
    ContainerGvisor,
    /// A container in a user namespace, made by runc: its kernel is the node's.
    ContainerRunc,
    /// The same, made by crun.
    ContainerCrun,
}

impl RuntimeName {
    /// All, the strongest first.
    pub const ALL: [Self; 5] =
        [Self::QemuKvm, Self::QemuTcg, Self::ContainerGvisor, Self::ContainerRunc, Self::ContainerCrun];

    /// What an operator calls it.
    #[must_use]
    pub const fn kind(self) -> RuntimeKind {
        match self {
            Self::QemuKvm | Self::QemuTcg => RuntimeKind::Qemu,
            Self::ContainerGvisor => RuntimeKind::ContainerGvisor,
            Self::ContainerRunc => RuntimeKind::ContainerRunc,
            Self::ContainerCrun => RuntimeKind::ContainerCrun,
        }
    }

    /// Whether guests have no machine of their own.
    #[must_use]
    pub const fn is_container(self) -> bool {
        match self {
            Self::QemuKvm | Self::QemuTcg => false,
            Self::ContainerGvisor | Self::ContainerRunc | Self::ContainerCrun => true,
        }
    }

    /// Whether it is meant by a name: its own (`qemu-kvm`), or what that begins with (`qemu`).
    #[must_use]
    pub fn is_called(self, name: &str) -> bool {
        self.as_str().strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// The name as the wire writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QemuKvm => "qemu-kvm",
            Self::QemuTcg => "qemu-tcg",
            Self::ContainerGvisor => "container-gvisor",
            Self::ContainerRunc => "container-runc",
            Self::ContainerCrun => "container-crun",
        }
    }
}

/// All sandboxes of a node.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Sandboxes {
    /// In the order of their ids.
    pub sandboxes: Vec<Sandbox>,
    /// Those whose records the node cannot read. They are not gone: nothing of
    /// them is touched until they are repaired or deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantined: Vec<Quarantined>,
}

/// A sandbox whose record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quarantined {
    /// The run it is for.
    pub id: RunId,
    /// Whether its guest runs on. Nobody is let in, and nobody billed.
    pub runs: bool,
    /// What is wrong and how it is repaired, in a sentence for the operator.
    pub cause: String,
}

/// What becomes of a sandbox's disks when it is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DataPolicy {
    /// They are set aside for the node's retention.
    #[default]
    Keep,
    /// They are erased: their owner's word.
    Erase,
}

impl DataPolicy {
    /// The word as the wire writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Erase => "erase",
        }
    }
}

/// What a deletion leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeleteResponse {
    /// The sandbox that is gone.
    pub id: RunId,
    /// What is kept of its POD's data; absent where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptData>,
}

/// What a node keeps of a POD that does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeptData {
    /// Until when; absent where the note of it cannot be read, and then it is never
    /// erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixMillis>,
    /// What it takes of the node's disk.
    pub bytes: u64,
}

/// The disks that outlived their sandboxes on a node.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeptDisks {
    /// For how many days disks are kept.
    pub retention_days: u64,
    /// In the order of their names.
    pub kept: Vec<KeptDisk>,
}

/// The disks of one run that outlived it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeptDisk {
    /// Their folder, under `kept` in the node's state folder.
    pub name: String,
    /// The POD whose they are.
    pub pod: PodId,
    /// What they take of the node's disk.
    pub bytes: u64,
    /// Why they were set aside; absent where the note beside them cannot be read,
    /// and then they are never erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

/// For how long disks are kept, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Retention {
    /// When they were set aside.
    pub since: UnixMillis,
    /// When they may be erased.
    pub until: UnixMillis,
    /// Why they were set aside.
    pub cause: KeptCause,
}

/// Why disks were set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeptCause {
    /// Their run has ended, and nobody has said that they go.
    Deleted,
    /// They were found without a sandbox.
    Found,
}

/// A stretch of the node's metering journal.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MarksPage {
    /// The journal these numbers belong to: a node that lost its disk starts a
    /// new one.
    pub journal: String,
    /// The marks, in order.
    pub marks: Vec<AgentMark>,
    /// Marks of disks, in the same order: their numbers are between those of the marks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskMark>,
}

/// One entry of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentMark {
    /// The run it is about.
    pub agent: RunId,
    /// What was seen.
    #[serde(flatten)]
    pub mark: Mark,
}

/// A node, as it describes itself.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// What it runs agents in where nothing else is asked for: the strongest that it offers.
    pub runtime: RuntimeName,
    /// Why that accelerator, in one sentence.
    pub runtime_reason: String,
    /// All that it offers, the strongest first; absent where an older node offers one alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runtimes: Vec<RuntimeName>,
    /// Physical processors.
    pub cores: u32,
    /// Virtual processors still to be given.
    pub free_cores: u32,
    /// Memory for guests, in MiB.
    pub memory_mib: u64,
    /// Memory still to be given, in MiB.
    pub free_memory_mib: u64,
    /// Memory of the largest agent it could hold if it were empty, in MiB; absent where
    /// an older node does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_memory_mib: Option<u64>,
    /// Its disk; absent where an older node says nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<NodeDisk>,
    /// Live sandboxes.
    pub sandboxes: u32,
    /// The images it holds, by name.
    pub images: BTreeMap<String, ImageDigest>,
    /// What those of them need that need anything, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub image_needs: BTreeMap<String, ImageNeeds>,
}

/// What an image needs to work, as its labels say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageNeeds {
    /// `ai.palatine.min-memory`: the least memory, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_memory_mib: Option<u32>,
    /// `ai.palatine.min-tier`: the lowest tier, where the operator has one of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_tier: Option<TierName>,
    /// `ai.palatine.runtimes`: the runtimes that it works in, by name (`qemu-kvm`) or by what
    /// their names begin with (`qemu`); in any where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runtimes: Vec<String>,
}

impl ImageNeeds {
    /// Whether it works anywhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it works in this runtime.
    #[must_use]
    pub fn allow(&self, runtime: &str) -> bool {
        let named = |name: &String| {
            runtime.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        self.runtimes.is_empty() || self.runtimes.iter().any(named)
    }
}

impl NodeInfo {
    /// What it offers, the strongest first.
    #[must_use]
    pub fn offers(&self) -> Vec<RuntimeName> {
        if self.runtimes.is_empty() { vec![self.runtime] } else { self.runtimes.clone() }
    }
}

/// The disk under a node's state folder, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeDisk {
    /// Its size.
    pub size_mib: u64,
    /// What nothing has written to.
    pub free_mib: u64,
    /// What must stay free.
    pub least_free_mib: u64,
    /// What is promised to the sandboxes and volumes: their disks' sizes, written or not.
    pub promised_mib: u64,
    /// What may still be promised: above zero also where `overcommit_percent`
    /// promises more than there is.
    pub promisable_mib: u64,
    /// Percent of the room for guests' disks that is promised at most.
    pub overcommit_percent: u32,
    /// What each sandbox is promised.
    pub sandbox_mib: u64,
    /// Disks that outlived their sandboxes.
    pub kept: u32,
    /// What those take.
    pub kept_mib: u64,
}
