//! Snapshots of the node's volumes: made, put back, erased.
//!
//! Copying takes as long as the disk is large. It goes on whoever asks, and whoever asks again is
//! told how it is. No run gets a volume that is copied. A daemon that is killed over a copy leaves
//! half of it, which the next one sweeps; who wants it asks again.

use std::sync::Arc;
use std::time::Duration;

use domain::{OwnedDisk, SnapshotId, VolumeId};
use sandbox::{DriverFailure, SnapshotDisk, Snapshots};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use wire::v1::node::{CopyState, NodeRestore, NodeSnapshot, NodeSnapshots, RestoreSpec, SnapshotSpec};

use super::copies::Work;
use super::{CreateError, Node, VolumeError};
use crate::policy::DiskShortage;
use crate::registry::DiskCopy;
use crate::turns::{Holder, Waiting};

const MIB: u64 = 1024 * 1024;
/// For so long whoever asks for a copy waits for it; most are made by then.
const PATIENCE: Duration = Duration::from_secs(2);

impl Node {
    fn snapshots(&self) -> Snapshots {
        Snapshots::of(&self.shared.config.state)
    }

    /// Takes up the snapshots that are there, and sweeps what was cut off.
    ///
    /// # Errors
    /// When they cannot be listed: then nobody knows what is promised to them.
    pub(super) async fn recover_snapshots(&self) -> anyhow::Result<()> {
        let snapshots = self.snapshots();
        match spawn_blocking(move || snapshots.tidy()).await? {
            Ok(0) => {}
            Ok(halves) => tracing::warn!(halves, "snapshots that were cut off are swept; who wants them asks again"),
            Err(error) => tracing::warn!(%error, "what was cut off of snapshots stays until the next start"),
        }
        for disk in self.list_snapshots().await? {
            self.shared.registry.hold_copy(DiskCopy::Snapshot(disk.id), disk.bytes.div_ceil(MIB));
        }
        Ok(())
    }

    pub(super) async fn list_snapshots(&self) -> std::io::Result<Vec<SnapshotDisk>> {
        let snapshots = self.snapshots();
        spawn_blocking(move || snapshots.list()).await?
    }

    /// All snapshots that are whole.
    pub(crate) async fn all_snapshots(&self) -> Result<NodeSnapshots, VolumeError> {
        let disks = self.list_snapshots().await.map_err(VolumeError::io)?;
        Ok(NodeSnapshots { snapshots: disks.into_iter().map(shown).collect() })
    }

    /// Has a snapshot of a volume made, or finds it.
    pub(crate) async fn make_snapshot(&self, id: SnapshotId, spec: SnapshotSpec) -> Result<NodeSnapshot, VolumeError> {
        let work = Work::Make(id);
        let find = async || {
            let snapshots = self.snapshots();
            self.on_volumes(spec.volume, move |_| Ok(snapshots.find(id)?)).await
        };
        if let Some(disk) = find().await? {
            return Ok(shown(disk));
        }
        self.begin_copy(spec.volume, work, spec.holder).await?;
        self.settled(spec.volume, work).await?;
        let copying = NodeSnapshot { id, state: CopyState::Copying, size_mib: 0, bytes: 0 };
        Ok(find().await?.map_or(copying, shown))
    }

    /// Has a volume put back to what a snapshot holds, once for each order.
    pub(crate) async fn restore(&self, from: SnapshotId, spec: RestoreSpec) -> Result<NodeRestore, VolumeError> {
        let RestoreSpec { volume, order, holder } = spec;
        let work = Work::Restore { from, order };
        if !self.is_restored(volume, order).await? {
            self.begin_copy(volume, work, holder).await?;
            self.settled(volume, work).await?;
        }
        let done = self.is_restored(volume, order).await?;
        Ok(NodeRestore { state: if done { CopyState::Done } else { CopyState::Copying } })
    }

    /// Erases a snapshot: its owner's word. One that is not there is erased already.
    pub(crate) async fn erase_snapshot(&self, id: SnapshotId) -> Result<(), VolumeError> {
        let _alone = self.volumes.lock().await;
        if self.copies.use_snapshot(id) {
            return Err(VolumeError::SnapshotInUse(id));
        }
        let snapshots = self.snapshots();
        spawn_blocking(move || snapshots.erase(id)).await.map_err(VolumeError::io)?.map_err(VolumeError::io)?;
        self.shared.registry.forget_copy(DiskCopy::Snapshot(id));
        self.shared.disks_changed.notify_one();
        tracing::info!(%id, "a snapshot was erased: its owner's word");
        Ok(())
    }

    async fn is_restored(&self, volume: VolumeId, order: u64) -> Result<bool, VolumeError> {
        let snapshots = self.snapshots();
        self.on_volumes(volume, move |_| Ok(snapshots.is_restored(volume, order)?)).await
    }

    /// Begins to copy, unless that is underway: what it takes is promised, and no run has the
    /// volume or gets it meanwhile.
    async fn begin_copy(&self, volume: VolumeId, work: Work, holder: Holder) -> Result<(), VolumeError> {
        let _alone = self.volumes.lock().await;
        if self.copies.is_underway(volume, work)? {
            return Ok(());
        }
        self.must_be_detached(volume)?;
        self.shared.helpers.end(OwnedDisk::Volume(volume)).await;
        let (copy, bytes) = self.sized(volume, work).await?;
        let waiting = self.copies.places.ask(holder)?;
        self.promise_copy(copy, bytes.div_ceil(MIB)).await?;
        self.copies.begin(volume, work);
        self.copy_in_background(volume, work, copy, waiting);
        Ok(())
    }

    /// What is to take some of the disk, and how much.
    async fn sized(&self, volume: VolumeId, work: Work) -> Result<(DiskCopy, u64), VolumeError> {
        let held = self.on_volumes(volume, move |volumes| Ok(volumes.find(volume)?)).await?;
        let held = held.ok_or(VolumeError::Unknown(volume))?;
        match work {
            Work::Make(id) => Ok((DiskCopy::Snapshot(id), held.bytes)),
            Work::Restore { from, .. } => {
                let snapshots = self.snapshots();
                let found = self.on_volumes(volume, move |_| Ok(snapshots.find(from)?)).await?;
                let bytes = found.ok_or(VolumeError::NoSnapshot(from))?.bytes;
                Ok((DiskCopy::Restored(volume), bytes))
            }
        }
    }

    async fn promise_copy(&self, copy: DiskCopy, mib: u64) -> Result<(), VolumeError> {
        let (_, room) = self.disk_space().await.map_err(|error| match error {
            CreateError::Driver(error) => VolumeError::Look(error),
            error => VolumeError::io(std::io::Error::other(error)),
        })?;
        self.shared.registry.promise_copy(copy, mib, room).map_err(|why| match why {
            DiskShortage::TooSmall => VolumeError::TooLarge(mib),
            DiskShortage::Promised => VolumeError::NoRoom(mib),
        })
    }

    /// Copies on a thread of its own, which dies with the daemon: nobody waits for it to end.
    fn copy_in_background(&self, volume: VolumeId, work: Work, copy: DiskCopy, waiting: Waiting) {
        let (shared, copies, snapshots) = (Arc::clone(&self.shared), Arc::clone(&self.copies), self.snapshots());
        tokio::spawn(async move {
            let place = waiting.await;
            let (done, ended) = oneshot::channel();
            let thread = snapshots.clone();
            let started = std::thread::Builder::new().name("copy".to_owned()).spawn(move || {
                // Who waits is gone with the daemon.
                let _ = done.send(perform(&thread, volume, work));
            });
            let outcome = match started {
                Ok(_) => {
                    ended.await.unwrap_or_else(|_| Err(DriverFailure::Io(std::io::Error::other("it was cut off"))))
                }
                Err(error) => Err(DriverFailure::Io(error)),
            };
            drop(place);
            let found = match work {
                Work::Make(id) => spawn_blocking(move || snapshots.find(id)).await.ok().and_then(Result::ok).flatten(),
                Work::Restore { .. } => None,
            };
            match found {
                Some(disk) => shared.registry.hold_copy(copy, disk.bytes.div_ceil(MIB)),
                None => shared.registry.forget_copy(copy),
            }
            shared.disks_changed.notify_one();
            copies.end(volume, outcome.map_err(VolumeError::of(volume)));
        });
    }

    /// Waits a little for the end of what was begun.
    async fn settled(&self, volume: VolumeId, work: Work) -> Result<(), VolumeError> {
        let ended = async {
            loop {
                let news = self.copies.ended.notified();
                if !self.copies.is_underway(volume, work)? {
                    return Ok(());
                }
                news.await;
            }
        };
        timeout(PATIENCE, ended).await.unwrap_or(Ok(()))
    }
}

fn perform(snapshots: &Snapshots, volume: VolumeId, work: Work) -> Result<(), DriverFailure> {
    match work {
        Work::Make(id) => snapshots.make(id, volume),
        Work::Restore { from, order } => snapshots.restore(from, volume, order).map(drop),
    }
}

fn shown(disk: SnapshotDisk) -> NodeSnapshot {
    let SnapshotDisk { id, size_mib, bytes } = disk;
    NodeSnapshot { id, state: CopyState::Done, size_mib, bytes }
}
