//! Why the node will not make a sandbox, or do what is asked of a volume.

use std::path::PathBuf;

use domain::{
    MAX_VOLUME_MIB, MIN_VOLUME_MIB, MountsError, PlacementError, PodId, RunId, SnapshotId, Tiers, VolumeId, VolumeName,
};
use sandbox::{DriverError, DriverFailure};
use wire::EnvironmentError;

use crate::ledger::LedgerError;
use crate::turns::QueueFull;

/// Why the node will not make a sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    #[error("cores must be at least 1")]
    Cores,
    #[error("memory_mib must be at least {least}", least = Tiers::MIN_MEMORY_MIB)]
    Memory,
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    #[error("this node does not offer the runtime {wanted}; it offers {offered}")]
    Runtime { wanted: &'static str, offered: String },
    #[error(
        "the data of the POD {0} was written by a machine, and no host mounts such a disk: start it in a machine again"
    )]
    DataOfMachine(PodId),
    #[error("a sandbox with volumes needs a machine: no host mounts what a machine wrote")]
    VolumesNeedMachine,
    #[error("this node does not have the image {0}")]
    NoImage(domain::ImageDigest),
    #[error("{}", no_room(.0))]
    NoRoom(PlacementError),
    #[error("this node's disk is full: {free_mib} MiB are free in {} and {least_mib} MiB must stay free", .path.display())]
    DiskFull { path: PathBuf, free_mib: u64, least_mib: u64 },
    #[error("this node has metering marks that nobody fetches; it takes no more sandboxes until they are")]
    MarksFull,
    #[error("the sandbox is held with another spec, or at another generation")]
    Stale,
    #[error("the sandbox is being taken down")]
    Stopping,
    #[error("the POD {pod} runs already, as {run}")]
    PodRunning { pod: PodId, run: RunId },
    #[error("this node keeps no data of the POD {0}")]
    NoData(PodId),
    #[error(transparent)]
    Volumes(#[from] MountsError),
    #[error("this node does not hold the volume {name} ({id})")]
    NoVolume { id: VolumeId, name: VolumeName },
    #[error("the volume {name} is attached to the sandbox {run}")]
    VolumeAttached { name: VolumeName, run: RunId },
    #[error("the volume {0} is being copied to a snapshot, or put back to one")]
    VolumeCopied(VolumeName),
    #[error("the sandbox's record cannot be read: {0}")]
    Quarantined(String),
    #[error("the node is going down")]
    Closing,
    #[error("write the ledger")]
    Ledger(#[from] LedgerError),
    #[error("read the image store")]
    Images(#[from] image::ImageError),
    #[error("work on the disk")]
    Disk(#[source] std::io::Error),
    #[error("look at the disk")]
    Driver(#[from] DriverError),
}

fn no_room(why: &PlacementError) -> String {
    match why {
        PlacementError::TooLarge { .. } => format!("this node is too small: {why}"),
        PlacementError::Full | PlacementError::NoNodes => {
            "this node has no room left: not enough free memory, disk, cores or slots".to_owned()
        }
    }
}

/// Why the node will not do what is asked of a volume.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("size_mib must be from {MIN_VOLUME_MIB} to {MAX_VOLUME_MIB}, not {0}")]
    Size(u64),
    #[error("the volume has {held} MiB, and a volume is not made smaller")]
    Shrinks { held: u64 },
    #[error("this node does not hold the volume {0}")]
    Unknown(VolumeId),
    #[error("the volume {volume} is attached to the sandbox {sandbox}")]
    Attached { volume: VolumeId, sandbox: RunId },
    #[error("the volume {0} is written to by a VMM of this node: end that one first")]
    Taken(VolumeId),
    #[error("the volume {0} is being copied to a snapshot, or put back to one")]
    Copying(VolumeId),
    #[error("this node does not hold the snapshot {0}")]
    NoSnapshot(SnapshotId),
    #[error("the snapshot {0} is made, or a volume put back to it: ask again")]
    SnapshotInUse(SnapshotId),
    #[error("this node's disk has no room for {0} MiB more")]
    NoRoom(u64),
    #[error("this node's disk is too small for {0} MiB more, even if nothing else were promised of it")]
    TooLarge(u64),
    #[error(transparent)]
    QueueFull(#[from] QueueFull),
    #[error("work on a volume's disk")]
    Disk(#[source] DriverFailure),
    #[error("look at the disk")]
    Look(#[from] sandbox::DriverError),
}

impl VolumeError {
    pub(super) fn of(volume: VolumeId) -> impl Fn(DriverFailure) -> Self {
        move |failure| match failure {
            DriverFailure::Taken(_) => Self::Taken(volume),
            failure => Self::Disk(failure),
        }
    }

    pub(super) fn io(error: impl Into<std::io::Error>) -> Self {
        Self::Disk(DriverFailure::Io(error.into()))
    }
}
