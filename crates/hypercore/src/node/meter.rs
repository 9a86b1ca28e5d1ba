//! What the node holds of disks, for the bill: looked at after each change and now and then, and
//! marked where it is more or less than was marked last.

use domain::{DiskLevels, MeteredDisk, UnixMillis};
use tokio::time::timeout;

use super::Node;
use crate::task::BOOKS_DEADLINE;

const MIB: u64 = 1024 * 1024;

impl Node {
    /// Has marked what is held now. It was last looked at when `looked` says: what is gone since
    /// then counts up to there, for nobody knows how much longer it was held. When this look began.
    ///
    /// # Errors
    /// When the disks cannot be looked at, or the journal takes nothing: the next look makes up
    /// for it.
    pub(crate) async fn meter_disks(&self, looked: UnixMillis) -> anyhow::Result<UnixMillis> {
        let began = self.shared.clock.now();
        let found = self.held_disks().await?;
        timeout(BOOKS_DEADLINE, self.shared.journal.mark_disks(found, looked, self.shared.clock.now())).await??;
        Ok(began)
    }

    /// Volumes by their sizes, snapshots and what is kept of PODs by what they take, in whole MiB.
    async fn held_disks(&self) -> anyhow::Result<DiskLevels> {
        let volumes = self.list_volumes().await?;
        let mut held: DiskLevels =
            volumes.into_iter().map(|disk| (MeteredDisk::Volume(disk.id), disk.size_mib)).collect();
        let mut bytes = DiskLevels::new();
        for disk in self.list_snapshots().await? {
            bytes.insert(MeteredDisk::Snapshot(disk.id), disk.bytes);
        }
        for disk in self.shared.runtime.kept(None).await? {
            *bytes.entry(MeteredDisk::Data(disk.pod)).or_default() += disk.bytes;
        }
        held.extend(bytes.into_iter().map(|(disk, bytes)| (disk, bytes / MIB)));
        held.retain(|_, mib| *mib > 0);
        Ok(held)
    }

    /// Has marked that the daemon was down, if it holds any disk: nobody could reach it meanwhile,
    /// and nobody pays for it.
    pub(super) async fn mark_down(&self, last_alive: UnixMillis) -> anyhow::Result<()> {
        if !self.shared.journal.holds_disks() {
            return Ok(());
        }
        let now = self.shared.clock.now();
        // On a disk that takes nothing it is marked later: a node that waits for room must serve
        // whoever makes some.
        let Ok(marked) = timeout(BOOKS_DEADLINE, self.shared.journal.mark_down(last_alive, now)).await else {
            tracing::error!("the metering journal is not written: its disk takes nothing");
            return Ok(());
        };
        Ok(marked?)
    }
}
