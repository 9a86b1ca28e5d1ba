//! A sandbox that is asked for: whether it may be, and its place.

use std::sync::Arc;

use domain::{OwnedDisk, PodId, RunId, Tiers, VolumeMount, check_mounts};
use sandbox::Slot;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use wire::Environment;
use wire::v1::node::{DataDisk, Sandbox, SandboxPhase, SandboxSpec};
use wire::v1::pod::ImageRunConfig;

use super::{CreateError, Node};
use crate::error_chain::error_chain;
use crate::ledger::{SandboxRecord, Secrets};
use crate::policy::{DiskSpace, SpecMatch, SpecWithoutEnv, offer};
use crate::registry::Admission;
use crate::task::{Origin, SandboxHandle, SandboxTask};

const MIB: u64 = 1024 * 1024;

/// What came of asking for a sandbox.
pub(crate) enum CreateOutcome {
    /// It is new.
    New(Sandbox),
    /// It was there.
    Existing(Sandbox),
}

impl Node {
    /// Makes a sandbox, or finds that it is there.
    pub(crate) async fn create(
        &self,
        id: RunId,
        spec: SandboxSpec,
        trace: Option<String>,
    ) -> Result<CreateOutcome, CreateError> {
        check(&spec)?;
        // What is there is there, whatever the node offers by now.
        if let Some(held) = self.shared.registry.get(id) {
            return self.again(&held, &spec).await;
        }
        self.check_runtime(&spec)?;
        if let Some(held) = self.shared.registry.quarantine.get(id) {
            return Err(CreateError::Quarantined(held.cause));
        }
        // Before anything that others wait for: a helper may take its time to end.
        let volumes = spec.volumes.iter().map(|volume| OwnedDisk::Volume(volume.id));
        for disk in volumes.chain([OwnedDisk::Data(spec.pod)]) {
            self.shared.helpers.end(disk).await;
        }
        // First: what others do to their volumes may take long, and the images are everybody's.
        let volumes = self.hold_volumes(id, &spec).await?;
        // Until the run has its place nobody removes its image.
        let using = self.shared.image_use.read().await;
        let (run, room) = self.room_for(&spec).await?;
        let entered = self.enter(id, &spec, run, room).await?;
        drop((using, volumes));
        match entered {
            (handle, Some(task)) => self.begin(&handle, task, spec.env, trace).await,
            (handle, None) => self.again(&handle, &spec).await,
        }
    }

    /// Gives a run its place, unless it has it. Of a POD that has data here the run will
    /// have that data: nobody erases it from now on.
    async fn enter(
        &self,
        id: RunId,
        spec: &SandboxSpec,
        run: ImageRunConfig,
        room: DiskSpace,
    ) -> Result<(Arc<SandboxHandle>, Option<SandboxTask>), CreateError> {
        let _kept = self.shared.kept.lock().await;
        self.refuse_second_run(id, spec.pod)?;
        self.shared.helpers.end(OwnedDisk::Data(spec.pod)).await;
        self.check_data(spec).await?;
        let room = room.with_guests(self.data_to_take_back(spec).await? / MIB);
        let disk_mib = self.shared.config.agent_disk_mib();
        let (desired, now) = (SpecWithoutEnv::from(spec), self.shared.clock.now());
        let mut made = None;
        let ask = domain::ResourceRequest { cores: spec.cores, memory_mib: spec.memory_mib };
        let entry = self.shared.registry.enter(id, ask, room, |number| {
            let record = SandboxRecord::new(Slot { run: id, number }, desired, run, disk_mib, now);
            let (handle, task) = self.prepare(record);
            made = Some(task);
            handle
        });
        match entry.map_err(CreateError::NoRoom)? {
            Admission::New(handle) => Ok((handle, made)),
            Admission::Existing(handle) => Ok((handle, None)),
        }
    }

    fn refuse_second_run(&self, id: RunId, pod: PodId) -> Result<(), CreateError> {
        let registry = &self.shared.registry;
        if let Some(held) = registry.quarantine.run_of(pod) {
            return Err(CreateError::Quarantined(held.cause));
        }
        match registry.run_of(pod).map(|handle| handle.id()) {
            Some(run) if run != id => Err(CreateError::PodRunning { pod, run }),
            Some(_) | None => Ok(()),
        }
    }

    /// No other takes the place of what is asked for.
    fn check_runtime(&self, spec: &SandboxSpec) -> Result<(), CreateError> {
        let runtime = spec.runtime.unwrap_or_else(|| self.shared.runtime_of(None).name);
        if !spec.volumes.is_empty() && runtime.is_container() {
            return Err(CreateError::VolumesNeedMachine);
        }
        let Some(wanted) = spec.runtime else { return Ok(()) };
        let offers = &self.shared.offers;
        if offers.iter().any(|offered| offered.name == wanted) {
            return Ok(());
        }
        let offered: Vec<_> = offers.iter().map(|offered| offered.name.as_str()).collect();
        Err(CreateError::Runtime { wanted: wanted.as_str(), offered: offered.join(", ") })
    }

    /// A container is given no disk that a machine has written to.
    async fn check_data(&self, spec: &SandboxSpec) -> Result<(), CreateError> {
        let container = self.shared.runtime_of(spec.runtime).name.is_container();
        if container && self.shared.runtime.is_kept_of_machine(spec.pod).await? {
            return Err(CreateError::DataOfMachine(spec.pod));
        }
        Ok(())
    }

    /// Bytes of the data disk that a run takes back. Where that cannot be seen the run
    /// waits for it: there may be one.
    async fn data_to_take_back(&self, spec: &SandboxSpec) -> Result<u64, CreateError> {
        match (self.shared.runtime.kept_data(spec.pod).await, spec.data) {
            (Ok(Some(bytes)), _) => Ok(bytes),
            (Ok(None), DataDisk::KeptOrEmpty) => Ok(0),
            (Ok(None), DataDisk::Kept) => Err(CreateError::NoData(spec.pod)),
            (Err(error), _) => {
                tracing::error!(pod = %spec.pod, error = error_chain(&error), "the data kept of a POD cannot be looked up");
                Ok(0)
            }
        }
    }

    async fn begin(
        &self,
        handle: &SandboxHandle,
        task: SandboxTask,
        env: Environment,
        trace: Option<String>,
    ) -> Result<CreateOutcome, CreateError> {
        let (written, in_ledger) = oneshot::channel();
        let secrets = match Secrets::new(env) {
            Ok(secrets) => secrets,
            Err(error) => {
                self.shared.registry.forget(handle.id());
                return Err(CreateError::Disk(error));
            }
        };
        self.spawn(task, Origin::Asked { secrets, written, trace });
        in_ledger.await.map_err(|_| CreateError::Closing)??;
        Ok(CreateOutcome::New(handle.sandbox()))
    }

    async fn again(&self, held: &Arc<SandboxHandle>, spec: &SandboxSpec) -> Result<CreateOutcome, CreateError> {
        let sandbox = held.sandbox();
        if sandbox.phase == SandboxPhase::Stopping {
            return Err(CreateError::Stopping);
        }
        let (dir, env) = (held.dir.clone(), spec.env.clone());
        let (id, generation) = (held.id(), held.desired.generation);
        let same = spawn_blocking(move || {
            dir.unseal(id, generation).is_ok_and(|secrets| same_environment(&secrets.env, &env))
        });
        let same = same.await.map_err(|error| CreateError::Disk(std::io::Error::other(error)))?;
        match offer(&held.desired, &spec.into(), || same) {
            SpecMatch::Same => Ok(CreateOutcome::Existing(sandbox)),
            SpecMatch::Stale => Err(CreateError::Stale),
        }
    }

    /// Whether the machine has what a new sandbox needs besides cores and memory.
    async fn room_for(&self, spec: &SandboxSpec) -> Result<(ImageRunConfig, DiskSpace), CreateError> {
        if self.tasks.is_closed() {
            return Err(CreateError::Closing);
        }
        if self.shared.journal.is_full() {
            return Err(CreateError::MarksFull);
        }
        let (images, digest) = (self.shared.images.clone(), spec.image);
        let base = spawn_blocking(move || images.find(&digest)).await;
        let base = base.map_err(|error| CreateError::Disk(std::io::Error::other(error)))??;
        let (_, room) = self.disk_space().await?;
        let (least_mib, path) = (self.shared.config.disk_free_mib, self.shared.config.state.clone());
        if room.free_mib < least_mib {
            return Err(CreateError::DiskFull { path, free_mib: room.free_mib, least_mib });
        }
        Ok((base.ok_or(CreateError::NoImage(digest))?.run, room))
    }
}

fn check(spec: &SandboxSpec) -> Result<(), CreateError> {
    if spec.cores == 0 {
        return Err(CreateError::Cores);
    }
    if spec.memory_mib < u64::from(Tiers::MIN_MEMORY_MIB) {
        return Err(CreateError::Memory);
    }
    let mounts = spec.volumes.iter();
    let mounts: Vec<_> =
        mounts.map(|volume| VolumeMount { name: volume.name.clone(), path: volume.path.clone() }).collect();
    check_mounts(&mounts)?;
    Ok(spec.env.check()?)
}

fn same_environment(held: &Environment, offered: &Environment) -> bool {
    let pairs = |env: &Environment| {
        env.0.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect::<Vec<_>>()
    };
    pairs(held) == pairs(offered)
}
