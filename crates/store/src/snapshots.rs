//! Snapshots of volumes: written down before their node is told.

use domain::{PodId, SnapshotId, SnapshotState, UnixMillis, VolumeId, VolumeState, Wallet};

use crate::codec::{millis, natural};
use crate::error::StoreError;
use crate::port::port;
use crate::volumes::{VolumeQuota, VolumeRecord};

/// Snapshots that are looked at in one round, at most.
pub(crate) const MAX_UNSETTLED: u32 = 100;

/// A snapshot, as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// What its node calls it.
    pub id: SnapshotId,
    /// The volume that it is a copy of.
    pub volume: VolumeId,
    /// Whose it is.
    pub wallet: Wallet,
    /// The node that holds both.
    pub node: String,
    /// Where it is in its life.
    pub state: SnapshotState,
    /// The size of the disk that it is a copy of, in MiB.
    pub size_mib: u64,
    /// What it takes of its node's disk; what the volume's size is, until that is known.
    pub bytes: u64,
    /// When it was asked for.
    pub created_at: UnixMillis,
    /// The order by which the volume is put back to it, or was last.
    pub order: u64,
    /// Why it was not made, or the volume not put back to it the last time that was asked for.
    pub error: Option<String>,
}

/// A snapshot that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Whose.
    pub wallet: Wallet,
    /// What it is to be called.
    pub id: SnapshotId,
    /// Of which volume.
    pub volume: VolumeId,
    /// What its wallet may have.
    pub quota: VolumeQuota,
    /// How many snapshots that are.
    pub most: u32,
    /// The time.
    pub now: UnixMillis,
}

/// What came of a snapshot that was asked for, or was to be put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotOutcome {
    /// It is written down, and its node may be told. No run gets the volume until that is settled.
    Reserved(SnapshotRecord),
    /// The wallet has no such volume, or no such snapshot of it.
    Unknown,
    /// The volume is made, removed or copied.
    Unsettled(VolumeState),
    /// The snapshot is made, put back or removed.
    Busy(SnapshotState),
    /// A live run of this POD has the volume.
    Attached(PodId),
    /// The wallet has as many snapshots as it may.
    TooMany,
    /// What the wallet has takes this much of its quota, and the rest is not enough.
    QuotaFull {
        /// In MiB.
        used_mib: u64,
    },
}

/// How a node has settled what was asked of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotSettlement {
    /// The snapshot is whole, and takes so much.
    Made {
        /// The size of the disk that it is a copy of, in MiB.
        size_mib: u64,
        /// What it takes of the node's disk.
        bytes: u64,
    },
    /// The volume is what the snapshot holds.
    Restored,
    /// It cannot be done, and whoever asked for it hears so at once: a snapshot that was to be made is
    /// forgotten, one that was to be put back stays, and the volume as it was.
    Refused(String),
    /// The same, of one whose owner was told that it is being made: it stays in the list, as failed.
    Failed(String),
}

port! {
    /// Snapshots of volumes.
    SnapshotStore {
        /// Writes down a snapshot of a volume that no run has, if its wallet may have it.
        fn reserve_snapshot(&self, new: NewSnapshot) -> SnapshotOutcome;

        /// Writes down that a volume that no run has is to be put back. Its order is above those
        /// of before.
        fn reserve_restore(
            &self,
            wallet: Wallet,
            volume: VolumeId,
            id: SnapshotId,
            now: UnixMillis,
        ) -> SnapshotOutcome;

        /// Writes down what its node has done, and gives the volume free. What another state was
        /// settled for changes nothing.
        fn settle_snapshot(&self, id: SnapshotId, settled: SnapshotSettlement) -> ();

        /// Nobody puts a volume back to this one any more, nor is it paid for. Works on a full
        /// disk too.
        fn remove_snapshot(
            &self,
            wallet: Wallet,
            volume: VolumeId,
            id: SnapshotId,
            now: UnixMillis,
        ) -> SnapshotOutcome;

        /// Its node holds one that was removed no more. Works on a full disk too.
        fn forget_snapshot(&self, id: SnapshotId) -> ();

        /// The snapshots of a wallet's volume, the oldest first.
        fn snapshots_of(&self, wallet: Wallet, volume: VolumeId) -> Vec<SnapshotRecord>;

        /// Snapshots that are made, put back or removed, the oldest first: some at most.
        fn unsettled_snapshots(&self) -> Vec<SnapshotRecord>;
    }
}

/// The columns of a snapshot, in this order.
pub(crate) struct SnapshotRow {
    pub(crate) id: i64,
    pub(crate) volume: i64,
    pub(crate) wallet: [u8; 32],
    pub(crate) node: String,
    pub(crate) state: String,
    pub(crate) size_mib: i64,
    pub(crate) bytes: i64,
    pub(crate) created_at: i64,
    pub(crate) ordered: i64,
    pub(crate) error: Option<String>,
}

impl SnapshotRow {
    pub(crate) fn record(self) -> Result<SnapshotRecord, StoreError> {
        let state = SnapshotState::ALL.into_iter().find(|state| state.as_str() == self.state);
        Ok(SnapshotRecord {
            id: SnapshotId::from_bits(self.id.cast_unsigned()),
            volume: VolumeId::from_bits(self.volume.cast_unsigned()),
            wallet: Wallet(self.wallet),
            node: self.node,
            state: state.ok_or(StoreError::Value("the state of a snapshot"))?,
            size_mib: natural(self.size_mib),
            bytes: natural(self.bytes),
            created_at: millis(self.created_at),
            order: natural(self.ordered),
            error: self.error,
        })
    }
}

/// A volume that may be copied now.
pub(crate) fn copied(volume: Option<VolumeRecord>) -> Result<VolumeRecord, Box<SnapshotOutcome>> {
    let volume = volume.ok_or(SnapshotOutcome::Unknown)?;
    match (volume.state, &volume.attached) {
        (VolumeState::Ready, None) => Ok(volume),
        (VolumeState::Ready, Some((pod, _))) => Err(SnapshotOutcome::Attached(*pod).into()),
        (state @ (VolumeState::Creating | VolumeState::Copying | VolumeState::Removing), _) => {
            Err(SnapshotOutcome::Unsettled(state).into())
        }
    }
}

impl NewSnapshot {
    /// What is written of it. Its size is not known before it is there: the volume's is an end.
    pub(crate) fn record(&self, volume: &VolumeRecord) -> SnapshotRecord {
        SnapshotRecord {
            id: self.id,
            volume: volume.id,
            wallet: self.wallet,
            node: volume.node.clone(),
            state: SnapshotState::Creating,
            size_mib: volume.size_mib,
            bytes: volume.size_mib.saturating_mul(1024 * 1024),
            created_at: self.now,
            order: 0,
            error: None,
        }
    }
}
