//! Snapshots of volumes: what is asked for is written down before its node is told, and each call
//! to the node may be repeated. While a volume is copied no run gets it.

use std::time::Duration;

use domain::{MAX_SNAPSHOTS, SnapshotId, SnapshotState, VolumeId, Wallet};
use futures_util::future::join_all;
use store::{NewSnapshot, SnapshotOutcome, SnapshotRecord, SnapshotSettlement};
use wire::v1::node::{CopyState, RestoreSpec, SnapshotSpec};

use crate::context::Context;
use crate::fleet::node::within;
use crate::pods::volumes::{VolumeError, by_node, is_definite};

/// How often it is asked how copies are.
const SETTLE_PERIOD: Duration = Duration::from_secs(2);

const MAKE: &str = "make the snapshot";
const RESTORE: &str = "put the volume back";
const ERASE: &str = "erase the snapshot";

impl Context {
    /// Has a volume that no live agent has copied. What comes back may still be made.
    pub(crate) async fn create_snapshot(
        &self,
        holder: Wallet,
        volume: VolumeId,
        id: SnapshotId,
    ) -> Result<SnapshotRecord, VolumeError> {
        let quota = self.quota_of(&holder).await?;
        let now = self.clock.now();
        let new = NewSnapshot { wallet: holder, id, volume, quota, most: MAX_SNAPSHOTS, now };
        let record = reserved(self.store.reserve_snapshot(new).await?, quota.disk_mib)?;
        self.settle(&record, true).await
    }

    /// Has a volume that no live agent has put back to what a snapshot of it holds. What comes back
    /// may still be underway.
    pub(crate) async fn restore_volume(
        &self,
        holder: Wallet,
        volume: VolumeId,
        id: SnapshotId,
    ) -> Result<SnapshotRecord, VolumeError> {
        let outcome = self.store.reserve_restore(holder, volume, id, self.clock.now()).await?;
        self.settle(&reserved(outcome, 0)?, true).await
    }

    /// Removes a snapshot. Once that is written down it will be gone.
    pub(crate) async fn remove_snapshot(
        &self,
        holder: Wallet,
        volume: VolumeId,
        id: SnapshotId,
    ) -> Result<(), VolumeError> {
        let outcome = self.store.remove_snapshot(holder, volume, id, self.clock.now()).await?;
        self.settle(&reserved(outcome, 0)?, true).await.map(drop)
    }

    /// Asks now and then how copies are.
    pub(crate) async fn settle_snapshots_for_ever(&self) {
        loop {
            self.settle_snapshots().await;
            tokio::time::sleep(SETTLE_PERIOD).await;
        }
    }

    async fn settle_snapshots(&self) {
        let unsettled = match self.store.unsettled_snapshots().await {
            Ok(unsettled) => unsettled,
            Err(error) => {
                tracing::error!(%error, "the snapshots that are not settled cannot be listed");
                return;
            }
        };
        let nodes = by_node(unsettled, |record| &record.node);
        join_all(nodes.into_iter().map(|records| self.settle_copies(records))).await;
    }

    /// Settles snapshots of one node.
    async fn settle_copies(&self, records: Vec<SnapshotRecord>) {
        for record in records {
            let Err(error) = self.settle(&record, false).await else { continue };
            tracing::warn!(snapshot = %record.id, node = record.node, %error, "a snapshot is not settled");
            if error.is_of_silence() {
                return;
            }
        }
    }

    /// Has its node do what is written down of a snapshot, and writes down what came of it.
    async fn settle(&self, record: &SnapshotRecord, is_first: bool) -> Result<SnapshotRecord, VolumeError> {
        let node = self.node_called(&record.node)?;
        let copies = node.copies();
        let timeout = self.config.node_timeout();
        let ready = SnapshotRecord { state: SnapshotState::Ready, ..record.clone() };
        let settled = match record.state {
            SnapshotState::Creating => {
                let spec = SnapshotSpec { volume: record.volume, holder: Some(record.wallet) };
                within(MAKE, timeout, copies.make(record.id, spec)).await.map(|made| {
                    let (size_mib, bytes) = (made.size_mib, made.bytes);
                    let settled = SnapshotSettlement::Made { size_mib, bytes };
                    (made.state == CopyState::Done).then_some((settled, SnapshotRecord { size_mib, bytes, ..ready }))
                })
            }
            SnapshotState::Restoring => {
                let holder = Some(record.wallet);
                let spec = RestoreSpec { volume: record.volume, order: record.order, holder };
                let restored = within(RESTORE, timeout, copies.restore(record.id, spec)).await;
                restored.map(|state| (state == CopyState::Done).then_some((SnapshotSettlement::Restored, ready)))
            }
            SnapshotState::Removing => {
                let erased = within(ERASE, timeout, copies.erase_copy(record.id)).await;
                erased.map_err(|error| self.silent(&*node, error))?;
                self.store.forget_snapshot(record.id).await?;
                self.fleet.changed(node.name());
                return Ok(record.clone());
            }
            SnapshotState::Ready | SnapshotState::Failed => return Ok(record.clone()),
        };
        match settled {
            Ok(None) => Ok(record.clone()),
            Ok(Some((settled, record))) => {
                self.store.settle_snapshot(record.id, settled).await?;
                self.fleet.changed(node.name());
                Ok(record)
            }
            Err(error) if is_definite(&error, is_first) => {
                let why = error.to_string();
                let settled = if is_first { SnapshotSettlement::Refused(why) } else { SnapshotSettlement::Failed(why) };
                self.store.settle_snapshot(record.id, settled).await?;
                Err(self.refused(&*node, error))
            }
            // It may be underway: it is asked again.
            Err(error) => Err(self.silent(&*node, error)),
        }
    }
}

fn reserved(outcome: SnapshotOutcome, allowed_mib: u64) -> Result<SnapshotRecord, VolumeError> {
    match outcome {
        SnapshotOutcome::Reserved(record) => Ok(record),
        SnapshotOutcome::Unknown => Err(VolumeError::Unknown),
        SnapshotOutcome::Unsettled(state) => Err(VolumeError::Unsettled(state)),
        SnapshotOutcome::Busy(state) => Err(VolumeError::SnapshotBusy(state)),
        SnapshotOutcome::Attached(pod) => Err(VolumeError::Attached(pod)),
        SnapshotOutcome::TooMany => Err(VolumeError::TooManySnapshots),
        SnapshotOutcome::QuotaFull { used_mib } => Err(VolumeError::QuotaFull { used_mib, allowed_mib }),
    }
}
