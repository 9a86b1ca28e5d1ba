//! What the driver does with its hands: blocking, one call after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use domain::RunId;
use wire::v1::node::{DataDisk, Retention};
use wire::v1::pod::GUEST_ADDRESS;

use super::client::Containerd;
use super::daemon::{Daemon, Place, open_files};
use super::mounts::{self, Mounts, Parts};
use super::namespaces::Namespaces;
use super::protocol::{Any, ContainerRecord, CreateTaskRequest, RuncOptions, RuntimeChoice};
use super::spec::Wanted;
use super::{ContainerSettings, OciRuntime};
use crate::cgroup::{CgroupLimits, DiskRate};
use crate::disk::{self, HOST_DATA, HOST_LAYER};
use crate::error::{Step, step};
use crate::machine::{CONTAINERS, NodeMachine};
use crate::runtime::{DiskRetention, GuestSpec, ObservedRun, Slot};
use crate::{DriverError, DriverFailure, DriverRefusal, RuntimeError, RuntimeOperation, files, owner, process};

/// What `pod` and the shim take beyond the container's own memory; the former counts for its
/// cgroup, which is limited with it.
const POD_MIB: u64 = 16;
pub(super) const OVERHEAD_MIB: u64 = POD_MIB + 32;
/// Threads of a container, besides one for each core: browsers and compilers have hundreds.
const THREADS: u32 = 4_096;

/// All that the driver holds.
pub(super) struct Inner {
    pub(super) settings: ContainerSettings,
    pub(super) machine: Arc<NodeMachine>,
    pub(super) place: Place,
    pub(super) client: Containerd,
    /// The programs that make containers, by what they are.
    pub(super) programs: BTreeMap<OciRuntime, PathBuf>,
    /// Versions, for people.
    pub(super) reason: String,
    /// Up to where what the first process of each container prints was given away, of those
    /// that this daemon has started.
    pub(super) printed: Mutex<BTreeSet<RunId>>,
    /// Keeps containerd until the driver is gone.
    pub(super) daemon: Mutex<Option<Daemon>>,
}

impl Inner {
    pub(super) fn dir(&self, id: RunId) -> PathBuf {
        self.machine.state.join(CONTAINERS).join(id.to_string())
    }

    pub(super) fn mounts(&self, id: RunId) -> Mounts {
        Mounts::of(self.machine.network.name.as_str(), &id.to_string())
    }

    pub(super) fn slots(&self) -> u16 {
        self.machine.network.range.slots().min(ContainerSettings::SLOTS)
    }

    fn first_uid(&self, slot: u16) -> u32 {
        self.settings.first_uid + u32::from(slot) * ContainerSettings::USERS
    }

    pub(super) fn prepare(&self) -> Result<(), DriverError> {
        let ContainerSettings { layer_mib, data_mib, .. } = self.settings;
        for mib in BTreeSet::from([layer_mib, data_mib]) {
            disk::template(&self.machine.templates(), mib).step("make the empty disks")?;
        }
        self.machine.open()
    }

    pub(super) fn observed_runs(&self) -> Result<BTreeMap<RunId, ObservedRun>, DriverError> {
        let one = |id: RunId| {
            let pids = self.machine.cgroups.pids(&id.to_string()).step("read a guest's cgroup")?;
            let slot = pids.iter().find_map(|pid| self.slot_of(*pid));
            let pod = owner::read(&self.dir(id), id);
            if let Err(error) = &pod {
                tracing::error!(%id, %error, "it cannot be read of which POD a run is");
            }
            Ok((id, ObservedRun { runs: !pids.is_empty(), slot, pod: pod.ok() }))
        };
        self.machine.found(CONTAINERS)?.into_iter().map(one).collect()
    }

    /// The slot whose users run this process.
    fn slot_of(&self, pid: u32) -> Option<u16> {
        let user = process::uid(pid).ok()?.checked_sub(self.settings.first_uid)?;
        u16::try_from(user / ContainerSettings::USERS).ok()
    }

    pub(super) fn refuse(&self, spec: &GuestSpec) -> Result<OciRuntime, RuntimeError> {
        let id = spec.slot.run;
        let no = |refusal| Err(refused(RuntimeOperation::Create, id, refusal));
        self.machine.must_be_of(CONTAINERS, id).during(RuntimeOperation::Create, id, step::VMM)?;
        let runtime = self.runtime_of(spec)?;
        if !spec.volumes.is_empty() {
            return no(DriverRefusal::VolumesNeedMachine);
        }
        let slots = self.slots();
        if spec.slot.number >= slots {
            return no(DriverRefusal::NoSlot { slot: spec.slot.number, slots });
        }
        let running = self.machine.cgroups.pids(&id.to_string());
        if !running.during(RuntimeOperation::Create, id, "read its cgroup")?.is_empty() {
            return no(DriverRefusal::Runs);
        }
        if !spec.base.is_dir() {
            return no(DriverRefusal::NoBase(spec.base.clone()));
        }
        let free_mib =
            disk::free_mib(&self.machine.state).during(RuntimeOperation::Create, id, "look at the free space")?;
        let least_mib = self.settings.least_free_mib;
        if free_mib < least_mib {
            return no(DriverRefusal::DiskFull { path: self.machine.state.clone(), free_mib, least_mib });
        }
        Ok(runtime)
    }

    fn runtime_of(&self, spec: &GuestSpec) -> Result<OciRuntime, RuntimeError> {
        let wanted = match spec.runtime {
            Some(name) => OciRuntime::of(name.kind()),
            None => self.settings.runtimes.first().copied(),
        };
        let offered = wanted.filter(|runtime| self.programs.contains_key(runtime));
        offered.ok_or_else(|| RuntimeError::Failed {
            operation: RuntimeOperation::Create,
            id: spec.slot.run,
            step: step::VMM,
            source: not_offered(spec),
        })
    }

    /// Its folder, by which all else of it is found after the daemon's death, and then the
    /// namespaces that belong to the users of its slot.
    pub(super) fn begin(&self, slot: Slot) -> io::Result<Namespaces> {
        files::private_dir(&self.dir(slot.run))?;
        Namespaces::owned_by(self.first_uid(slot.number))
    }

    /// All that a container stands on, but its network.
    pub(super) fn lay(
        &self,
        spec: &GuestSpec,
        runtime: OciRuntime,
        namespaces: &Namespaces,
    ) -> Result<(), RuntimeError> {
        let id = spec.slot.run;
        let dir = self.dir(id);
        self.disks(&dir, spec).during(RuntimeOperation::Create, id, step::DISKS)?;
        let limits = self.limits(spec, runtime).during(RuntimeOperation::Create, id, "read its limits")?;
        let groups = &self.machine.cgroups;
        let group = groups.make_shims().and_then(|()| groups.create(&id.to_string(), limits));
        let group = group.map_err(DriverFailure::Cgroup);
        group.during(RuntimeOperation::Create, id, step::VMM)?;
        let (layer, data) = (dir.join(HOST_LAYER), dir.join(HOST_DATA));
        let parts = Parts {
            base: &spec.base,
            layer: &layer,
            data: &data,
            pod: &self.settings.pod,
            first_uid: self.first_uid(spec.slot.number),
            namespaces,
            texts: self.texts(spec),
        };
        self.mounts(id).up(&parts).during(RuntimeOperation::Create, id, step::DISKS)
    }

    fn limits(&self, spec: &GuestSpec, runtime: OciRuntime) -> Result<CgroupLimits, DriverFailure> {
        Ok(CgroupLimits {
            cores: spec.cores,
            memory_mib: spec.memory_mib + POD_MIB + runtime.own_mib(),
            threads: THREADS,
            disk: DiskRate::of(&self.machine.state, self.settings.disk_mib_per_second, spec.cores)?,
        })
    }

    /// What `pod` writes itself in a machine.
    fn texts(&self, spec: &GuestSpec) -> [(&'static str, String); 3] {
        let pod = spec.pod;
        let mut servers = String::new();
        for resolver in &self.machine.network.resolvers {
            // Writing to a text does not fail.
            let _ = writeln!(servers, "nameserver {resolver}");
        }
        [
            ("resolv.conf", servers),
            ("hostname", format!("{pod}\n")),
            ("hosts", format!("127.0.0.1\tlocalhost\n::1\tlocalhost\n{GUEST_ADDRESS}\t{pod}\n")),
        ]
    }

    fn disks(&self, dir: &Path, spec: &GuestSpec) -> Result<(), DriverFailure> {
        owner::write(dir, spec.slot.run, spec.pod)?;
        let (layer, data) = (dir.join(HOST_LAYER), dir.join(HOST_DATA));
        if spec.ran {
            disk::must_be_there(&layer)?;
            disk::must_be_there(&data)?;
        }
        self.data_disk(&data, spec)?;
        Ok(disk::copy(&disk::template(&self.machine.templates(), self.settings.layer_mib)?, &layer)?)
    }

    fn data_disk(&self, path: &Path, spec: &GuestSpec) -> Result<(), DriverFailure> {
        let kept = self.machine.kept();
        if path.try_exists()? {
            return Ok(());
        }
        if kept.newest_data(spec.pod)?.is_some_and(|newest| !newest.host_made) {
            return Err(DriverFailure::Missing(format!(
                "the data of the POD {} was written by a machine, and no host mounts such a disk: start it in a \
                 machine again",
                spec.pod
            )));
        }
        if kept.take_back(spec.pod, path)? {
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

    pub(super) fn record(&self, spec: &GuestSpec, runtime: OciRuntime, namespaces: &Namespaces) -> ContainerRecord {
        let (id, first_uid) = (spec.slot.run.to_string(), self.first_uid(spec.slot.number));
        let hostname = spec.pod.to_string();
        let mounts = self.mounts(spec.slot.run);
        let (joins, open_files) = match runtime.joins() {
            true => (vec![("user", namespaces.users_path()), ("network", namespaces.network_path())], None),
            false => (Vec::new(), Some(open_files())),
        };
        let wanted = Wanted {
            hostname: &hostname,
            cgroup: &self.machine.cgroups.path(&id),
            place: &mounts.place().to_string_lossy(),
            first_uid,
            state_dir: &spec.state_dir,
            memory_mib: spec.memory_mib,
            joins: &joins,
            open_files,
        };
        let program = self.programs.get(&runtime).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        let options = RuncOptions {
            shim_cgroup: self.machine.cgroups.shims_path(),
            io_uid: first_uid,
            io_gid: first_uid,
            binary_name: program,
            root: self.place.runtime_root().join(runtime.program()).to_string_lossy().into_owned(),
        };
        ContainerRecord {
            id,
            labels: [("pod".to_owned(), hostname.clone())].into(),
            runtime: Some(RuntimeChoice {
                name: "io.containerd.runc.v2".to_owned(),
                options: Some(Any::message("containerd.runc.v1.Options", &options)),
            }),
            spec: Some(Any::json("types.containerd.io/opencontainers/runtime-spec/1/Spec", &wanted.spec())),
        }
    }

    pub(super) fn task(&self, id: RunId) -> CreateTaskRequest {
        let console = format!("file://{}", self.mounts(id).console().display());
        CreateTaskRequest { container_id: id.to_string(), stdout: console.clone(), stderr: console }
    }

    /// Has the network of this path lead out by the slot's link.
    pub(super) fn connect(&self, slot: Slot, network: &str) -> Result<(), DriverFailure> {
        self.machine.host.reconcile_network()?;
        self.machine.namespace(slot.run).up_for_container(slot.number, network)
    }

    /// Ends all processes of a container; one that is frozen hears of nothing.
    pub(super) fn kill(&self, id: RunId) -> Result<(), DriverFailure> {
        let name = id.to_string();
        self.machine.cgroups.freeze(&name, false)?;
        self.machine.cgroups.kill(&name)
    }

    /// Removes what a container stood on, when containerd has nothing of it any more.
    pub(super) fn remove(&self, id: RunId, slot: Option<u16>, disks: DiskRetention) -> Result<(), DriverFailure> {
        let (name, dir) = (id.to_string(), self.dir(id));
        self.machine.namespace(id).down(slot)?;
        durable::failpoint("container", "without network");
        self.machine.cgroups.remove(&name)?;
        self.machine.cgroups.remove_foreign(&name)?;
        durable::failpoint("container", "without limits");
        self.mounts(id).down()?;
        durable::failpoint("container", "unmounted");
        if disks != DiskRetention::Attached {
            mounts::must_be_detached(&[dir.join(HOST_LAYER), dir.join(HOST_DATA)], mounts::BUSY)?;
        }
        match disks {
            DiskRetention::Attached => Ok(()),
            DiskRetention::KeepData(retention) => {
                files::remove(&dir.join(HOST_LAYER))?;
                self.keep(&dir, id, &retention)
            }
            DiskRetention::KeepAll(retention) => self.keep(&dir, id, &retention),
            DiskRetention::Erase => Ok(files::remove_dir(&dir)?),
        }
    }

    fn keep(&self, dir: &Path, id: RunId, retention: &Retention) -> Result<(), DriverFailure> {
        for name in disk::names(dir)? {
            let path = dir.join(name);
            if disk::is_as_made(&self.machine.templates(), &path)? {
                files::remove(&path)?;
            }
        }
        Ok(self.machine.kept().set_aside(dir, owner::read(dir, id)?, retention)?)
    }

    /// The socket of a container's shim, which stays where its shim was killed.
    pub(super) fn shim_socket(&self, id: RunId) -> Option<PathBuf> {
        let address = fs::read_to_string(self.place.bundle(&id.to_string()).join("address")).ok()?;
        address.trim().strip_prefix("unix://").map(PathBuf::from)
    }

    /// Whether the disk has become so full that containers must not go on: what they have
    /// written would not reach it.
    pub(super) fn is_out_of_disk(&self) -> io::Result<bool> {
        Ok(disk::free_mib(&self.machine.state)? < self.settings.least_free_mib / 2)
    }
}

fn not_offered(spec: &GuestSpec) -> DriverFailure {
    let name = spec.runtime.map_or("a container", wire::v1::node::RuntimeName::as_str);
    DriverFailure::Missing(format!("node.runtimes does not offer {name}"))
}

pub(super) fn refused(operation: RuntimeOperation, id: RunId, refusal: DriverRefusal) -> RuntimeError {
    RuntimeError::Refused { operation, id, refusal }
}
