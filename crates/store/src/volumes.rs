//! Volumes: whose they are, which node holds them, which run has them.

use domain::{MountPath, PodId, RunId, UnixMillis, VolumeId, VolumeMount, VolumeName, VolumeState, Wallet};

use crate::error::StoreError;
use crate::port::port;
use crate::record::PodRowId;

/// Volumes that are looked at in one round, at most.
pub(crate) const MAX_UNSETTLED: u32 = 100;
const MIB: u64 = 1024 * 1024;

/// A volume, as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRecord {
    /// What its node calls it.
    pub id: VolumeId,
    /// Whose it is.
    pub wallet: Wallet,
    /// What its owner calls it.
    pub name: VolumeName,
    /// Its size, in MiB.
    pub size_mib: u64,
    /// The node that holds it.
    pub node: String,
    /// Where it is in its life.
    pub state: VolumeState,
    /// When it was asked for.
    pub created_at: UnixMillis,
    /// The live run's POD that has it, and where.
    pub attached: Option<(PodId, MountPath)>,
}

/// What a wallet's volumes, their snapshots and kept data may take together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeQuota {
    /// What they may take, in MiB.
    pub disk_mib: u64,
    /// How many volumes there may be.
    pub volumes: u32,
}

/// A volume that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVolume {
    /// The volume.
    pub volume: VolumeRecord,
    /// What its wallet may have.
    pub quota: VolumeQuota,
}

/// What came of a volume that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeOutcome {
    /// It is written down, and its node may be told.
    Reserved(VolumeRecord),
    /// Its wallet has one of this name.
    Exists(VolumeRecord),
    /// Its wallet has as many as it may.
    TooMany,
    /// What its wallet has takes this much of its quota, and the rest is not enough.
    QuotaFull {
        /// In MiB: the volumes' sizes, their snapshots, and the data that is kept of PODs that do
        /// not run.
        used_mib: u64,
    },
}

/// A volume that is to have another size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeGrowth {
    /// Whose it is.
    pub wallet: Wallet,
    /// Which.
    pub id: VolumeId,
    /// The size it is to have, in MiB.
    pub size_mib: u64,
    /// What its wallet may have.
    pub quota: VolumeQuota,
    /// The time.
    pub now: UnixMillis,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrowthOutcome {
    /// Written down, and its node may be told; the size that it had.
    Reserved {
        /// The volume, with its new size.
        volume: VolumeRecord,
        /// What it had, in MiB.
        before_mib: u64,
    },
    /// The wallet has no such volume.
    Unknown,
    /// It is being made or removed.
    Unsettled(VolumeState),
    /// It has more than that.
    Shrinks(u64),
    /// A live run of this POD has it.
    Attached(PodId),
    /// As [`VolumeOutcome::QuotaFull`].
    QuotaFull {
        /// In MiB.
        used_mib: u64,
    },
}

/// What came of a volume that was to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeRemoval {
    /// Nobody gets it any more, and its node may be told.
    Removing(VolumeRecord),
    /// The wallet has no such volume.
    Unknown,
    /// A live run of this POD has it.
    Attached(PodId),
    /// It is copied.
    Unsettled(VolumeState),
    /// There are so many snapshots of it, which cannot be put back without it.
    HasSnapshots(u64),
}

impl VolumeRemoval {
    /// What stands in the way of a volume's removal, of which there are so many snapshots.
    pub(crate) fn refused(volume: &VolumeRecord, snapshots: u64) -> Option<Self> {
        match (&volume.attached, volume.state) {
            (Some((pod, _)), _) => Some(Self::Attached(*pod)),
            (None, state @ VolumeState::Copying) => Some(Self::Unsettled(state)),
            (None, VolumeState::Creating | VolumeState::Ready) if snapshots > 0 => Some(Self::HasSnapshots(snapshots)),
            (None, VolumeState::Creating | VolumeState::Ready | VolumeState::Removing) => None,
        }
    }
}

/// A volume that a run has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunVolume {
    /// Which.
    pub id: VolumeId,
    /// Its name and where it is mounted.
    pub mount: VolumeMount,
    /// The node that holds it.
    pub node: String,
}

/// Why a run cannot have its volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeRefusal {
    /// The wallet has none of this name that is ready.
    Unknown(VolumeName),
    /// A live run of this POD has the volume.
    Attached {
        /// The volume.
        name: VolumeName,
        /// Who has it.
        pod: PodId,
    },
    /// They are on different nodes.
    Apart {
        /// One of them.
        one: VolumeName,
        /// Another one.
        other: VolumeName,
    },
}

port! {
    /// Volumes. Which run has which is written in the transactions that reserve and end runs.
    VolumeStore {
        /// Writes down a volume that its node may be told of, if its wallet may have it.
        fn reserve_volume(&self, new: NewVolume) -> VolumeOutcome;

        /// Its node holds it: it can be attached. `false` if it is not there any more, or is
        /// being removed.
        fn volume_made(&self, id: VolumeId) -> bool;

        /// Writes down another size of a volume that no run has.
        fn reserve_growth(&self, growth: VolumeGrowth) -> GrowthOutcome;

        /// Its node has refused: it has the size of before.
        fn growth_refused(&self, id: VolumeId, before_mib: u64, asked_mib: u64) -> ();

        /// Nobody gets a volume any more that no run has, nor pays for it. Works on a full disk
        /// too.
        fn remove_volume(&self, wallet: Wallet, id: VolumeId, now: UnixMillis) -> VolumeRemoval;

        /// Its node does not hold it: it is forgotten, unless it is ready. Works on a full disk
        /// too.
        fn forget_volume(&self, id: VolumeId) -> ();

        /// A wallet's volume.
        fn volume(&self, wallet: Wallet, id: VolumeId) -> Option<VolumeRecord>;

        /// A wallet's volumes, in the order of their names.
        fn volumes_of(&self, wallet: Wallet) -> Vec<VolumeRecord>;

        /// Volumes that are being made or removed, the oldest first: some at most.
        fn unsettled_volumes(&self) -> Vec<VolumeRecord>;

        /// The volumes that a live run has, in the order of their ids.
        fn run_volumes(&self, run: RunId) -> Vec<RunVolume>;
    }
}

/// The columns of a volume.
pub(crate) struct VolumeRow {
    pub(crate) id: i64,
    pub(crate) wallet: [u8; 32],
    pub(crate) name: String,
    pub(crate) size_mib: i64,
    pub(crate) node: String,
    pub(crate) state: String,
    pub(crate) created_at: i64,
    /// The POD that has it: its rows' key, its name, the path.
    pub(crate) attached: Option<(i64, Option<String>, String)>,
}

impl VolumeRow {
    pub(crate) fn record(self) -> Result<VolumeRecord, StoreError> {
        let attached = self.attached.map(|(key, name, path)| {
            Ok::<_, StoreError>((crate::pod::id_from(PodRowId(key.cast_unsigned()), name)?, path_of(&path)?))
        });
        Ok(VolumeRecord {
            id: VolumeId::from_bits(self.id.cast_unsigned()),
            wallet: Wallet(self.wallet),
            name: name_of(&self.name)?,
            size_mib: crate::codec::natural(self.size_mib),
            node: self.node,
            state: state_of(&self.state)?,
            created_at: crate::codec::millis(self.created_at),
            attached: attached.transpose()?,
        })
    }
}

/// A volume that a run is to have, as it was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundVolume {
    /// Its name and path.
    pub mount: VolumeMount,
    /// The volume, if it is there.
    pub volume: Option<VolumeRecord>,
}

/// Whether a run can have these volumes.
pub(crate) fn check(found: &[FoundVolume]) -> Result<(), VolumeRefusal> {
    let mut first: Option<&VolumeRecord> = None;
    for FoundVolume { mount, volume } in found {
        let ready = volume.as_ref().filter(|volume| volume.state == VolumeState::Ready);
        let volume = ready.ok_or_else(|| VolumeRefusal::Unknown(mount.name.clone()))?;
        if let Some((pod, _)) = &volume.attached {
            return Err(VolumeRefusal::Attached { name: mount.name.clone(), pod: *pod });
        }
        let first = *first.get_or_insert(volume);
        if first.node != volume.node {
            return Err(VolumeRefusal::Apart { one: first.name.clone(), other: volume.name.clone() });
        }
    }
    Ok(())
}

/// What a wallet's volumes and kept data take, and whether so much more is too much.
pub(crate) fn quota_full(volumes_mib: u64, kept_bytes: u64, more_mib: u64, quota: VolumeQuota) -> Option<u64> {
    let used_mib = volumes_mib.saturating_add(kept_bytes.div_ceil(MIB));
    (used_mib.saturating_add(more_mib) > quota.disk_mib).then_some(used_mib)
}

impl VolumeGrowth {
    /// What stands in the way of a volume's growth but the quota; the size that it has.
    pub(crate) fn of(&self, volume: Option<&VolumeRecord>) -> Result<u64, Box<GrowthOutcome>> {
        let Some(volume) = volume else { return Err(GrowthOutcome::Unknown.into()) };
        match (volume.state, &volume.attached) {
            (VolumeState::Ready, Some((pod, _))) => Err(GrowthOutcome::Attached(*pod).into()),
            (VolumeState::Ready, None) if volume.size_mib > self.size_mib => {
                Err(GrowthOutcome::Shrinks(volume.size_mib).into())
            }
            (VolumeState::Ready, None) => Ok(volume.size_mib),
            (state @ (VolumeState::Creating | VolumeState::Copying | VolumeState::Removing), _) => {
                Err(GrowthOutcome::Unsettled(state).into())
            }
        }
    }
}

pub(crate) fn name_of(text: &str) -> Result<VolumeName, StoreError> {
    text.parse().map_err(|_| StoreError::Value("the name of a volume"))
}

pub(crate) fn path_of(text: &str) -> Result<MountPath, StoreError> {
    text.parse().map_err(|_| StoreError::Value("the path of a volume"))
}

fn state_of(text: &str) -> Result<VolumeState, StoreError> {
    let states = [VolumeState::Creating, VolumeState::Ready, VolumeState::Copying, VolumeState::Removing];
    states.into_iter().find(|state| state.as_str() == text).ok_or(StoreError::Value("the state of a volume"))
}
