//! Helpers: machines that have one disk of their owner's and nothing else. Of the host they have
//! what an agent's machine has (a cgroup, a user, a jail of their own), but no image, no layer, and
//! a network that ends at the node.

use std::os::fd::OwnedFd;

use domain::OwnedDisk;
use wire::v1::pod::{HELPER, VOLUME_SERIALS};

use super::launch::RunningVmm;
use super::launcher::{VmConfig, VmmLauncher};
use super::ops::{Inner, note_leftovers, refused};
use crate::error::{Step, step};
use crate::network::{Config, Egress, Namespace};
use crate::runtime::{DiskRetention, HelperSpec};
use crate::{DriverFailure, DriverRefusal, RuntimeError, RuntimeOperation, Volumes, files};

const CORES: u32 = 1;

impl Inner {
    pub(super) fn create_helper(&self, spec: &HelperSpec) -> Result<RunningVmm, RuntimeError> {
        let id = spec.slot.run;
        let slots = self.settings.network.range.slots();
        if spec.slot.number >= slots {
            let refusal = DriverRefusal::NoSlot { slot: spec.slot.number, slots };
            return Err(refused(RuntimeOperation::Create, id, refusal));
        }
        let started = self.try_create_helper(spec);
        if started.is_err() {
            let removed = self.remove(id, Some(spec.slot.number), DiskRetention::Erase);
            note_leftovers(removed.during(RuntimeOperation::Stop, id, "clean up after a failure"));
        }
        started
    }

    fn try_create_helper(&self, spec: &HelperSpec) -> Result<RunningVmm, RuntimeError> {
        let (id, create) = (spec.slot.run, RuntimeOperation::Create);
        files::private_dir(&self.guest_dir(id)).during(create, id, "make its folder")?;
        let (disk, writes) = self.owned_disk(spec.disk).during(create, id, step::DISKS)?;
        // Its only link is the one to the node.
        let closed = Config { egress: Egress::None, ..self.machine.network.clone() };
        let namespace = Namespace::new(&closed, self.machine.claim.mark(), id);
        let tap = namespace.up(spec.slot.number).during(create, id, step::NETWORK)?;
        let config = VmConfig {
            name: id.to_string(),
            cores: CORES,
            memory_mib: spec.memory_mib,
            words: HELPER,
            disks: vec![(VOLUME_SERIALS[0], !writes, disk)],
            tap: Some(tap.0),
            namespace: Some(namespace.path()),
            uid: self.uid(spec.slot.number),
        };
        let Self { settings, program, machine, jail, .. } = self;
        let launcher = VmmLauncher { settings, program, cgroups: &machine.cgroups, jail };
        let started = launcher.start(config, self.verdict.accelerator, self.verdict.tsc_khz, &self.groups);
        started.during(create, id, step::VMM)
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
