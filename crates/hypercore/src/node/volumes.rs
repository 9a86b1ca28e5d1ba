//! The node's volumes: made, grown, erased, and had by one sandbox each.

use domain::{MAX_VOLUME_MIB, MIN_VOLUME_MIB, OwnedDisk, RunId, VolumeId};
use sandbox::{DriverFailure, Snapshots, VolumeDisk, Volumes};
use tokio::sync::MutexGuard;
use tokio::task::spawn_blocking;
use wire::v1::node::{NodeVolume, NodeVolumes, SandboxSpec, VolumeSpec};

use super::info::disk_room;
use super::{CreateError, Node, VolumeError};
use crate::policy::{DiskShortage, DiskSpace};

const MIB: u64 = 1024 * 1024;

impl Node {
    fn disks_of_volumes(&self) -> Volumes {
        Volumes::of(&self.shared.config.state)
    }

    /// Works on the volumes' disks.
    pub(super) async fn on_volumes<T: Send + 'static>(
        &self,
        id: VolumeId,
        work: impl FnOnce(&Volumes) -> Result<T, DriverFailure> + Send + 'static,
    ) -> Result<T, VolumeError> {
        let volumes = self.disks_of_volumes();
        let done = spawn_blocking(move || work(&volumes)).await.map_err(VolumeError::io)?;
        done.map_err(VolumeError::of(id))
    }

    pub(super) async fn list_volumes(&self) -> std::io::Result<Vec<VolumeDisk>> {
        let volumes = self.disks_of_volumes();
        spawn_blocking(move || volumes.list()).await?
    }

    /// Takes up the volumes that are there, and finishes what was cut off.
    ///
    /// # Errors
    /// When they cannot be listed: then nobody knows what is promised to them.
    pub(super) async fn recover_volumes(&self) -> anyhow::Result<()> {
        let volumes = self.disks_of_volumes();
        let tidied = spawn_blocking(move || volumes.tidy()).await?;
        if let Err(error) = tidied {
            tracing::warn!(%error, "what was cut off of volumes stays until the next start");
        }
        for disk in self.list_volumes().await? {
            self.shared.registry.hold_volume(disk.id, disk.size_mib);
        }
        Ok(())
    }

    /// What is free on the disk, and what those take that it is promised to: sandboxes and
    /// volumes, and what is copied of these just now.
    pub(super) async fn disk_space(&self) -> Result<(sandbox::DiskUsage, DiskSpace), CreateError> {
        let found = self.shared.runtime.disk_usage().await?;
        let state = &self.shared.config.state;
        let (volumes, snapshots) = (Volumes::of(state), Snapshots::of(state));
        let taken = spawn_blocking(move || -> std::io::Result<u64> { Ok(volumes.taken()? + snapshots.taken()?) }).await;
        let bytes: u64 = taken.map_err(std::io::Error::other).and_then(|taken| taken).map_err(CreateError::Disk)?;
        Ok((found, disk_room(found).with_guests(bytes / MIB)))
    }

    /// Makes a volume, or finds it and grows it where it is smaller; whether it is new.
    pub(crate) async fn make_volume(&self, id: VolumeId, spec: VolumeSpec) -> Result<(NodeVolume, bool), VolumeError> {
        let VolumeSpec { size_mib, exists } = spec;
        if !(MIN_VOLUME_MIB..=MAX_VOLUME_MIB).contains(&size_mib) {
            return Err(VolumeError::Size(size_mib));
        }
        let _alone = self.volumes.lock().await;
        self.shared.helpers.end(OwnedDisk::Volume(id)).await;
        let held = self.on_volumes(id, move |volumes| Ok(volumes.find(id)?)).await?;
        match held {
            Some(disk) if disk.size_mib == size_mib => return Ok((self.shown(disk), false)),
            Some(disk) if disk.size_mib > size_mib => return Err(VolumeError::Shrinks { held: disk.size_mib }),
            Some(_) => self.must_be_detached(id)?,
            None if exists => return Err(VolumeError::Unknown(id)),
            None => {}
        }
        let before = held.map_or(0, |disk| disk.size_mib);
        self.promise(id, before, size_mib).await?;
        let done = match held {
            Some(_) => self.on_volumes(id, move |volumes| volumes.grow(id, size_mib)).await,
            None => self.on_volumes(id, move |volumes| volumes.make(id, size_mib)).await,
        };
        let found = self.on_volumes(id, move |volumes| Ok(volumes.find(id)?)).await;
        match &found {
            // What is there is what is promised, whatever came of the work.
            Ok(Some(disk)) => self.shared.registry.hold_volume(id, disk.size_mib),
            Ok(None) => self.shared.registry.forget_volume(id),
            Err(_) => {}
        }
        self.shared.disks_changed.notify_one();
        done?;
        let disk = found?.ok_or(VolumeError::Unknown(id))?;
        tracing::info!(%id, size_mib, "a volume was {}", if held.is_some() { "grown" } else { "made" });
        Ok((self.shown(disk), held.is_none()))
    }

    /// Promises a volume its size, if that is there.
    async fn promise(&self, id: VolumeId, before: u64, size_mib: u64) -> Result<(), VolumeError> {
        let (_, room) = self.disk_space().await.map_err(|error| match error {
            CreateError::Driver(error) => VolumeError::Look(error),
            error => VolumeError::io(std::io::Error::other(error)),
        })?;
        let more = size_mib - before;
        self.shared.registry.promise_volume(id, size_mib, more, room).map_err(|why| match why {
            DiskShortage::TooSmall => VolumeError::TooLarge(more),
            DiskShortage::Promised => VolumeError::NoRoom(more),
        })
    }

    /// Erases a volume that no sandbox has: its owner's word. One that is not there is erased
    /// already.
    pub(crate) async fn erase_volume(&self, id: VolumeId) -> Result<(), VolumeError> {
        let _alone = self.volumes.lock().await;
        self.must_be_detached(id)?;
        self.shared.helpers.end(OwnedDisk::Volume(id)).await;
        self.on_volumes(id, move |volumes| volumes.erase(id)).await?;
        self.shared.registry.forget_volume(id);
        self.shared.disks_changed.notify_one();
        tracing::info!(%id, "a volume was erased: its owner's word");
        Ok(())
    }

    /// All volumes.
    pub(crate) async fn volumes(&self) -> Result<NodeVolumes, VolumeError> {
        let disks = self.list_volumes().await.map_err(VolumeError::io)?;
        Ok(NodeVolumes { volumes: disks.into_iter().map(|disk| self.shown(disk)).collect() })
    }

    /// One of them.
    pub(crate) async fn volume(&self, id: VolumeId) -> Result<NodeVolume, VolumeError> {
        let found = self.on_volumes(id, move |volumes| Ok(volumes.find(id)?)).await?;
        found.map(|disk| self.shown(disk)).ok_or(VolumeError::Unknown(id))
    }

    /// Whether a run can have its volumes: all are here, and no other run has one. That stays so
    /// until what this gives is dropped: the run is in the registry by then.
    pub(super) async fn hold_volumes(
        &self,
        run: RunId,
        spec: &SandboxSpec,
    ) -> Result<Option<MutexGuard<'_, ()>>, CreateError> {
        // Who has none does not wait for work on those of others.
        if spec.volumes.is_empty() {
            return Ok(None);
        }
        let held = self.volumes.lock().await;
        for volume in &spec.volumes {
            let id = volume.id;
            let found = self.on_volumes(id, move |volumes| Ok(volumes.find(id)?)).await;
            if found.map_err(|error| CreateError::Disk(std::io::Error::other(error)))?.is_none() {
                return Err(CreateError::NoVolume { id, name: volume.name.clone() });
            }
            match self.shared.registry.run_with_volume(id) {
                Some(other) if other != run => {
                    return Err(CreateError::VolumeAttached { name: volume.name.clone(), run: other });
                }
                Some(_) | None if self.copies.are_of(id) => {
                    return Err(CreateError::VolumeCopied(volume.name.clone()));
                }
                Some(_) | None => {}
            }
            // Its owner's agent comes before its owner's calls.
            self.shared.helpers.end(OwnedDisk::Volume(id)).await;
        }
        Ok(Some(held))
    }

    pub(super) fn must_be_detached(&self, volume: VolumeId) -> Result<(), VolumeError> {
        match self.shared.registry.run_with_volume(volume) {
            Some(sandbox) => Err(VolumeError::Attached { volume, sandbox }),
            None if self.copies.are_of(volume) => Err(VolumeError::Copying(volume)),
            None => Ok(()),
        }
    }

    fn shown(&self, disk: VolumeDisk) -> NodeVolume {
        let VolumeDisk { id, size_mib, bytes } = disk;
        NodeVolume { id, size_mib, bytes, sandbox: self.shared.registry.run_with_volume(id) }
    }
}
