//! The driver itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::AgentId;
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::arguments::{Disk, Machine};
use super::launch::{Launch, Started};
use super::probe::{self, Accelerator, Choice, KVM, Memory, Silence, Verdict};
use super::qmp::Qmp;
use super::{Settings, clock};
use crate::cgroup::{Cgroups, Limits};
use crate::error::Step;
use crate::network::{Dialer, Host, Namespace};
use crate::runtime::{About, Facts, Fate, Guest, Link, Runtime, Seat, Spec, Stats};
use crate::{DriverError, Failure, Operation, Refusal, RuntimeError, disk, files, process};

const PROGRAM: &str = "qemu-system-x86_64";
/// What a guest's VMM takes beyond the guest's memory: QEMU itself, its threads, and
/// under emulation its translations. Measured; the cgroup's limit is set with it.
const KVM_OVERHEAD_MIB: u64 = 64;
const TCG_OVERHEAD_MIB: u64 = 192;
/// Memory of the probe guest.
const PROBE_MEMORY_MIB: u64 = 128;
/// The probe guest's name where others have their agent's id.
const PROBE_NAME: &str = "probe";
/// How long a VMM may take to end by itself when it is told to.
const QUIT_DEADLINE: Duration = Duration::from_millis(500);
/// The longest path of a Unix socket.
const MAX_SOCKET_PATH: usize = 107;

/// The driver. Cheap to clone.
#[derive(Clone)]
pub struct Qemu(Arc<Inner>);

struct Inner {
    settings: Settings,
    program: PathBuf,
    verdict: Verdict,
    groups: Vec<u32>,
    cgroups: Cgroups,
    host: Host,
    dialer: Dialer,
}

impl Qemu {
    /// Chooses the accelerator, makes the empty disks, opens the host's network.
    ///
    /// # Errors
    /// Names what the machine lacks.
    pub async fn start(settings: Settings) -> Result<Self, DriverError> {
        files::private_dir(&settings.state.join("guests")).step("make the driver's folder")?;
        check_socket_path(&settings.state).step("check the driver's folder")?;
        let program = find_program().step("find QEMU")?;
        let cgroups = Cgroups::detect(settings.network.name.as_str()).step("find the cgroups")?;
        let (verdict, groups) = choose(&settings, &program, &cgroups).await.step("choose the accelerator")?;
        let host = Host::new(settings.network.clone());
        let dialer = Dialer::start().step("start the dialer")?;
        let inner = Inner { settings, program, verdict, groups, cgroups, host, dialer };
        let driver = Self(Arc::new(inner));
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

    async fn quit(&self, seat: Seat) {
        let quit = async { Qmp::connect(&self.0.guest_dir(seat.id).join("control")).await?.quit().await };
        if let Ok(Err(error)) = timeout(QUIT_DEADLINE, quit).await {
            tracing::debug!(id = %seat.id, %error, "the VMM does not quit by itself");
        }
    }
}

#[async_trait]
impl Runtime for Qemu {
    fn about(&self) -> About {
        let Inner { verdict, settings, .. } = &*self.0;
        About {
            name: verdict.accelerator.runtime(),
            reason: verdict.reason.clone(),
            overhead_mib: overhead_mib(verdict.accelerator),
            slots: settings.network.range.slots(),
        }
    }

    async fn sweep(&self, known: &BTreeMap<AgentId, u16>) -> Result<usize, DriverError> {
        let known = known.clone();
        self.blocking(move |inner| inner.sweep(&known)).await
    }

    async fn create(&self, spec: &Spec) -> Result<Guest, RuntimeError> {
        let wanted = spec.clone();
        let started = self.blocking(move |inner| inner.create(&wanted)).await?;
        let facts = process::facts(started.pid).during(Operation::Create, spec.seat.id, "look at the VMM's process");
        let guest = facts.and_then(|facts| {
            let exit = started.watch().during(Operation::Create, spec.seat.id, "watch the VMM")?;
            Ok(Guest { facts, exit })
        });
        if guest.is_err() {
            self.stop(spec.seat, Fate::Keep).await?;
        }
        guest
    }

    async fn adopt(&self, spec: &Spec, facts: &Facts) -> Result<Option<Guest>, RuntimeError> {
        let id = spec.seat.id;
        let found = process::find(facts).during(Operation::Adopt, id, "look for the VMM's process")?;
        let Some(handle) = found else { return Ok(None) };
        let ours = self.0.cgroups.pids(&id.to_string()).during(Operation::Adopt, id, "read its cgroup")?;
        if !ours.contains(&facts.pid) {
            return Ok(None);
        }
        // The socket's file can be entered by root alone: who answers there is the VMM
        // that was given the socket.
        let named = async { Qmp::connect(&self.0.guest_dir(id).join("control")).await?.name().await };
        match named.await {
            Ok(name) if name == id.to_string() => {}
            Ok(_) => return Ok(None),
            Err(error) => {
                tracing::warn!(%id, %error, "a VMM does not answer and is not adopted");
                return Ok(None);
            }
        }
        let started = Started::adopted(facts.pid, handle).during(Operation::Adopt, id, "read what the VMM said")?;
        let exit = started.watch().during(Operation::Adopt, id, "watch the VMM")?;
        Ok(Some(Guest { facts: facts.clone(), exit }))
    }

    async fn console(&self, id: AgentId) -> Result<Box<dyn Link>, RuntimeError> {
        let socket = self.0.guest_dir(id).join("console");
        match UnixStream::connect(&socket).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) if is_absent(&error) => Err(refused(Operation::Console, id, Refusal::NotRunning)),
            Err(error) => Err(error).during(Operation::Console, id, "connect to its console"),
        }
    }

    async fn connect(&self, id: AgentId, port: u16) -> Result<Box<dyn Link>, RuntimeError> {
        let seat = Seat { id, slot: 0 };
        let path = Namespace::new(&self.0.settings.network, seat).path();
        match self.0.dialer.connect(path, port).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(refused(Operation::Connect, id, Refusal::NotRunning))
            }
            Err(error) => Err(error).during(Operation::Connect, id, "connect to its port"),
        }
    }

    async fn stats(&self, id: AgentId) -> Result<Stats, RuntimeError> {
        let name = id.to_string();
        let pids = self.0.cgroups.pids(&name).during(Operation::Stats, id, "read its cgroup")?;
        let Some(pid) = pids.first() else { return Err(refused(Operation::Stats, id, Refusal::NotRunning)) };
        let (cpu_us, memory_bytes) = self.0.cgroups.usage(&name).during(Operation::Stats, id, "read its cgroup")?;
        let resident_bytes = process::resident_bytes(*pid).during(Operation::Stats, id, "read its memory")?;
        Ok(Stats { cpu_us, memory_bytes, resident_bytes })
    }

    async fn stop(&self, seat: Seat, fate: Fate) -> Result<(), RuntimeError> {
        let runs = self.0.cgroups.pids(&seat.id.to_string()).during(Operation::Stop, seat.id, "read its cgroup")?;
        if !runs.is_empty() {
            self.quit(seat).await;
        }
        self.blocking(move |inner| inner.stop(seat, fate)).await
    }

    async fn close(&self) -> Result<(), DriverError> {
        self.blocking(|inner| {
            let running = inner.cgroups.ids().step("list the guests")?;
            if running.is_empty() { inner.host.close().step("close the host's network") } else { Ok(()) }
        })
        .await
    }
}

impl Inner {
    fn guest_dir(&self, id: AgentId) -> PathBuf {
        guest_dir(&self.settings.state, &id.to_string())
    }

    fn templates(&self) -> PathBuf {
        self.settings.state.join("templates")
    }

    fn prepare(&self) -> Result<(), DriverError> {
        let Settings { layer_mib, data_mib, .. } = self.settings;
        for mib in BTreeSet::from([layer_mib, data_mib]) {
            disk::template(&self.templates(), mib).step("make the empty disks")?;
        }
        self.host.open().step("open the host's network")
    }

    fn sweep(&self, known: &BTreeMap<AgentId, u16>) -> Result<usize, DriverError> {
        let mut found: BTreeSet<String> = BTreeSet::new();
        found.extend(files::names(&self.settings.state.join("guests")).step("list the guests' folders")?);
        found.extend(self.host.namespaces().step("list the guests' namespaces")?);
        found.extend(self.cgroups.ids().step("list the guests' cgroups")?);
        let unknown: Vec<AgentId> =
            found.iter().filter_map(|name| name.parse().ok()).filter(|id| !known.contains_key(id)).collect();
        for id in &unknown {
            self.remove(*id, None, Fate::Wipe).step("remove a sandbox that nobody knows")?;
        }
        let seated: BTreeSet<u16> = known.values().copied().collect();
        for slot in self.host.slots().step("list the guests' links")? {
            if !seated.contains(&slot) {
                self.host.remove_link(slot).step("remove a link that nobody knows")?;
            }
        }
        self.remove_probe().step("remove the probe guest")?;
        Ok(unknown.len())
    }

    fn create(&self, spec: &Spec) -> Result<Started, RuntimeError> {
        let id = spec.seat.id;
        self.refuse(spec)?;
        let started = self.try_create(spec);
        if started.is_err() {
            self.remove(id, Some(spec.seat.slot), Fate::Keep).during(
                Operation::Stop,
                id,
                "clean up after a failure",
            )?;
        }
        started
    }

    fn refuse(&self, spec: &Spec) -> Result<(), RuntimeError> {
        let id = spec.seat.id;
        let no = |refusal| Err(refused(Operation::Create, id, refusal));
        let slots = self.settings.network.range.slots();
        if spec.seat.slot >= slots {
            return no(Refusal::NoSlot { slot: spec.seat.slot, slots });
        }
        if !self.cgroups.pids(&id.to_string()).during(Operation::Create, id, "read its cgroup")?.is_empty() {
            return no(Refusal::Runs);
        }
        if !spec.base.is_file() {
            return no(Refusal::NoBase(spec.base.clone()));
        }
        let free_mib = disk::free_mib(&self.settings.state).during(Operation::Create, id, "look at the free space")?;
        let least_mib = self.settings.least_free_mib;
        if free_mib < least_mib {
            return no(Refusal::DiskFull { path: self.settings.state.clone(), free_mib, least_mib });
        }
        Ok(())
    }

    fn try_create(&self, spec: &Spec) -> Result<Started, RuntimeError> {
        let id = spec.seat.id;
        let during =
            |step| move |error: Failure| RuntimeError::Failed { operation: Operation::Create, id, step, source: error };
        let namespace = Namespace::new(&self.settings.network, spec.seat);
        let dir = self.guest_dir(id);
        let (disks, tap) = std::thread::scope(|scope| {
            let tap = scope.spawn(|| namespace.up());
            (self.disks(&dir, spec), tap.join())
        });
        let disks = disks.map_err(during("make its disks"))?;
        let tap = tap
            .unwrap_or_else(|_| Err(Failure::Missing("the network's thread is gone".to_owned())))
            .map_err(during("make its network"))?;
        let hardware = Hardware {
            name: id.to_string(),
            cores: spec.cores,
            memory_mib: spec.memory_mib,
            words: "",
            disks,
            tap: Some(tap.0),
            namespace: Some(namespace.path()),
            uid: self.uid(spec.seat.slot),
        };
        let plan = Plan { settings: &self.settings, program: &self.program, cgroups: &self.cgroups };
        plan.start(hardware, self.verdict.accelerator, self.verdict.tsc_khz, &self.groups)
            .map_err(during("start the VMM"))
    }

    fn uid(&self, slot: u16) -> u32 {
        self.settings.first_uid + u32::from(slot)
    }

    fn disks(&self, dir: &Path, spec: &Spec) -> Result<Vec<(&'static str, bool, OwnedFd)>, Failure> {
        files::private_dir(dir)?;
        let mut disks = vec![("base", true, File::open(&spec.base)?.into())];
        for (serial, mib) in [("layer", self.settings.layer_mib), ("data", self.settings.data_mib)] {
            let path = dir.join(format!("{serial}.ext4"));
            disk::copy(&disk::template(&self.templates(), mib)?, &path)?;
            disks.push((serial, false, OpenOptions::new().read(true).write(true).open(&path)?.into()));
        }
        Ok(disks)
    }

    fn stop(&self, seat: Seat, fate: Fate) -> Result<(), RuntimeError> {
        let gone = wait_empty(&self.cgroups, &seat.id.to_string());
        gone.and_then(|()| self.remove(seat.id, Some(seat.slot), fate)).during(Operation::Stop, seat.id, "remove it")
    }

    /// Kills and removes whatever is there, in the order in which one thing needs the
    /// other: the VMM, its network, its limits, its files.
    fn remove(&self, id: AgentId, slot: Option<u16>, fate: Fate) -> Result<(), Failure> {
        let name = id.to_string();
        self.cgroups.kill(&name)?;
        // Without a slot the link goes with the namespace that holds its other end.
        let seat = Seat { id, slot: slot.unwrap_or(u16::MAX) };
        Namespace::new(&self.settings.network, seat).down()?;
        self.cgroups.remove(&name)?;
        let dir = self.guest_dir(id);
        match fate {
            Fate::Wipe => files::remove_dir(&dir)?,
            Fate::Keep => {
                files::remove(&dir.join("control"))?;
                files::remove(&dir.join("console"))?;
            }
        }
        Ok(())
    }

    fn remove_probe(&self) -> Result<(), Failure> {
        remove_probe(&self.settings, &self.cgroups)
    }
}

/// What one VMM gets.
struct Hardware {
    name: String,
    cores: u32,
    memory_mib: u64,
    words: &'static str,
    disks: Vec<(&'static str, bool, OwnedFd)>,
    tap: Option<OwnedFd>,
    namespace: Option<PathBuf>,
    uid: u32,
}

/// How VMMs are started: the same way for a probe as for an agent.
struct Plan<'a> {
    settings: &'a Settings,
    program: &'a Path,
    cgroups: &'a Cgroups,
}

impl Plan<'_> {
    fn start(
        &self,
        hardware: Hardware,
        accelerator: Accelerator,
        tsc_khz: u64,
        groups: &[u32],
    ) -> Result<Started, Failure> {
        let dir = guest_dir(&self.settings.state, &hardware.name);
        let kernel = &self.settings.kernel;
        let (vmlinux, initramfs) = (File::open(&kernel.vmlinux)?, File::open(&kernel.initramfs)?);
        let (control, console) = (listener(&dir.join("control"))?, listener(&dir.join("console"))?);
        let disks: Vec<Disk> = hardware
            .disks
            .iter()
            .map(|(serial, read_only, file)| Disk { serial, fd: file.as_raw_fd(), read_only: *read_only })
            .collect();
        let machine = Machine {
            name: &hardware.name,
            accelerator,
            cores: hardware.cores,
            memory_mib: hardware.memory_mib,
            vmlinux: vmlinux.as_raw_fd(),
            initramfs: initramfs.as_raw_fd(),
            tsc_khz,
            words: hardware.words,
            disks: &disks,
            tap: hardware.tap.as_ref().map(AsRawFd::as_raw_fd),
            control: control.as_raw_fd(),
            console: console.as_raw_fd(),
        };
        let limits = Limits { cores: hardware.cores, memory_mib: hardware.memory_mib + overhead_mib(accelerator) };
        let launch = Launch {
            program: self.program,
            arguments: &machine.arguments(),
            uid: hardware.uid,
            groups,
            namespace: hardware.namespace.as_deref(),
            cgroup: self.cgroups.create(&hardware.name, limits)?,
            files: hardware
                .disks
                .into_iter()
                .map(|(_, _, file)| file)
                .chain(hardware.tap)
                .chain([control, console, vmlinux.into(), initramfs.into()])
                .collect(),
        };
        Ok(launch.start()?)
    }
}

async fn choose(settings: &Settings, program: &Path, cgroups: &Cgroups) -> Result<(Verdict, Vec<u32>), Failure> {
    let groups = probe::kvm_groups();
    let memory = Memory::new(&settings.state, program, &settings.kernel, settings.accelerator)?;
    if let Some(verdict) = memory.recall() {
        return Ok((verdict, groups.unwrap_or_default()));
    }
    let tsc = spawn_blocking(clock::tsc_khz);
    let found = match (settings.accelerator, &groups) {
        (Choice::Tcg, _) => Err("node.accelerator asks for it".to_owned()),
        (Choice::Auto | Choice::Kvm, Err(why)) => Err(why.clone()),
        (Choice::Auto | Choice::Kvm, Ok(groups)) => {
            let plan = Plan { settings, program, cgroups };
            try_kvm(&plan, groups).await?
        }
    };
    let tsc_khz = tsc.await.map_err(io::Error::other)?;
    let (accelerator, reason) = match (found, settings.accelerator) {
        (Ok(took), _) => (Accelerator::Kvm, format!("KVM: a probe guest answered after {} ms", took.as_millis())),
        (Err(why), Choice::Kvm) => {
            return Err(Failure::Missing(format!("node.accelerator asks for KVM, but {why}")));
        }
        (Err(why), Choice::Auto | Choice::Tcg) => (Accelerator::Tcg, format!("emulation: {why}")),
    };
    Ok((memory.keep(accelerator, reason, tsc_khz)?, groups.unwrap_or_default()))
}

/// Boots a guest on KVM against the clock. The inner result is the verdict.
async fn try_kvm(plan: &Plan<'_>, groups: &[u32]) -> Result<Result<Duration, String>, Failure> {
    remove_probe(plan.settings, plan.cgroups)?;
    let dir = guest_dir(&plan.settings.state, PROBE_NAME);
    files::private_dir(&dir)?;
    let hardware = Hardware {
        name: PROBE_NAME.to_owned(),
        cores: 1,
        memory_mib: PROBE_MEMORY_MIB,
        words: wire::pod::PROBE,
        disks: Vec::new(),
        tap: None,
        namespace: None,
        uid: plan.settings.first_uid + u32::from(plan.settings.network.range.slots()),
    };
    let mut exit = plan.start(hardware, Accelerator::Kvm, 0, groups)?.watch()?;
    let found = probe::listen(&dir.join("console"), plan.settings.probe_deadline).await;
    let found = match found {
        Ok(took) => Ok(took),
        Err(Silence::Deadline) => Err(format!(
            "{KVM} opens, but a probe guest on it gave no answer within {:?}",
            plan.settings.probe_deadline
        )),
        Err(Silence::End) => {
            let words = timeout(QUIT_DEADLINE, exit.wait()).await;
            Err(format!("a probe guest on {KVM} gave no answer: {}", words.unwrap_or_default()))
        }
    };
    let (settings, cgroups) = (plan.settings.clone(), plan.cgroups.clone());
    spawn_blocking(move || remove_probe(&settings, &cgroups)).await.map_err(io::Error::other)??;
    Ok(found)
}

fn remove_probe(settings: &Settings, cgroups: &Cgroups) -> Result<(), Failure> {
    cgroups.kill(PROBE_NAME)?;
    cgroups.remove(PROBE_NAME)?;
    Ok(files::remove_dir(&guest_dir(&settings.state, PROBE_NAME))?)
}

/// Gives a VMM that was told to quit the time to do so.
fn wait_empty(cgroups: &Cgroups, name: &str) -> Result<(), Failure> {
    let until = std::time::Instant::now() + QUIT_DEADLINE;
    while std::time::Instant::now() < until && !cgroups.pids(name)?.is_empty() {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn guest_dir(state: &Path, name: &str) -> PathBuf {
    state.join("guests").join(name)
}

fn listener(path: &Path) -> io::Result<OwnedFd> {
    files::remove(path)?;
    Ok(UnixListener::bind(path)?.into())
}

fn find_program() -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(PROGRAM)).find(|file| file.is_file()).ok_or_else(|| {
        Failure::Missing(format!(
            "the program {PROGRAM} is not installed (Debian and Ubuntu: the package qemu-system-x86)"
        ))
    })
}

fn check_socket_path(state: &Path) -> Result<(), Failure> {
    let longest = guest_dir(state, &AgentId::from_random(0).to_string()).join("console");
    if longest.as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok(());
    }
    Err(Failure::Missing(format!("the path {} is too long for a socket", longest.display())))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn refused(operation: Operation, id: AgentId, refusal: Refusal) -> RuntimeError {
    RuntimeError::Refused { operation, id, refusal }
}

const fn overhead_mib(accelerator: Accelerator) -> u64 {
    match accelerator {
        Accelerator::Kvm => KVM_OVERHEAD_MIB,
        Accelerator::Tcg => TCG_OVERHEAD_MIB,
    }
}
