//! The driver itself.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use domain::{PodId, RunId};
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use wire::v1::node::{KeptDisk, Retention};

use super::accelerator::{choose, prepare_jail};
use super::facts::VmmFacts;
use super::launch::RunningVmm;
use super::launcher::{guest_dir, overhead_mib};
use super::ops::{Inner, QUIT_DEADLINE, note_leftovers, refused};
use super::qmp::Qmp;
use super::{QemuSettings, startup};
use crate::error::{Step, step};
use crate::facts::GuestFacts;
use crate::machine::{GUESTS, NodeMachine, not_named};
use crate::runtime::{
    BuilderSpec, DiskRetention, DiskUsage, Guest, GuestSpec, GuestState, GuestStats, GuestStream, HelperSpec,
    ObservedRun, Runtime, RuntimeInfo, Slot,
};
use crate::{DriverError, DriverFailure, DriverRefusal, RuntimeError, RuntimeOperation, files, process};

const PROGRAM: &str = "qemu-system-x86_64";
/// The longest path of a Unix socket.
const MAX_SOCKET_PATH: usize = 107;

/// The driver. Cheap to clone.
#[derive(Clone)]
pub struct Qemu(Arc<Inner>);

impl Qemu {
    /// Chooses the accelerator, makes the empty disks, opens the host's network.
    ///
    /// # Errors
    /// Names what the machine lacks.
    pub async fn start(settings: QemuSettings) -> Result<Self, DriverError> {
        check(&settings)?;
        let machine = NodeMachine::claim(&settings.state, &settings.network, settings.first_uid, None).await?;
        Self::on(Arc::new(machine), settings).await
    }

    /// The same on a machine that other drivers of the node use too.
    ///
    /// # Errors
    /// Names what the machine lacks.
    pub async fn on(machine: Arc<NodeMachine>, settings: QemuSettings) -> Result<Self, DriverError> {
        check(&settings)?;
        let program = find_program().step("find QEMU")?;
        let (verdict, groups) = choose(&settings, &program, &machine.cgroups).await.step("choose the accelerator")?;
        let shut_in = prepare_jail(&settings, &program, verdict.accelerator).await;
        let jail = shut_in.step("prepare what VMMs are shut into")?;
        let driver = Self(Arc::new(Inner { settings, program, verdict, groups, machine, jail }));
        driver.blocking(Inner::prepare).await?;
        Ok(driver)
    }

    async fn blocking<T: Send + 'static>(&self, act: impl FnOnce(&Inner) -> T + Send + 'static) -> T {
        let inner = Arc::clone(&self.0);
        match spawn_blocking(move || act(&inner)).await {
            Ok(done) => done,
            Err(broken) => std::panic::resume_unwind(broken.into_panic()),
        }
    }

    async fn control(&self, id: RunId, operation: RuntimeOperation) -> Result<Qmp, RuntimeError> {
        match Qmp::connect(&self.0.guest_dir(id).join("control")).await {
            Err(DriverFailure::Io(error)) if is_absent(&error) => {
                Err(refused(operation, id, DriverRefusal::NotRunning))
            }
            other => other.during(operation, id, step::REACH),
        }
    }

    /// Watches a VMM that was started until its guest runs.
    async fn started(&self, id: RunId, started: RunningVmm) -> Result<Guest, RuntimeError> {
        let process = process::facts(started.pid).during(RuntimeOperation::Create, id, "look at the VMM's process")?;
        let mut exit = started.watch().during(RuntimeOperation::Create, id, "watch the VMM")?;
        let running = startup::until_running(&self.0.guest_dir(id).join("control"), &mut exit).await;
        running.during(RuntimeOperation::Create, id, step::VMM)?;
        Ok(Guest { facts: GuestFacts::Qemu(VmmFacts { process }), exit })
    }

    async fn quit(&self, slot: Slot) {
        let quit = async { Qmp::connect(&self.0.guest_dir(slot.run).join("control")).await?.quit().await };
        if let Ok(Err(error)) = timeout(QUIT_DEADLINE, quit).await {
            tracing::debug!(id = %slot.run, %error, "the VMM does not quit by itself");
        }
    }
}

#[async_trait]
impl Runtime for Qemu {
    fn info(&self) -> RuntimeInfo {
        let Inner { verdict, settings, .. } = &*self.0;
        RuntimeInfo {
            name: verdict.accelerator.runtime(),
            reason: verdict.reason.clone(),
            overhead_mib: overhead_mib(verdict.accelerator, settings),
            slots: settings.network.range.slots(),
        }
    }

    async fn observed_runs(&self) -> Result<BTreeMap<RunId, ObservedRun>, DriverError> {
        self.blocking(Inner::observed_runs).await
    }

    async fn sweep(&self, known: &BTreeMap<RunId, Option<u16>>, retention: &Retention) -> Result<usize, DriverError> {
        let (known, retention) = (known.clone(), *retention);
        self.blocking(move |inner| inner.sweep(&known, &retention)).await
    }

    async fn create(&self, spec: &GuestSpec) -> Result<Guest, RuntimeError> {
        let wanted = spec.clone();
        let started = self.blocking(move |inner| inner.create(&wanted)).await?;
        let guest = self.started(spec.slot.run, started).await;
        if guest.is_err() {
            note_leftovers(self.stop(spec.slot, DiskRetention::Attached).await);
        }
        guest
    }

    async fn create_helper(&self, spec: &HelperSpec) -> Result<Guest, RuntimeError> {
        let (slot, wanted) = (spec.slot, *spec);
        let started = self.blocking(move |inner| inner.create_helper(&wanted)).await?;
        let guest = self.started(slot.run, started).await;
        if guest.is_err() {
            note_leftovers(self.stop(slot, DiskRetention::Erase).await);
        }
        guest
    }

    async fn create_builder(&self, spec: &BuilderSpec) -> Result<Guest, RuntimeError> {
        let (slot, wanted) = (spec.slot, spec.clone());
        let started = self.blocking(move |inner| inner.create_builder(&wanted)).await?;
        let guest = self.started(slot.run, started).await;
        if guest.is_err() {
            note_leftovers(self.stop(slot, DiskRetention::Erase).await);
        }
        guest
    }

    async fn adopt(&self, spec: &GuestSpec, facts: &GuestFacts) -> Result<Option<Guest>, RuntimeError> {
        let id = spec.slot.run;
        let GuestFacts::Qemu(VmmFacts { process }) = facts else {
            let kinds = "container-runc or container-crun";
            return Err(not_named("it is a container", kinds)).during(RuntimeOperation::Adopt, id, step::REACH);
        };
        let found = process::find(process).during(RuntimeOperation::Adopt, id, "look for the VMM's process")?;
        let Some(handle) = found else { return Ok(None) };
        let ours =
            self.0.machine.cgroups.pids(&id.to_string()).during(RuntimeOperation::Adopt, id, "read its cgroup")?;
        if !ours.contains(&process.pid) {
            if self.0.machine.runs_another(process.pid).during(RuntimeOperation::Adopt, id, "read the cgroups")? {
                return Ok(None);
            }
            // It runs, and under another node's limits: a second VMM would write to its disks.
            let elsewhere =
                "its VMM runs in a group that is not this node's: start the node under the name that it had";
            return Err(DriverFailure::Taken(elsewhere.to_owned())).during(RuntimeOperation::Adopt, id, step::REACH);
        }
        // The socket's file can be entered by root alone: who answers there is the VMM
        // that was given the socket.
        let named = async { Qmp::connect(&self.0.guest_dir(id).join("control")).await?.name().await };
        if named.await.during(RuntimeOperation::Adopt, id, step::REACH)? != id.to_string() {
            return Ok(None);
        }
        let started =
            RunningVmm::adopted(process.pid, handle).during(RuntimeOperation::Adopt, id, "read what the VMM said")?;
        let exit = started.watch().during(RuntimeOperation::Adopt, id, "watch the VMM")?;
        Ok(Some(Guest { facts: facts.clone(), exit }))
    }

    async fn console(&self, id: RunId) -> Result<Box<dyn GuestStream>, RuntimeError> {
        let socket = self.0.guest_dir(id).join("console");
        match UnixStream::connect(&socket).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) if is_absent(&error) => Err(refused(RuntimeOperation::Console, id, DriverRefusal::NotRunning)),
            Err(error) => Err(error).during(RuntimeOperation::Console, id, "connect to its console"),
        }
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
        let name = id.to_string();
        let pids = self.0.machine.cgroups.pids(&name).during(RuntimeOperation::Stats, id, "read its cgroup")?;
        let Some(pid) = pids.first() else {
            return Err(refused(RuntimeOperation::Stats, id, DriverRefusal::NotRunning));
        };
        let (cpu_us, memory_bytes) =
            self.0.machine.cgroups.usage(&name).during(RuntimeOperation::Stats, id, "read its cgroup")?;
        let resident_bytes = process::resident_bytes(*pid).during(RuntimeOperation::Stats, id, "read its memory")?;
        let limited = self.blocking(move |inner| inner.machine.namespace(id).limited()).await;
        let limited = limited.during(RuntimeOperation::Stats, id, "read what its network has dropped")?;
        Ok(GuestStats { cpu_us, memory_bytes, resident_bytes, limited })
    }

    async fn condition(&self, id: RunId) -> Result<GuestState, RuntimeError> {
        let mut qmp = self.control(id, RuntimeOperation::Condition).await?;
        qmp.condition().await.during(RuntimeOperation::Condition, id, "ask the VMM")
    }

    async fn resume(&self, id: RunId) -> Result<(), RuntimeError> {
        let mut qmp = self.control(id, RuntimeOperation::Resume).await?;
        qmp.resume().await.during(RuntimeOperation::Resume, id, "ask the VMM")
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
        let ours = self.blocking(move |inner| inner.machine.must_be_of(GUESTS, slot.run)).await;
        ours.during(RuntimeOperation::Stop, slot.run, step::REACH)?;
        let runs = self.0.machine.cgroups.pids(&slot.run.to_string()).during(
            RuntimeOperation::Stop,
            slot.run,
            "read its cgroup",
        )?;
        if !runs.is_empty() {
            self.quit(slot).await;
        }
        self.blocking(move |inner| inner.stop(slot, disks)).await
    }

    async fn reconcile_network(&self) -> Result<(), DriverError> {
        self.blocking(|inner| inner.machine.host.reconcile_network()).await.step("look at the host's rules")
    }

    async fn close(&self) -> Result<(), DriverError> {
        self.blocking(|inner| inner.machine.close()).await
    }
}

/// What can be refused before the node's name is claimed.
fn check(settings: &QemuSettings) -> Result<(), DriverError> {
    files::private_dir(&settings.state.join(GUESTS)).step("make the driver's folder")?;
    check_socket_path(&settings.state).step("check the driver's folder")
}

fn find_program() -> Result<PathBuf, DriverFailure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(PROGRAM)).find(|file| file.is_file());
    let found = found.ok_or_else(|| {
        DriverFailure::Missing(format!(
            "the program {PROGRAM} is not installed (Debian and Ubuntu: the package qemu-system-x86)"
        ))
    })?;
    // It looks for its firmware beside itself, not beside a link to it.
    Ok(std::fs::canonicalize(found)?)
}

fn check_socket_path(state: &Path) -> Result<(), DriverFailure> {
    let longest = guest_dir(state, &RunId::from_bits(0).to_string()).join("console");
    if longest.as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok(());
    }
    Err(DriverFailure::Missing(format!("the path {} is too long for a socket", longest.display())))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
