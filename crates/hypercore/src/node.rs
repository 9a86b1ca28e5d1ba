//! The node: what its API asks of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::{MarkKind, NoRoom, PodId, RunId, Tiers, UnixMillis};
use sandbox::{DiskRetention, DiskUsage, DriverError, Presence, Slot};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use wire::node::{Data, DataDisk, Disks, Gone, KeptCause, NodeDisk, NodeInfo, Phase, Sandbox, SandboxSpec};
use wire::pod::Run;
use wire::{Environment, EnvironmentError};

use crate::context::NodeContext;
use crate::error_chain::error_chain;
use crate::journal::JournalError;
use crate::ledger::{Ledger, LedgerError, Record, Secrets};
use crate::policy::{Desired, DiskRoom, Load, Offer, offer};
use crate::quarantine::QuarantinedSandbox;
use crate::registry::Admission;
use crate::retention;
use crate::streams::Streams;
use crate::task::{BOOKS_DEADLINE, EndError, Handle, Inbox, Order, Origin, Task};

/// Orders that may wait for a task.
const ORDERS: usize = 16;
/// Pause before a task that does not end is asked again.
const HALT_AGAIN: Duration = Duration::from_secs(1);
const MIB: u64 = 1024 * 1024;
/// What the machine holds of a sandbox of which it holds nothing.
const ABSENT: Presence = Presence { runs: false, slot: None, pod: None };
/// What is wrong with a sandbox that has lost its record.
const NO_RECORD: &str = "its record.json is not there, and the machine holds something of it: put the file back from a \
                         backup and start hypercore again, or give the sandbox up with DELETE /v1/sandboxes/{id} on \
                         the node's socket, which keeps its disks";
/// What is wrong with one that is in no ledger and could not be removed.
const NOT_REMOVED: &str = "it is in no ledger, and what the machine holds of it could not be removed; the log says why: \
                           mend that and start hypercore again, or give the sandbox up with DELETE \
                           /v1/sandboxes/{id} on the node's socket, which keeps its disks";

/// Why the node will not make a sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    #[error("cores must be at least 1")]
    Cores,
    #[error("memory_mib must be at least {least}", least = Tiers::MIN_MEMORY_MIB)]
    Memory,
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    #[error("this node does not have the image {0}")]
    NoImage(domain::ImageDigest),
    #[error("{}", no_room(.0))]
    NoRoom(NoRoom),
    #[error("this node's disk is full: {free_mib} MiB are free in {} and {least_mib} MiB must stay free", .path.display())]
    DiskFull { path: PathBuf, free_mib: u64, least_mib: u64 },
    #[error("this node has metering marks that nobody fetches; it takes no more sandboxes until they are")]
    MarksFull,
    #[error("the sandbox is held with another spec, or at another generation")]
    Stale,
    #[error("the sandbox is being taken down")]
    Stopping,
    #[error("the POD {pod} runs already, as {run}")]
    PodRunning { pod: PodId, run: RunId },
    #[error("this node keeps no data of the POD {0}")]
    NoData(PodId),
    #[error("the sandbox's record cannot be read: {0}")]
    Quarantined(String),
    #[error("the node is going down")]
    Closing,
    #[error("write the ledger")]
    Ledger(#[from] LedgerError),
    #[error("read the image store")]
    Images(#[from] image::ImageError),
    #[error("work on the disk")]
    Disk(#[source] std::io::Error),
    #[error("look at the disk")]
    Driver(#[from] DriverError),
}

/// What came of asking for a sandbox.
pub(crate) enum Created {
    /// It is new.
    New(Sandbox),
    /// It was there.
    Existing(Sandbox),
}

/// The node.
pub(crate) struct Node {
    pub(crate) shared: Arc<NodeContext>,
    ledger: Ledger,
    tasks: TaskTracker,
    /// Lets tasks go, and the guests be.
    leave: CancellationToken,
    /// One quarantined sandbox is given up at a time: nothing else keeps two calls for
    /// it apart.
    giving_up: Mutex<()>,
}

impl Node {
    pub(crate) fn new(shared: Arc<NodeContext>, ledger: Ledger) -> Self {
        Self { shared, ledger, tasks: TaskTracker::new(), leave: CancellationToken::new(), giving_up: Mutex::new(()) }
    }

    /// Takes up what the daemon before has left.
    ///
    /// # Errors
    /// When the ledger or the machine cannot be read.
    pub(crate) async fn recover(&self, last_alive: Option<UnixMillis>) -> anyhow::Result<()> {
        let ledger = self.ledger.clone();
        let found = spawn_blocking(move || ledger.load()).await??;
        let present = self.shared.runtime.present().await?;
        let at = last_alive.unwrap_or_else(|| self.shared.clock.now());
        let (lost, cut_off): (Vec<_>, Vec<_>) = found.unrecorded.into_iter().partition(|id| present.contains_key(id));
        let lost = lost.into_iter().map(|id| (id, NO_RECORD.to_owned()));
        for (id, cause) in found.unreadable.into_iter().chain(lost) {
            self.quarantine(id, cause, present.get(&id).copied().unwrap_or(ABSENT), at).await?;
        }
        let known = found.records.iter().map(|record| (record.id, Some(record.slot)));
        let held = self.shared.registry.quarantine.list().into_iter();
        let held = held.map(|held| (held.id, present.get(&held.id).and_then(|presence| presence.slot)));
        let known: BTreeMap<_, _> = known.chain(held).collect();
        let retention = self.shared.config.retention(self.shared.clock.now(), KeptCause::Found);
        let swept = self.shared.runtime.sweep(&known, &retention).await?;
        if swept > 0 {
            tracing::warn!(swept, "sandboxes that are not in the ledger were ended; their disks are kept");
        }
        // Their PODs' data is there: no other run may begin without it.
        for (id, presence) in self.shared.runtime.present().await? {
            if !known.contains_key(&id) {
                self.quarantine(id, NOT_REMOVED.to_owned(), presence, at).await?;
            }
        }
        for id in cut_off {
            self.clear(id, at).await?;
        }
        for record in found.records {
            let (handle, task) = self.prepare(record);
            self.shared.registry.admit(handle);
            self.spawn(task, Origin::Found { last_alive });
        }
        Ok(())
    }

    /// Removes the folder of a creation or a deletion that was cut off, unless the disk
    /// does not take its end: then the next daemon does.
    async fn clear(&self, id: RunId, at: UnixMillis) -> anyhow::Result<()> {
        if self.mark(id, MarkKind::Gone, at).await? {
            let dir = self.ledger.dir_of(id);
            spawn_blocking(move || dir.remove()).await??;
        }
        Ok(())
    }

    /// Has a mark written. Waits only so long for that, since a node whose disk takes
    /// nothing must serve whoever makes room: then it is written later.
    async fn mark(&self, id: RunId, kind: MarkKind, at: UnixMillis) -> Result<bool, JournalError> {
        let marked = timeout(BOOKS_DEADLINE, self.shared.journal.mark(id, kind, at)).await;
        if marked.is_err() {
            tracing::error!(%id, ?kind, "the metering journal is not written: its disk takes nothing");
        }
        marked.map_or(Ok(false), |marked| marked.map(|()| true))
    }

    /// Leaves a sandbox alone of which something cannot be read. Nobody is let in to
    /// it, so nobody is billed for it.
    async fn quarantine(&self, id: RunId, cause: String, presence: Presence, at: UnixMillis) -> anyhow::Result<()> {
        tracing::error!(%id, runs = presence.runs, cause, "a sandbox is quarantined");
        if self.shared.journal.standing(id) == Some(MarkKind::Ready) {
            self.mark(id, MarkKind::Unready, at).await?;
        }
        let memory = self.shared.runtime.stats(id).await.map_or(0, |stats| stats.memory_bytes);
        self.shared.registry.quarantine.hold(id, QuarantinedSandbox { presence, memory_mib: memory / MIB, cause });
        Ok(())
    }

    /// Makes a sandbox, or finds that it is there.
    pub(crate) async fn create(
        &self,
        id: RunId,
        spec: SandboxSpec,
        trace: Option<String>,
    ) -> Result<Created, CreateError> {
        check(&spec)?;
        if let Some(held) = self.shared.registry.get(id) {
            return self.again(&held, &spec).await;
        }
        if let Some(held) = self.shared.registry.quarantine.get(id) {
            return Err(CreateError::Quarantined(held.cause));
        }
        let (run, room) = self.room_for(&spec).await?;
        match self.enter(id, &spec, run, room).await? {
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
        run: Run,
        room: DiskRoom,
    ) -> Result<(Arc<Handle>, Option<Task>), CreateError> {
        let _kept = self.shared.kept.lock().await;
        self.refuse_second_run(id, spec.pod)?;
        let room = room.with_guests(self.data_to_take_back(spec).await? / MIB);
        let disk_mib = self.shared.config.agent_disk_mib();
        let (desired, now) = (Desired::from(spec), self.shared.clock.now());
        let mut made = None;
        let ask = domain::Ask { cores: spec.cores, memory_mib: spec.memory_mib };
        let entry = self.shared.registry.enter(id, ask, room, |number| {
            let record = Record::new(Slot { run: id, number }, desired, run, disk_mib, now);
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

    /// Bytes of the data disk that a run takes back. Where that cannot be seen the run
    /// waits for it: there may be one.
    async fn data_to_take_back(&self, spec: &SandboxSpec) -> Result<u64, CreateError> {
        match (self.shared.runtime.kept_data(spec.pod).await, spec.data) {
            (Ok(Some(bytes)), _) => Ok(bytes),
            (Ok(None), DataDisk::KeptOrEmpty) => Ok(0),
            (Ok(None), DataDisk::Kept) => Err(CreateError::NoData(spec.pod)),
            (Err(error), _) => {
                tracing::error!(pod = %spec.pod, error = error_chain(&error), "what is kept of a POD cannot be seen");
                Ok(0)
            }
        }
    }

    async fn begin(
        &self,
        handle: &Handle,
        task: Task,
        env: Environment,
        trace: Option<String>,
    ) -> Result<Created, CreateError> {
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
        Ok(Created::New(handle.sandbox()))
    }

    async fn again(&self, held: &Arc<Handle>, spec: &SandboxSpec) -> Result<Created, CreateError> {
        let sandbox = held.sandbox();
        if sandbox.phase == Phase::Stopping {
            return Err(CreateError::Stopping);
        }
        let (dir, env) = (held.dir.clone(), spec.env.clone());
        let (id, generation) = (held.id(), held.desired.generation);
        let same = spawn_blocking(move || {
            dir.unseal(id, generation).is_ok_and(|secrets| same_environment(&secrets.env, &env))
        });
        let same = same.await.map_err(|error| CreateError::Disk(std::io::Error::other(error)))?;
        match offer(held.desired, spec.into(), || same) {
            Offer::Same => Ok(Created::Existing(sandbox)),
            Offer::Stale => Err(CreateError::Stale),
        }
    }

    /// Whether the machine has what a new sandbox needs besides cores and memory.
    async fn room_for(&self, spec: &SandboxSpec) -> Result<(Run, DiskRoom), CreateError> {
        if self.tasks.is_closed() {
            return Err(CreateError::Closing);
        }
        if self.shared.journal.is_full() {
            return Err(CreateError::MarksFull);
        }
        let (images, digest) = (self.shared.images.clone(), spec.image);
        let base = spawn_blocking(move || images.find(&digest)).await;
        let base = base.map_err(|error| CreateError::Disk(std::io::Error::other(error)))??;
        let room = disk_room(self.shared.runtime.disk_usage().await?);
        let (least_mib, path) = (self.shared.config.disk_free_mib, self.shared.config.state.clone());
        if room.free_mib < least_mib {
            return Err(CreateError::DiskFull { path, free_mib: room.free_mib, least_mib });
        }
        Ok((base.ok_or(CreateError::NoImage(digest))?.run, room))
    }

    /// Takes a sandbox down, and says what is kept of its POD. What is not there is gone
    /// already; which POD it was a run of, only its caller knows then.
    pub(crate) async fn delete(
        &self,
        id: RunId,
        pod: Option<PodId>,
        grace: Duration,
        data: Data,
    ) -> Result<Gone, EndError> {
        let told = pod.unwrap_or_else(|| PodId::minted(id));
        let pod = match (self.shared.registry.get(id), self.shared.registry.quarantine.get(id)) {
            (Some(handle), _) => {
                self.shared.registry.delete(&handle, grace, data).await?;
                handle.desired.pod
            }
            (None, Some(held)) => {
                let given_up = self.give_up(id, data).await;
                given_up.map_err(|error| EndError::StillThere(format!("{error:#}")))?;
                held.presence.pod.unwrap_or(told)
            }
            (None, None) => told,
        };
        if data == Data::Erase {
            self.erase_data(pod).await?;
        }
        let kept = retention::kept_data(&self.shared, pod).await;
        Ok(Gone { id, kept: kept.map_err(|error| EndError::StillThere(error_chain(&error)))? })
    }

    /// Erases what is kept of a POD that does not run.
    pub(crate) async fn erase_data(&self, pod: PodId) -> Result<(), EndError> {
        let _kept = self.shared.kept.lock().await;
        let registry = &self.shared.registry;
        if let Some(run) = registry.run_of(pod).map(|handle| handle.id()) {
            return Err(EndError::PodRunning { pod, run });
        }
        if let Some(held) = registry.quarantine.run_of(pod) {
            return Err(EndError::StillThere(format!("a run of the POD is quarantined: {}", held.cause)));
        }
        retention::erase(&self.shared, pod).await.map_err(|error| EndError::StillThere(error_chain(&error)))
    }

    /// Ends a sandbox that cannot be read: somebody has given it up.
    async fn give_up(&self, id: RunId, data: Data) -> anyhow::Result<()> {
        let _alone = self.giving_up.lock().await;
        let Some(held) = self.shared.registry.quarantine.get(id) else { return Ok(()) };
        let disks = match data {
            Data::Keep => {
                DiskRetention::KeepAll(self.shared.config.retention(self.shared.clock.now(), KeptCause::Deleted))
            }
            Data::Erase => DiskRetention::Erase,
        };
        // Without a number of its own its link goes with its namespace.
        let slot = held.presence.slot.unwrap_or(u16::MAX);
        self.shared.runtime.stop(Slot { run: id, number: slot }, disks).await?;
        anyhow::ensure!(
            self.mark(id, MarkKind::Gone, self.shared.clock.now()).await?,
            "its end is not in the node's books yet: the disk takes nothing"
        );
        let dir = self.ledger.dir_of(id);
        spawn_blocking(move || dir.remove()).await??;
        self.shared.registry.quarantine.release(id);
        tracing::warn!(%id, data = data.as_str(), "a quarantined sandbox was given up");
        Ok(())
    }

    /// The disks that outlived their sandboxes.
    pub(crate) async fn disks(&self) -> Result<Disks, DriverError> {
        let kept = self.shared.runtime.kept(None).await?;
        Ok(Disks { retention_days: self.shared.config.retention_days, kept })
    }

    /// The node, as it describes itself.
    pub(crate) async fn info(&self) -> Result<NodeInfo, CreateError> {
        let images = self.shared.images.clone();
        let named = spawn_blocking(move || images.named()).await;
        let images = named.map_err(|error| CreateError::Disk(std::io::Error::other(error)))??;
        let (load, capacity, about) =
            (self.shared.registry.load(), self.shared.registry.capacity(), &self.shared.about);
        Ok(NodeInfo {
            name: self.shared.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime: about.name,
            runtime_reason: about.reason.clone(),
            cores: capacity.cores,
            free_cores: capacity.free_vcpus(load),
            memory_mib: capacity.memory_mib,
            free_memory_mib: capacity.free_memory_mib(load),
            most_memory_mib: Some(capacity.free_memory_mib(Load::default())),
            disk: Some(self.disk(load).await?),
            sandboxes: load.sandboxes,
            images,
        })
    }

    async fn disk(&self, load: Load) -> Result<NodeDisk, DriverError> {
        let (found, capacity) = (self.shared.runtime.disk_usage().await?, self.shared.registry.capacity());
        let kept = self.shared.runtime.kept(None).await?;
        Ok(NodeDisk {
            size_mib: found.size / MIB,
            free_mib: found.free / MIB,
            least_free_mib: capacity.disk_free_mib,
            promised_mib: load.disk_mib,
            promisable_mib: capacity.free_disk_mib(load, disk_room(found)),
            overcommit_percent: capacity.disk_percent,
            sandbox_mib: capacity.agent_disk_mib,
            kept: u32::try_from(kept.len()).unwrap_or(u32::MAX),
            kept_mib: kept.iter().map(|disk| disk.bytes).sum::<u64>() / MIB,
        })
    }

    /// Ends the guests of records that cannot be read; record and disks stay for whoever
    /// repairs them.
    async fn halt_quarantined(&self) {
        for held in self.shared.registry.quarantine.list().into_iter().filter(|held| held.runs) {
            let presence = self.shared.registry.quarantine.get(held.id).map(|held| held.presence);
            let slot = presence.and_then(|presence| presence.slot).unwrap_or(u16::MAX);
            if let Err(error) =
                self.shared.runtime.stop(Slot { run: held.id, number: slot }, DiskRetention::Attached).await
            {
                tracing::error!(id = %held.id, error = error_chain(&error), "a quarantined guest is not ended");
            }
        }
    }

    /// Ends all guests and waits for it; the next daemon starts them again.
    pub(crate) async fn halt(&self) {
        self.close();
        self.halt_quarantined().await;
        loop {
            for handle in self.shared.registry.all() {
                // A full queue is asked again; a task that has ended needs no asking.
                let _ = handle.orders.try_send(Order::Halt);
            }
            if timeout(HALT_AGAIN, self.tasks.wait()).await.is_ok() {
                return;
            }
        }
    }

    /// Leaves the guests to the next daemon.
    pub(crate) async fn leave(&self) {
        self.close();
        self.leave.cancel();
        self.tasks.wait().await;
    }

    /// Takes no more sandboxes.
    pub(crate) fn close(&self) {
        self.tasks.close();
    }

    fn prepare(&self, record: Record) -> (Arc<Handle>, Task) {
        let (orders, inbox) = mpsc::channel(ORDERS);
        let (view, shown) = watch::channel(Task::show(&self.shared, &record, record.phase()));
        let dir = self.ledger.dir_of(record.id);
        let handle = Arc::new(Handle {
            slot: record.slot(),
            desired: record.desired,
            disk_mib: record.disk_mib.unwrap_or_else(|| self.shared.config.agent_disk_mib()),
            port: record.run.port,
            dir: dir.clone(),
            view: shown,
            orders,
            logs: std::sync::OnceLock::new(),
            pod: std::sync::OnceLock::new(),
            streams: Streams::new(&self.shared.config),
        });
        let task = Task::new(Arc::clone(&self.shared), record, dir, Inbox::new(inbox), view, Arc::clone(&handle));
        (handle, task)
    }

    fn spawn(&self, task: Task, origin: Origin) {
        let span = tracing::info_span!("sandbox", id = %task.id());
        if let Origin::Asked { trace: Some(trace), .. } = &origin {
            telemetry::follow(&span, trace);
        }
        let leave = self.leave.clone();
        self.tasks.spawn(async move { leave.run_until_cancelled(task.run(origin)).await }.instrument(span));
    }
}

fn no_room(why: &NoRoom) -> String {
    match why {
        NoRoom::TooLarge { .. } => format!("this node is too small: {why}"),
        NoRoom::Full | NoRoom::NoNodes => {
            "this node has no room left: not enough free memory, disk, cores or slots".to_owned()
        }
    }
}

fn disk_room(room: DiskUsage) -> DiskRoom {
    DiskRoom { free_mib: room.free / MIB, guests_mib: room.guests / MIB }
}

fn check(spec: &SandboxSpec) -> Result<(), CreateError> {
    if spec.cores == 0 {
        return Err(CreateError::Cores);
    }
    if spec.memory_mib < u64::from(Tiers::MIN_MEMORY_MIB) {
        return Err(CreateError::Memory);
    }
    Ok(spec.env.check()?)
}

fn same_environment(held: &Environment, offered: &Environment) -> bool {
    let pairs = |env: &Environment| {
        env.0.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect::<Vec<_>>()
    };
    pairs(held) == pairs(offered)
}
