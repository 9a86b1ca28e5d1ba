//! Helpers: machines that have one disk of their owner's and nothing else. Of the host they have
//! what an agent's machine has (a cgroup, a user, a jail of their own), but no image, no layer, and
//! a network that ends at the node.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use domain::OwnedDisk;
use wire::v1::pod::{HELPER, VOLUME_SERIALS};

use super::launch::RunningVmm;
use super::launcher::VmConfig;
use super::ops::{Inner, note_leftovers, refused};
use crate::error::{Step, step};
use crate::network::{Config, Egress, Namespace, Tap};
use crate::runtime::{DiskRetention, HelperSpec, Slot};
use crate::{DriverFailure, DriverRefusal, RuntimeError, RuntimeOperation, Volumes, files};

const CORES: u32 = 1;

impl Inner {
    pub(super) fn create_helper(&self, spec: &HelperSpec) -> Result<RunningVmm, RuntimeError> {
        self.create_own(spec.slot, || self.try_create_helper(spec))
    }

    /// Creates a machine of ours, of which nothing is left where that fails.
    pub(super) fn create_own(
        &self,
        slot: Slot,
        create: impl FnOnce() -> Result<RunningVmm, RuntimeError>,
    ) -> Result<RunningVmm, RuntimeError> {
        let (id, slots) = (slot.run, self.settings.network.range.slots());
        if slot.number >= slots {
            let refusal = DriverRefusal::NoSlot { slot: slot.number, slots };
            return Err(refused(RuntimeOperation::Create, id, refusal));
        }
        let started = create();
        if started.is_err() {
            let removed = self.remove(id, Some(slot.number), DiskRetention::Erase);
            note_leftovers(removed.during(RuntimeOperation::Stop, id, "clean up after a failure"));
        }
        started
    }

    /// A network whose only link is the one to the node: where it is, and the guest's end.
    pub(super) fn closed_network(&self, slot: Slot) -> Result<(PathBuf, Tap), DriverFailure> {
        let closed = Config { egress: Egress::None, ..self.machine.network.clone() };
        let namespace = Namespace::new(&closed, self.machine.claim.mark(), slot.run);
        let tap = namespace.up(slot.number)?;
        Ok((namespace.path(), tap))
    }

    fn try_create_helper(&self, spec: &HelperSpec) -> Result<RunningVmm, RuntimeError> {
        let (id, create) = (spec.slot.run, RuntimeOperation::Create);
        files::private_dir(&self.guest_dir(id)).during(create, id, "make its folder")?;
        let (disk, writes) = self.owned_disk(spec.disk).during(create, id, step::DISKS)?;
        let (namespace, tap) = self.closed_network(spec.slot).during(create, id, step::NETWORK)?;
        let config = VmConfig {
            name: id.to_string(),
            cores: CORES,
            memory_mib: spec.memory_mib,
            words: HELPER,
            disks: vec![(VOLUME_SERIALS[0], !writes, disk)],
            tap: Some(tap.0),
            namespace: Some(namespace),
            uid: self.uid(spec.slot.number),
        };
        self.launch(config).during(create, id, step::VMM)
    }

    /// Opens a disk for the helper alone: whoever else would write to it finds it taken. With it, whether
    /// the helper may: what is kept of a container is read alone.
    fn owned_disk(&self, disk: OwnedDisk) -> Result<(OwnedFd, bool), DriverFailure> {
        let (file, writes) = match disk {
            OwnedDisk::Volume(id) => (Volumes::of(&self.settings.state).open(id)?, true),
            OwnedDisk::Data(pod) => self.machine.kept().open_data(pod)?,
        };
        Ok((file.into(), writes))
    }
}
