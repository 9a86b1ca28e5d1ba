//! Which volumes a POD's next runs have: changed while it does not run.

use domain::{MountsError, PodId, UnixMillis, VolumeMount, VolumeName, Wallet, check_mounts};

use crate::port::port;
use crate::volumes::{FoundVolume, VolumeRecord};

/// A volume that the next runs of a POD are to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMount {
    /// Whose both are.
    pub wallet: Wallet,
    /// The POD.
    pub pod: PodId,
    /// Which volume, and where.
    pub mount: VolumeMount,
    /// The time.
    pub now: UnixMillis,
}

/// What came of a change of a POD's volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountOutcome {
    /// Its next runs have these.
    Changed(Vec<FoundVolume>),
    /// The wallet has no such POD.
    NoPod,
    /// It runs: what it has it keeps until it is stopped.
    Runs,
    /// The wallet has no volume of this name that is ready; or the POD has none to be taken away.
    NoVolume,
    /// It cannot have these together.
    Refused(MountsError),
    /// This one, which it has, is on another node.
    Apart(VolumeName),
    /// What is kept of it is on another node.
    DataApart,
}

port! {
    /// The volumes that PODs' next runs have.
    MountStore {
        /// Gives a POD that does not run a volume, or the one that it has another place.
        fn mount_volume(&self, new: NewMount) -> MountOutcome;

        /// Takes a volume away from a POD that does not run; also one that is there no more.
        fn unmount_volume(&self, wallet: Wallet, pod: PodId, name: VolumeName) -> MountOutcome;

        /// The volumes of a wallet's POD, those that are gone included; `None` where it has no
        /// such POD.
        fn pod_volumes(&self, wallet: Wallet, pod: PodId) -> Option<Vec<FoundVolume>>;
    }
}

/// A POD, for whoever changes its volumes.
pub(crate) struct MountingPod {
    pub(crate) key: crate::record::PodRowId,
    pub(crate) runs: bool,
    /// The node that keeps its data, if one does.
    pub(crate) data_node: Option<String>,
}

/// Whether a POD that does not run and has these volumes can have this one too, or elsewhere.
pub(crate) fn check(
    pod: &MountingPod,
    has: &[FoundVolume],
    mount: &VolumeMount,
    volume: &VolumeRecord,
) -> Result<(), MountOutcome> {
    // Of one name is this volume, or one that is gone.
    let others = || has.iter().filter(|found| found.mount.name != mount.name);
    let together: Vec<_> = others().map(|found| found.mount.clone()).chain([mount.clone()]).collect();
    check_mounts(&together).map_err(MountOutcome::Refused)?;
    let is_away = |found: &&FoundVolume| found.volume.as_ref().is_some_and(|other| other.node != volume.node);
    if let Some(away) = others().find(is_away) {
        return Err(MountOutcome::Apart(away.mount.name.clone()));
    }
    match &pod.data_node {
        Some(node) if *node != volume.node => Err(MountOutcome::DataApart),
        Some(_) | None => Ok(()),
    }
}
