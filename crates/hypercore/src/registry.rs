//! The sandboxes of this node, by id.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{PlacementError, PodId, ResourceRequest, RunId, SnapshotId, VolumeId};
use tokio::sync::oneshot;
use wire::v1::node::DataPolicy;

use crate::policy::{Allocated, Capacity, DiskShortage, DiskSpace};
use crate::quarantine::Quarantine;
use crate::task::{DeleteError, Deletion, SandboxHandle, TaskCommand};

/// All handles, and what they take of the machine.
pub(crate) struct Registry {
    capacity: Capacity,
    /// Those that are neither known nor gone.
    pub(crate) quarantine: Quarantine,
    handles: Mutex<BTreeMap<RunId, Arc<SandboxHandle>>>,
    /// The volumes' sizes, in MiB: promised of the disk beside the sandboxes'. Taken after the
    /// handles, where both are.
    volumes: Mutex<BTreeMap<VolumeId, u64>>,
    /// Machines of the node's own: their slots, and what they take. Taken as `volumes`.
    helpers: Mutex<BTreeMap<RunId, (u16, ResourceRequest)>>,
    /// What is promised to copies of volumes, in MiB. Taken after the volumes.
    copies: Mutex<BTreeMap<DiskCopy, u64>>,
}

/// A copy of a volume that takes some of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DiskCopy {
    /// A snapshot.
    Snapshot(SnapshotId),
    /// What is to take this volume's place.
    Restored(VolumeId),
}

/// What became of a request to enter.
pub(crate) enum Admission {
    /// It is in, with this slot.
    New(Arc<SandboxHandle>),
    /// It was in already.
    Existing(Arc<SandboxHandle>),
}

impl Registry {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            quarantine: Quarantine::default(),
            handles: Mutex::default(),
            volumes: Mutex::default(),
            helpers: Mutex::default(),
            copies: Mutex::default(),
        }
    }

    pub(crate) fn get(&self, id: RunId) -> Option<Arc<SandboxHandle>> {
        self.handles().get(&id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<SandboxHandle>> {
        self.handles().values().cloned().collect()
    }

    /// The run of this POD that is here, if one is.
    pub(crate) fn run_of(&self, pod: PodId) -> Option<Arc<SandboxHandle>> {
        self.handles().values().find(|handle| handle.desired.pod == pod).cloned()
    }

    /// The run that has this volume, if one does.
    pub(crate) fn run_with_volume(&self, id: VolumeId) -> Option<RunId> {
        let handles = self.handles();
        let has = |handle: &&Arc<SandboxHandle>| handle.desired.volumes.iter().any(|volume| volume.id == id);
        handles.values().find(has).map(|handle| handle.id())
    }

    /// A volume that is there, and has this size.
    pub(crate) fn hold_volume(&self, id: VolumeId, size_mib: u64) {
        self.volumes().insert(id, size_mib);
    }

    /// A volume that is there no more.
    pub(crate) fn forget_volume(&self, id: VolumeId) {
        self.volumes().remove(&id);
    }

    /// Promises a volume this size, `more` than it has now, if the disk has as much to promise.
    pub(crate) fn promise_volume(
        &self,
        id: VolumeId,
        size_mib: u64,
        more: u64,
        room: DiskSpace,
    ) -> Result<(), DiskShortage> {
        let handles = self.handles();
        self.capacity.admit_disk(self.load_with(&handles), more, room)?;
        self.volumes().insert(id, size_mib);
        Ok(())
    }

    /// Promises a copy this much, if the disk has as much to promise.
    pub(crate) fn promise_copy(&self, copy: DiskCopy, mib: u64, room: DiskSpace) -> Result<(), DiskShortage> {
        let handles = self.handles();
        self.capacity.admit_disk(self.load_with(&handles), mib, room)?;
        self.copies().insert(copy, mib);
        Ok(())
    }

    /// A copy that is there, and takes this much.
    pub(crate) fn hold_copy(&self, copy: DiskCopy, mib: u64) {
        self.copies().insert(copy, mib);
    }

    /// A copy that takes nothing any more.
    pub(crate) fn forget_copy(&self, copy: DiskCopy) {
        self.copies().remove(&copy);
    }

    /// Whether a run of this POD is here that may not have its data yet.
    pub(crate) fn may_take_back(&self, pod: PodId) -> bool {
        self.run_of(pod).is_some_and(|handle| handle.sandbox().pid.is_none())
    }

    /// Lets a sandbox in if there is room, with a slot nobody else has.
    pub(crate) fn enter(
        &self,
        id: RunId,
        ask: ResourceRequest,
        room: DiskSpace,
        make: impl FnOnce(u16) -> Arc<SandboxHandle>,
    ) -> Result<Admission, PlacementError> {
        let mut handles = self.handles();
        if let Some(held) = handles.get(&id) {
            return Ok(Admission::Existing(Arc::clone(held)));
        }
        self.capacity.admit(self.load_with(&handles), ask, room)?;
        let slot = self.free_slot(&handles)?;
        let handle = make(slot);
        handles.insert(id, Arc::clone(&handle));
        Ok(Admission::New(handle))
    }

    /// Gives a helper its slot and its share, if there is room. It takes no disk of its own.
    pub(crate) fn enter_helper(&self, id: RunId, ask: ResourceRequest) -> Result<u16, PlacementError> {
        let handles = self.handles();
        self.capacity.admit_helper(self.load_with(&handles), ask)?;
        let slot = self.free_slot(&handles)?;
        match self.helpers().entry(id) {
            Entry::Vacant(free) => Ok(free.insert((slot, ask)).0),
            // Another one is called so: it keeps its slot.
            Entry::Occupied(_) => Err(PlacementError::Full),
        }
    }

    /// Frees a helper's slot and its share.
    pub(crate) fn leave_helper(&self, id: RunId) {
        self.helpers().remove(&id);
    }

    fn free_slot(&self, handles: &BTreeMap<RunId, Arc<SandboxHandle>>) -> Result<u16, PlacementError> {
        let quarantined = self.quarantine.taken().into_iter().filter_map(|(slot, _)| slot);
        let helpers: Vec<u16> = self.helpers().values().map(|(slot, _)| *slot).collect();
        let taken = handles.values().map(|handle| handle.slot.number).chain(quarantined).chain(helpers);
        let taken: BTreeSet<u16> = taken.collect();
        (0..self.capacity.slots).find(|slot| !taken.contains(slot)).ok_or(PlacementError::Full)
    }

    /// Takes in a sandbox that was there before the daemon: there was room for it.
    pub(crate) fn admit(&self, handle: Arc<SandboxHandle>) {
        self.handles().insert(handle.id(), handle);
    }

    /// Takes a sandbox down and returns when nothing of it is left.
    pub(crate) async fn delete(
        &self,
        handle: &SandboxHandle,
        grace: Duration,
        data: DataPolicy,
    ) -> Result<(), DeleteError> {
        let (done, ended) = oneshot::channel();
        if handle.commands.send(TaskCommand::Delete(Deletion { grace, data, done })).await.is_err() {
            // A task ends after its sandbox, which is forgotten then, or with the daemon,
            // and then the guest may run on.
            return self.get(handle.id()).map_or(Ok(()), |_| Err(DeleteError::Closing));
        }
        ended.await.unwrap_or(Err(DeleteError::Closing))
    }

    /// Frees its slot and its share.
    pub(crate) fn forget(&self, id: RunId) {
        self.handles().remove(&id);
    }

    pub(crate) const fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    pub(crate) fn load(&self) -> Allocated {
        self.load_with(&self.handles())
    }

    /// Guests that are quarantined and run take their share too.
    fn load_with(&self, handles: &BTreeMap<RunId, Arc<SandboxHandle>>) -> Allocated {
        let disk_mib = self.volumes().values().sum::<u64>() + self.copies().values().sum::<u64>();
        let volumes = Allocated { disk_mib, ..Allocated::default() };
        let helpers = self.helpers().values().fold(volumes, |load, (_, ask)| load.plus(*ask, 0));
        let known = handles.values().fold(helpers, |load, handle| load.plus(handle.ask(), handle.disk_mib));
        let disk_mib = self.capacity.agent_disk_mib;
        self.quarantine.taken().into_iter().fold(known, |load, (_, memory_mib)| {
            load.plus(
                ResourceRequest { cores: 1, memory_mib: memory_mib.saturating_sub(self.capacity.overhead_mib) },
                disk_mib,
            )
        })
    }

    fn volumes(&self) -> MutexGuard<'_, BTreeMap<VolumeId, u64>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn helpers(&self) -> MutexGuard<'_, BTreeMap<RunId, (u16, ResourceRequest)>> {
        self.helpers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn copies(&self) -> MutexGuard<'_, BTreeMap<DiskCopy, u64>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handles(&self) -> MutexGuard<'_, BTreeMap<RunId, Arc<SandboxHandle>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
