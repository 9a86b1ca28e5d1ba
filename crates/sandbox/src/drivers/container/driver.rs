//! The driver itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::{NodeShortage, PodId, RunId};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use wire::v1::node::{KeptDisk, Retention};

use super::client::Containerd;
use super::daemon::{Daemon, PROGRAM, Place, SHIM, kill_shims};
use super::facts::ContainerFacts;
use super::namespaces::Namespaces;
use super::ops::{Inner, OVERHEAD_MIB, refused};
use super::{ContainerSettings, OciRuntime, console};
use crate::error::{Step, step};
use crate::facts::GuestFacts;
use crate::machine::{CONTAINERS, NodeMachine, not_named, swept};
use crate::runtime::{
    BuilderSpec, DiskRetention, DiskUsage, Guest, GuestExitWatch, GuestSpec, GuestState, GuestStats, GuestStream,
    HelperSpec, ObservedRun, Runtime, RuntimeInfo, Slot,
};
use crate::{DriverError, DriverFailure, DriverRefusal, RuntimeError, RuntimeOperation, command, files, process};

/// How long containerd may take until it answers.
const START: Duration = Duration::from_secs(30);
/// How long a task that was killed may take to be removed, before its shim is killed and after.
const END: Duration = Duration::from_secs(10);
/// Between two looks at either.
const PAUSE: Duration = Duration::from_millis(20);
/// How long containerd may take to say how a container ended.
const STATUS: Duration = Duration::from_millis(200);
/// How much of a container's last words is repeated.
const LAST_WORDS: u64 = 400;

/// The driver. Cheap to clone.
#[derive(Clone)]
pub struct Container(Arc<Inner>);

impl Container {
    /// Starts containerd, and opens the host's network.
    ///
    /// # Errors
    /// Names what the machine lacks.
    pub async fn on(machine: Arc<NodeMachine>, settings: ContainerSettings) -> Result<Self, DriverError> {
        files::private_dir(&machine.state.join(CONTAINERS)).step("make the driver's folder")?;
        let program = find(PROGRAM, PROGRAM).step("find containerd")?;
        find(SHIM, PROGRAM).step("find containerd's shim")?;
        let place = Place::under(&machine.state).step("make containerd's folder")?;
        let (programs, versions) = programs(&settings, &place).step("find what makes containers")?;
        let client = Containerd::at(place.socket());
        let daemon = Daemon::keep(&place, program).step("start containerd")?;
        let version = first_answer(&client).await.step("wait for containerd")?;
        let reason = format!("containerd {version} with {versions}");
        let (printed, daemon) = (Mutex::default(), Mutex::new(Some(daemon)));
        let driver = Self(Arc::new(Inner { settings, machine, place, client, programs, reason, printed, daemon }));
        driver.blocking(Inner::prepare).await?;
        Ok(driver)
    }

    /// Whether it can be started on this machine, for a node with this state folder; nothing is made or started.
    ///
    /// # Errors
    /// Names what the machine lacks.
    pub fn check(runtime: OciRuntime, state: &Path) -> Result<(), DriverFailure> {
        for (program, package) in [(PROGRAM, PROGRAM), (SHIM, PROGRAM), (runtime.program(), runtime.program())] {
            find(program, package)?;
        }
        Place::named(state).map(drop)
    }

    async fn blocking<T: Send + 'static>(&self, act: impl FnOnce(&Inner) -> T + Send + 'static) -> T {
        let inner = Arc::clone(&self.0);
        match spawn_blocking(move || act(&inner)).await {
            Ok(done) => done,
            Err(broken) => std::panic::resume_unwind(broken.into_panic()),
        }
    }

    async fn try_create(&self, spec: &GuestSpec, runtime: OciRuntime) -> Result<Guest, RuntimeError> {
        let (id, slot) = (spec.slot.run, spec.slot);
        let namespaces = self.blocking(move |inner| inner.begin(slot)).await;
        let namespaces = Arc::new(namespaces.during(RuntimeOperation::Create, id, "make its namespaces")?);
        durable::failpoint("container", "begun");
        let joined = runtime.joins().then(|| namespaces.network_path());
        // None of them needs another, and each waits for the machine.
        let (laid, registered, connected) = tokio::join!(
            self.lay(spec, runtime, &namespaces),
            self.register(spec, runtime, &namespaces),
            self.connect_network(slot, joined),
        );
        laid.and(registered).and(connected)?;
        let made = self.0.client.create_task(self.0.task(id)).await;
        let pid = made.during(RuntimeOperation::Create, id, step::VMM)?;
        durable::failpoint("container", "made");
        let facts = process::facts(pid).during(RuntimeOperation::Create, id, "look at its first process")?;
        drop(namespaces);
        let own = (!runtime.joins()).then(|| format!("/proc/{pid}/ns/net"));
        self.connect_network(slot, own).await?;
        self.printed().insert(id);
        let started = self.0.client.start_task(&id.to_string()).await;
        started.during(RuntimeOperation::Create, id, step::VMM)?;
        durable::failpoint("container", "started");
        let found = process::find(&facts).during(RuntimeOperation::Create, id, "look at its first process")?;
        let handle = found
            .ok_or_else(|| DriverFailure::Vmm(format!("it ended at once{}", last_words(&self.0.mounts(id).console()))));
        let handle = handle.during(RuntimeOperation::Create, id, step::VMM)?;
        let exit = self.watch(id, handle).during(RuntimeOperation::Create, id, "watch it")?;
        Ok(Guest { facts: GuestFacts::Container(ContainerFacts { runtime: runtime.name(), process: facts }), exit })
    }

    async fn lay(
        &self,
        spec: &GuestSpec,
        runtime: OciRuntime,
        namespaces: &Arc<Namespaces>,
    ) -> Result<(), RuntimeError> {
        let (spec, namespaces) = (spec.clone(), Arc::clone(namespaces));
        self.blocking(move |inner| inner.lay(&spec, runtime, &namespaces)).await?;
        durable::failpoint("container", "laid");
        Ok(())
    }

    async fn register(
        &self,
        spec: &GuestSpec,
        runtime: OciRuntime,
        namespaces: &Namespaces,
    ) -> Result<(), RuntimeError> {
        let registered = self.0.client.create_container(self.0.record(spec, runtime, namespaces)).await;
        registered.during(RuntimeOperation::Create, spec.slot.run, step::VMM)?;
        durable::failpoint("container", "registered");
        Ok(())
    }

    /// Does nothing where the network is not there yet, or is connected already.
    async fn connect_network(&self, slot: Slot, network: Option<String>) -> Result<(), RuntimeError> {
        let Some(network) = network else { return Ok(()) };
        let connected = self.blocking(move |inner| inner.connect(slot, &network)).await;
        connected.during(RuntimeOperation::Create, slot.run, step::NETWORK)?;
        durable::failpoint("container", "connected");
        Ok(())
    }

    fn printed(&self) -> std::sync::MutexGuard<'_, BTreeSet<RunId>> {
        self.0.printed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches for its end. What waits holds nothing of the driver, which may go before.
    fn watch(&self, id: RunId, handle: OwnedFd) -> io::Result<GuestExitWatch> {
        let handle = process::watchable(handle)?;
        let (announce, exit) = GuestExitWatch::channel();
        let (client, console) = (self.0.client.clone(), self.0.mounts(id).console());
        tokio::spawn(async move { announce_end(&client, id, &console, handle, announce).await });
        Ok(exit)
    }

    /// Kills a container, and has containerd forget it. Nothing of it runs then, its shim not
    /// either.
    async fn end(&self, id: RunId) -> Result<(), DriverFailure> {
        self.blocking(move |inner| inner.kill(id)).await?;
        durable::failpoint("container", "killed");
        let (name, socket) = (id.to_string(), self.0.shim_socket(id));
        if self.forget_task(&name).await.is_err() {
            let inner = Arc::clone(&self.0);
            let stuck = name.clone();
            let killed = spawn_blocking(move || kill_shims(&inner.place, &stuck)).await.map_err(io::Error::other)??;
            tracing::warn!(%id, killed, "a container's shim did not end its task, and was killed");
            self.forget_task(&name).await?;
        }
        durable::failpoint("container", "without task");
        self.0.client.delete_container(&name).await?;
        durable::failpoint("container", "forgotten");
        if let Some(socket) = socket {
            files::remove(&socket)?;
        }
        Ok(())
    }

    async fn forget_task(&self, name: &str) -> Result<(), DriverFailure> {
        let until = Instant::now() + END;
        loop {
            match timeout(END, self.0.client.delete_task(name)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if Instant::now() > until => return Err(error),
                Err(_) => return Err(DriverFailure::Deadline(END)),
                // The shim hears of the end a moment later, and containerd may be starting.
                Ok(Err(error)) => tracing::debug!(%error, name, "a task is not removed yet"),
            }
            sleep(PAUSE).await;
        }
    }

    async fn take_down(&self, id: RunId, slot: Option<u16>, disks: DiskRetention) -> Result<(), DriverFailure> {
        let known = self.0.dir(id).exists() || self.0.place.bundle(&id.to_string()).exists();
        if known {
            self.end(id).await?;
        }
        self.printed().remove(&id);
        self.blocking(move |inner| inner.remove(id, slot, disks)).await
    }

    /// What containerd has of containers whose folder is gone.
    async fn sweep_containerd(&self, known: &BTreeMap<RunId, Option<u16>>) -> Result<(), DriverError> {
        let found = self.0.machine.found(CONTAINERS)?;
        let mut names = self.0.client.containers().await.step("list the containers")?;
        // One that was given up in the middle of its making has a bundle alone.
        names.extend(self.0.place.bundles().step("list the containers' bundles")?);
        let ids: BTreeSet<RunId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        for id in ids {
            if !known.contains_key(&id) && !found.contains(&id) {
                swept(id, self.end(id).await);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Runtime for Container {
    fn info(&self) -> RuntimeInfo {
        let first = self.0.settings.runtimes.first().copied().unwrap_or(OciRuntime::Runc);
        self.info_of(first)
    }

    fn offers(&self) -> Vec<RuntimeInfo> {
        self.0.settings.runtimes.iter().map(|runtime| self.info_of(*runtime)).collect()
    }

    async fn observed_runs(&self) -> Result<BTreeMap<RunId, ObservedRun>, DriverError> {
        self.blocking(Inner::observed_runs).await
    }

    async fn sweep(&self, known: &BTreeMap<RunId, Option<u16>>, retention: &Retention) -> Result<usize, DriverError> {
        let mut removed = 0;
        for id in self.0.machine.found(CONTAINERS)?.into_iter().filter(|id| !known.contains_key(id)) {
            removed += usize::from(swept(id, self.take_down(id, None, DiskRetention::KeepAll(*retention)).await));
        }
        self.sweep_containerd(known).await?;
        let (known, retention) = (known.clone(), *retention);
        self.blocking(move |inner| {
            inner.machine.sweep_links(&known)?;
            inner.machine.tidy_kept(&retention)
        })
        .await?;
        Ok(removed)
    }

    async fn create(&self, spec: &GuestSpec) -> Result<Guest, RuntimeError> {
        let wanted = spec.clone();
        let runtime = self.blocking(move |inner| inner.refuse(&wanted)).await?;
        let created = self.try_create(spec, runtime).await;
        if created.is_err() {
            let removed = self.take_down(spec.slot.run, Some(spec.slot.number), DiskRetention::Attached).await;
            if let Err(error) = removed {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "what a failed start has left cannot be removed"
                );
            }
        }
        created
    }

    async fn create_helper(&self, spec: &HelperSpec) -> Result<Guest, RuntimeError> {
        // Its kernel would be the host's, which mounts no disk that a machine wrote.
        Err(no_machine(spec.slot.run, "a helper is a machine, and this makes containers"))
    }

    async fn create_builder(&self, spec: &BuilderSpec) -> Result<Guest, RuntimeError> {
        Err(no_machine(spec.slot.run, "a builder is a machine, and this makes containers"))
    }

    async fn adopt(&self, spec: &GuestSpec, facts: &GuestFacts) -> Result<Option<Guest>, RuntimeError> {
        let id = spec.slot.run;
        let GuestFacts::Container(ContainerFacts { process, .. }) = facts else {
            return Err(not_named("it is a machine", "qemu")).during(RuntimeOperation::Adopt, id, step::REACH);
        };
        let found = process::find(process).during(RuntimeOperation::Adopt, id, "look for its first process")?;
        let Some(handle) = found else { return Ok(None) };
        let ours = self.0.machine.cgroups.pids(&id.to_string());
        if !ours.during(RuntimeOperation::Adopt, id, "read its cgroup")?.contains(&process.pid) {
            let another = self.0.machine.runs_another(process.pid);
            if another.during(RuntimeOperation::Adopt, id, "read the cgroups")? {
                return Ok(None);
            }
            // It runs, and under another node's limits: a second container would write to its disks.
            let elsewhere = "it runs in a group that is not this node's: start the node under the name that it had";
            return Err(DriverFailure::Taken(elsewhere.to_owned())).during(RuntimeOperation::Adopt, id, step::REACH);
        }
        let exit = self.watch(id, handle).during(RuntimeOperation::Adopt, id, "watch it")?;
        Ok(Some(Guest { facts: facts.clone(), exit }))
    }

    async fn console(&self, id: RunId) -> Result<Box<dyn GuestStream>, RuntimeError> {
        self.must_run(id, RuntimeOperation::Console)?;
        let file = self.0.mounts(id).console();
        // What a container printed before this daemon was read by the one before.
        let from = if self.printed().remove(&id) { 0 } else { fs::metadata(&file).map_or(0, |data| data.len()) };
        let cgroups = self.0.machine.cgroups.clone();
        let runs = move || cgroups.pids(&id.to_string()).is_ok_and(|pids| !pids.is_empty());
        let stream = console::follow(&file, from, runs).await;
        Ok(Box::new(stream.during(RuntimeOperation::Console, id, "open its console")?))
    }

    async fn connect(&self, id: RunId, port: u16) -> Result<Box<dyn GuestStream>, RuntimeError> {
        let path = self.0.machine.namespace(id).path();
        match self.0.machine.dialer.connect(path, port).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(refused(RuntimeOperation::Connect, id, DriverRefusal::NotRunning))
            }
            Err(error) => Err(error).during(RuntimeOperation::Connect, id, "connect to its port"),
        }
    }

    async fn stats(&self, id: RunId) -> Result<GuestStats, RuntimeError> {
        let pids = self.must_run(id, RuntimeOperation::Stats)?;
        let (cpu_us, memory_bytes) =
            self.0.machine.cgroups.usage(&id.to_string()).during(RuntimeOperation::Stats, id, "read its cgroup")?;
        let looked = self.blocking(move |inner| {
            // One that ended meanwhile has nothing.
            let resident_bytes = pids.into_iter().map(|pid| process::resident_bytes(pid).unwrap_or(0)).sum();
            (inner.machine.namespace(id).limited(), resident_bytes)
        });
        let (limited, resident_bytes) = looked.await;
        let limited = limited.during(RuntimeOperation::Stats, id, "read what its network has dropped")?;
        Ok(GuestStats { cpu_us, memory_bytes, resident_bytes, limited })
    }

    async fn condition(&self, id: RunId) -> Result<GuestState, RuntimeError> {
        self.must_run(id, RuntimeOperation::Condition)?;
        let looked = self.blocking(move |inner| {
            let name = id.to_string();
            let full = inner.is_out_of_disk()?;
            if full {
                inner.machine.cgroups.freeze(&name, true)?;
            }
            Ok::<_, io::Error>(full || inner.machine.cgroups.is_frozen(&name)?)
        });
        let frozen = looked.await.during(RuntimeOperation::Condition, id, "look at it")?;
        Ok(if frozen { GuestState::Paused(NodeShortage::Disk) } else { GuestState::Running })
    }

    async fn resume(&self, id: RunId) -> Result<(), RuntimeError> {
        self.must_run(id, RuntimeOperation::Resume)?;
        let done = self.blocking(move |inner| {
            // Where the disk is as full as before it goes on no moment.
            if inner.is_out_of_disk()? { Ok(()) } else { inner.machine.cgroups.freeze(&id.to_string(), false) }
        });
        let done = done.await;
        done.during(RuntimeOperation::Resume, id, "let it go on")
    }

    async fn disk_usage(&self) -> Result<DiskUsage, DriverError> {
        self.blocking(|inner| inner.machine.disk_usage()).await
    }

    async fn kept(&self, of: Option<PodId>) -> Result<Vec<KeptDisk>, DriverError> {
        self.blocking(move |inner| inner.machine.list_kept(of)).await
    }

    async fn kept_data(&self, pod: PodId) -> Result<Option<u64>, DriverError> {
        self.blocking(move |inner| inner.machine.kept_data(pod)).await
    }

    async fn is_kept_of_machine(&self, pod: PodId) -> Result<bool, DriverError> {
        self.blocking(move |inner| inner.machine.is_kept_of_machine(pod)).await
    }

    async fn erase(&self, name: &str) -> Result<(), DriverError> {
        let name = name.to_owned();
        self.blocking(move |inner| inner.machine.erase(&name)).await
    }

    async fn stop(&self, slot: Slot, disks: DiskRetention) -> Result<(), RuntimeError> {
        let ours = self.blocking(move |inner| inner.machine.must_be_of(CONTAINERS, slot.run)).await;
        ours.during(RuntimeOperation::Stop, slot.run, step::REACH)?;
        let stopped = self.take_down(slot.run, Some(slot.number), disks).await;
        stopped.during(RuntimeOperation::Stop, slot.run, "remove it")
    }

    async fn reconcile_network(&self) -> Result<(), DriverError> {
        self.blocking(|inner| inner.machine.host.reconcile_network()).await.step("look at the host's rules")
    }

    /// containerd ends in any case: its containers are left to the next.
    async fn close(&self) -> Result<(), DriverError> {
        let daemon = self.0.daemon.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.blocking(move |inner| {
            drop(daemon);
            if inner.machine.found(CONTAINERS)?.is_empty() {
                inner.place.clear().step("remove containerd's folder")?;
                inner.machine.cgroups.remove_shims().step("remove the shims' cgroup")?;
            }
            inner.machine.close()
        })
        .await
    }
}

impl Container {
    fn info_of(&self, runtime: OciRuntime) -> RuntimeInfo {
        RuntimeInfo {
            name: runtime.name(),
            reason: format!("{}; its guests have {}'s kernel", self.0.reason, runtime.kernel()),
            overhead_mib: OVERHEAD_MIB + runtime.own_mib(),
            slots: self.0.slots(),
        }
    }

    /// Its processes, of which there must be some.
    fn must_run(&self, id: RunId, operation: RuntimeOperation) -> Result<Vec<u32>, RuntimeError> {
        let pids = self.0.machine.cgroups.pids(&id.to_string()).during(operation, id, "read its cgroup")?;
        if pids.is_empty() { Err(refused(operation, id, DriverRefusal::NotRunning)) } else { Ok(pids) }
    }
}

async fn announce_end(
    client: &Containerd,
    id: RunId,
    console: &Path,
    handle: AsyncFd<OwnedFd>,
    announce: watch::Sender<Option<String>>,
) {
    if let Err(error) = handle.readable().await {
        tracing::error!(%error, "a container cannot be watched");
    }
    // containerd may be away, or hear of it later.
    let status = match timeout(STATUS, client.task(&id.to_string())).await {
        Ok(Ok(Some(task))) if task.exit_status != 0 => format!("exit status {}", task.exit_status),
        _ => "end unseen".to_owned(),
    };
    announce.send_replace(Some(format!("the container ended ({status}){}", last_words(console))));
}

fn no_machine(id: RunId, why: &str) -> RuntimeError {
    let source = DriverFailure::Missing(why.to_owned());
    RuntimeError::Failed { operation: RuntimeOperation::Create, id, step: step::VMM, source }
}

fn last_words(console: &Path) -> String {
    let said = end_of(console).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
    if said.is_empty() { String::new() } else { format!(" and said: {said}") }
}

/// The end of a file that may be as large as its disk.
fn end_of(file: &Path) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(file)?;
    let from = file.metadata()?.len().saturating_sub(LAST_WORDS);
    file.seek(io::SeekFrom::Start(from))?;
    let mut said = Vec::new();
    file.take(LAST_WORDS).read_to_end(&mut said)?;
    Ok(said)
}

/// The programs that make containers, and what they say of themselves.
fn programs(
    settings: &ContainerSettings,
    place: &Place,
) -> Result<(BTreeMap<OciRuntime, PathBuf>, String), DriverFailure> {
    let (mut found, mut versions) = (BTreeMap::new(), Vec::new());
    for runtime in &settings.runtimes {
        let program = match (runtime, &settings.runsc) {
            (OciRuntime::Gvisor, Some(runsc)) => must_be_there(runsc)?,
            _ => find(runtime.program(), runtime.program())?,
        };
        let said = command::read(&program, &["--version"], &[])?;
        versions.push(said.lines().next().unwrap_or_default().replace(" version", ""));
        let program = match runtime {
            OciRuntime::Runc => program,
            OciRuntime::Crun => place.crun(&program)?,
            OciRuntime::Gvisor => place.runsc(&program)?,
        };
        found.insert(*runtime, program);
    }
    Ok((found, versions.join(" and ")))
}

fn must_be_there(runsc: &Path) -> Result<PathBuf, DriverFailure> {
    if runsc.is_file() {
        return Ok(runsc.to_owned());
    }
    let path = runsc.display();
    Err(DriverFailure::Missing(format!("node.runsc: there is no program {path}; node.runtimes asks for gVisor")))
}

fn find(program: &str, package: &str) -> Result<PathBuf, DriverFailure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file());
    found.ok_or_else(|| {
        DriverFailure::Missing(format!(
            "the program {program} is not installed (Debian and Ubuntu: the package {package}), which makes containers"
        ))
    })
}

async fn first_answer(client: &Containerd) -> Result<String, DriverFailure> {
    let until = Instant::now() + START;
    loop {
        match client.version().await {
            Ok(version) => return Ok(version),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn of_a_console_of_any_length_the_end_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(last_words(file.path()), "");
        // As long as its disk may be.
        file.as_file().set_len(1 << 40).unwrap();
        fs::OpenOptions::new().append(true).open(file.path()).unwrap().write_all(b"\nlast\nwords\n").unwrap();
        assert!(last_words(file.path()).ends_with("; last; words"));
        assert_eq!(last_words(Path::new("/none")), "");
    }
}
