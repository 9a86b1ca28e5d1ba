//! Builders: machines in which holders' builds run. What they boot is a disk of programs; what they
//! write lies on disks of their own, which are removed with them and are never read.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::Path;

use super::launch::RunningVmm;
use super::launcher::VmConfig;
use super::ops::Inner;
use crate::error::{Step, step};
use crate::runtime::BuilderSpec;
use crate::{DriverFailure, RuntimeError, RuntimeOperation, disk, files};

/// The names of its disks, in its folder: no kept data is ever called so.
const DISKS: [(&str, &str); 2] = [("layer", "layer.build"), ("data", "data.build")];

impl Inner {
    pub(super) fn create_builder(&self, spec: &BuilderSpec) -> Result<RunningVmm, RuntimeError> {
        self.create_own(spec.slot, || self.try_create_builder(spec))
    }

    fn try_create_builder(&self, spec: &BuilderSpec) -> Result<RunningVmm, RuntimeError> {
        let (id, create, dir) = (spec.slot.run, RuntimeOperation::Create, self.guest_dir(spec.slot.run));
        files::private_dir(&dir).during(create, id, "make its folder")?;
        let disks = self.builder_disks(&dir, spec).during(create, id, step::DISKS)?;
        let (namespace, tap) = self.closed_network(spec.slot).during(create, id, step::NETWORK)?;
        let config = VmConfig {
            name: id.to_string(),
            cores: spec.cores,
            memory_mib: spec.memory_mib,
            words: "",
            disks,
            tap: Some(tap.0),
            namespace: Some(namespace),
            uid: self.uid(spec.slot.number),
        };
        self.launch(config).during(create, id, step::VMM)
    }

    fn builder_disks(
        &self,
        dir: &Path,
        spec: &BuilderSpec,
    ) -> Result<Vec<(&'static str, bool, OwnedFd)>, DriverFailure> {
        let mut disks = vec![("base", true, OwnedFd::from(File::open(&spec.base)?))];
        for ((serial, name), mib) in DISKS.into_iter().zip([self.settings.layer_mib, spec.disk_mib]) {
            let path = dir.join(name);
            disk::copy(&disk::template(&self.machine.templates(), mib)?, &path)?;
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            disk::claim(&file, &path)?;
            disks.push((serial, false, file.into()));
        }
        Ok(disks)
    }
}
