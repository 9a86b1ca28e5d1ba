//! What the driver does with its hands: blocking, one call after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use domain::RunId;
use wire::v1::node::{DataDisk, Retention};
use wire::v1::pod::VOLUME_SERIALS;

use super::QemuSettings;
use super::accelerator::{PROBE_NAME, remove_probe};
use super::jail::Jail;
use super::launch::RunningVmm;
use super::launcher::{VmConfig, VmmLauncher, guest_dir};
use super::probe::ProbeResult;
use crate::cgroup::Cgroups;
use crate::disk::{DATA, LAYER};
use crate::error::{Step, step};
use crate::machine::{GUESTS, NodeMachine, swept};
use crate::runtime::{DiskRetention, GuestSpec, ObservedRun, Slot};
use crate::{
    DriverError, DriverFailure, DriverRefusal, RuntimeError, RuntimeOperation, Volumes, disk, files, owner, process,
};

/// How long a VMM may take to end by itself when it was told to.
pub(super) const QUIT_DEADLINE: Duration = Duration::from_millis(500);
/// Pause between two looks at it.
const QUIT_PAUSE: Duration = Duration::from_millis(2);

/// All that the driver holds.
pub(super) struct Inner {
    pub(super) settings: QemuSettings,
    pub(super) program: PathBuf,
    pub(super) verdict: ProbeResult,
    pub(super) groups: Vec<u32>,
    pub(super) machine: Arc<NodeMachine>,
    pub(super) jail: Jail,
}

impl Inner {
    pub(super) fn guest_dir(&self, id: RunId) -> PathBuf {
        guest_dir(&self.settings.state, &id.to_string())
    }

    pub(super) fn prepare(&self) -> Result<(), DriverError> {
        let QemuSettings { layer_mib, data_mib, .. } = self.settings;
        for mib in BTreeSet::from([layer_mib, data_mib]) {
            disk::template(&self.machine.templates(), mib).step("make the empty disks")?;
        }
        self.machine.open()
    }

    pub(super) fn observed_runs(&self) -> Result<BTreeMap<RunId, ObservedRun>, DriverError> {
        let one = |id: RunId| {
            let pids = self.machine.cgroups.pids(&id.to_string()).step("read a guest's cgroup")?;
            let slot = pids.iter().find_map(|pid| self.slot_of(*pid));
            let pod = owner::read(&self.guest_dir(id), id);
            if let Err(error) = &pod {
                tracing::error!(%id, %error, "it cannot be read of which POD a run is");
            }
            Ok((id, ObservedRun { runs: !pids.is_empty(), slot, pod: pod.ok() }))
        };
        self.machine.found(GUESTS)?.into_iter().map(one).collect()
    }

    /// The slot whose user runs this process.
    fn slot_of(&self, pid: u32) -> Option<u16> {
        let uid = process::uid(pid).ok()?;
        u16::try_from(uid.checked_sub(self.settings.first_uid)?).ok()
    }

    pub(super) fn sweep(
        &self,
        known: &BTreeMap<RunId, Option<u16>>,
        retention: &Retention,
    ) -> Result<usize, DriverError> {
        let unknown = self.machine.found(GUESTS)?.into_iter().filter(|id| !known.contains_key(id));
        let removed = unknown.map(|id| swept(id, self.remove(id, None, DiskRetention::KeepAll(*retention))));
        let removed = removed.filter(|removed| *removed).count();
        self.machine.sweep_links(known)?;
        self.machine.tidy_kept(retention)?;
        swept(PROBE_NAME, remove_probe(&self.settings, &self.machine.cgroups));
        Ok(removed)
    }

    pub(super) fn create(&self, spec: &GuestSpec) -> Result<RunningVmm, RuntimeError> {
        let id = spec.slot.run;
        self.refuse(spec)?;
        let started = self.try_create(spec);
        if started.is_err() {
            let removed = self.remove(id, Some(spec.slot.number), DiskRetention::Attached);
            note_leftovers(removed.during(RuntimeOperation::Stop, id, "clean up after a failure"));
        }
        started
    }

    fn refuse(&self, spec: &GuestSpec) -> Result<(), RuntimeError> {
        let id = spec.slot.run;
        let no = |refusal| Err(refused(RuntimeOperation::Create, id, refusal));
        self.machine.must_be_of(GUESTS, id).during(RuntimeOperation::Create, id, step::VMM)?;
        if spec.volumes.len() > VOLUME_SERIALS.len() {
            return no(DriverRefusal::TooManyVolumes { asked: spec.volumes.len(), most: VOLUME_SERIALS.len() });
        }
        if spec.runtime.is_some_and(wire::v1::node::RuntimeName::is_container) {
            let other = DriverFailure::Missing("a container is asked for, and this makes machines".to_owned());
            return Err(other).during(RuntimeOperation::Create, id, step::VMM);
        }
        let slots = self.settings.network.range.slots();
        if spec.slot.number >= slots {
            return no(DriverRefusal::NoSlot { slot: spec.slot.number, slots });
        }
        if !self
            .machine
            .cgroups
            .pids(&id.to_string())
            .during(RuntimeOperation::Create, id, "read its cgroup")?
            .is_empty()
        {
            return no(DriverRefusal::Runs);
        }
        if !spec.base.is_file() {
            return no(DriverRefusal::NoBase(spec.base.clone()));
        }
        let free_mib =
            disk::free_mib(&self.settings.state).during(RuntimeOperation::Create, id, "look at the free space")?;
        let least_mib = self.settings.least_free_mib;
        if free_mib < least_mib {
            return no(DriverRefusal::DiskFull { path: self.settings.state.clone(), free_mib, least_mib });
        }
        Ok(())
    }

    fn try_create(&self, spec: &GuestSpec) -> Result<RunningVmm, RuntimeError> {
        let id = spec.slot.run;
        let during = |step| {
            move |error: DriverFailure| RuntimeError::Failed {
                operation: RuntimeOperation::Create,
                id,
                step,
                source: error,
            }
        };
        let namespace = self.machine.namespace(id);
        let dir = self.guest_dir(id);
        let base = match File::open(&spec.base) {
            // It was there when we looked; now it is being removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(refused(RuntimeOperation::Create, id, DriverRefusal::NoBase(spec.base.clone())));
            }
            opened => opened.during(RuntimeOperation::Create, id, step::IMAGE)?,
        };
        files::private_dir(&dir).map_err(|error| during("make its folder")(error.into()))?;
        let (disks, tap) = std::thread::scope(|scope| {
            let tap =
                scope.spawn(|| self.machine.host.reconcile_network().and_then(|()| namespace.up(spec.slot.number)));
            (self.disks(&dir, base, spec), tap.join())
        });
        let disks = disks.map_err(during(step::DISKS))?;
        let tap = tap
            .unwrap_or_else(|_| Err(DriverFailure::Missing("the network's thread is gone".to_owned())))
            .map_err(during(step::NETWORK))?;
        let config = VmConfig {
            name: id.to_string(),
            cores: spec.cores,
            memory_mib: spec.memory_mib,
            words: "",
            disks,
            tap: Some(tap.0),
            namespace: Some(namespace.path()),
            uid: self.uid(spec.slot.number),
        };
        self.launch(config).map_err(during(step::VMM))
    }

    pub(super) fn launch(&self, config: VmConfig) -> Result<RunningVmm, DriverFailure> {
        let Self { settings, program, machine, jail, .. } = self;
        let launcher = VmmLauncher { settings, program, cgroups: &machine.cgroups, jail };
        launcher.start(config, self.verdict.accelerator, self.verdict.tsc_khz, &self.groups)
    }

    pub(super) fn uid(&self, slot: u16) -> u32 {
        self.settings.first_uid + u32::from(slot)
    }

    /// Opens the disks of a run; what is not there yet is made, or taken back from what is
    /// kept of its POD.
    fn disks(
        &self,
        dir: &Path,
        base: File,
        spec: &GuestSpec,
    ) -> Result<Vec<(&'static str, bool, OwnedFd)>, DriverFailure> {
        owner::write(dir, spec.slot.run, spec.pod)?;
        let (layer, data) = (dir.join(LAYER), dir.join(DATA));
        if spec.ran {
            disk::must_be_there(&layer)?;
            disk::must_be_there(&data)?;
        }
        self.data_disk(&data, spec)?;
        disk::copy(&disk::template(&self.machine.templates(), self.settings.layer_mib)?, &layer)?;
        let mut disks = vec![("base", true, base.into())];
        for (serial, path) in [("layer", layer), ("data", data)] {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            disk::claim(&file, &path)?;
            disks.push((serial, false, file.into()));
        }
        let volumes = Volumes::of(&self.settings.state);
        for (serial, id) in VOLUME_SERIALS.into_iter().zip(&spec.volumes) {
            disks.push((serial, false, volumes.open(*id)?.into()));
        }
        Ok(disks)
    }

    fn data_disk(&self, path: &Path, spec: &GuestSpec) -> Result<(), DriverFailure> {
        if path.try_exists()? || self.machine.kept().take_back(spec.pod, path)? {
            return Ok(());
        }
        match spec.data {
            DataDisk::KeptOrEmpty => {
                Ok(disk::copy(&disk::template(&self.machine.templates(), self.settings.data_mib)?, path)?)
            }
            DataDisk::Kept => Err(DriverFailure::Missing(format!(
                "nothing is kept of the POD {} on this node: put its data back from a backup, to {}, or end the run \
                 by a stop",
                spec.pod,
                path.display()
            ))),
        }
    }

    pub(super) fn stop(&self, slot: Slot, disks: DiskRetention) -> Result<(), RuntimeError> {
        let gone = wait_empty(&self.machine.cgroups, &slot.run.to_string());
        gone.and_then(|()| self.remove(slot.run, Some(slot.number), disks)).during(
            RuntimeOperation::Stop,
            slot.run,
            "remove it",
        )
    }

    /// Kills and removes whatever is there, in the order in which one thing needs the
    /// other: the VMM, its network, its limits, its files.
    pub(super) fn remove(&self, id: RunId, slot: Option<u16>, disks: DiskRetention) -> Result<(), DriverFailure> {
        let name = id.to_string();
        self.machine.cgroups.kill(&name)?;
        self.machine.namespace(id).down(slot)?;
        self.machine.cgroups.remove(&name)?;
        let dir = self.guest_dir(id);
        if disks != DiskRetention::Attached {
            disk::must_be_free(&dir)?;
        }
        match disks {
            DiskRetention::Attached => remove_sockets(&dir),
            DiskRetention::KeepData(retention) => {
                files::remove(&dir.join(LAYER))?;
                self.keep(&dir, id, &retention)
            }
            DiskRetention::KeepAll(retention) => self.keep(&dir, id, &retention),
            DiskRetention::Erase => Ok(files::remove_dir(&dir)?),
        }
    }

    /// Keeps what a run has written under its POD's name.
    fn keep(&self, dir: &Path, id: RunId, retention: &Retention) -> Result<(), DriverFailure> {
        remove_sockets(dir)?;
        for name in disk::names(dir)? {
            let path = dir.join(name);
            if disk::is_as_made(&self.machine.templates(), &path)? {
                files::remove(&path)?;
            }
        }
        Ok(self.machine.kept().set_aside(dir, owner::read(dir, id)?, retention)?)
    }
}

fn remove_sockets(dir: &Path) -> Result<(), DriverFailure> {
    files::remove(&dir.join("control"))?;
    Ok(files::remove(&dir.join("console"))?)
}

/// What is left of a start that failed; why it failed is told to whoever asked for it.
pub(super) fn note_leftovers(removed: Result<(), RuntimeError>) {
    if let Err(error) = removed {
        tracing::error!(error = &error as &dyn std::error::Error, "what a failed start has left cannot be removed");
    }
}

/// Gives a VMM that was told to quit the time to do so.
fn wait_empty(cgroups: &Cgroups, name: &str) -> Result<(), DriverFailure> {
    let until = Instant::now() + QUIT_DEADLINE;
    while Instant::now() < until && !cgroups.pids(name)?.is_empty() {
        thread::sleep(QUIT_PAUSE);
    }
    Ok(())
}

pub(super) fn refused(operation: RuntimeOperation, id: RunId, refusal: DriverRefusal) -> RuntimeError {
    RuntimeError::Refused { operation, id, refusal }
}
