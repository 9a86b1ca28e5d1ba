//! A runtime without guests: what happens in the guest is a function of the test.
//!
//! A [`FakeHost`] stands for the host and outlives the daemon; each [`FakeRuntime`] on it is
//! the driver of one life of the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use domain::{NodeShortage, OwnedDisk, PodId, RunId, VolumeId};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use wire::v1::node::{DataDisk, KeptDisk, Retention, RuntimeName};

use crate::drivers::qemu::facts::VmmFacts;
use crate::error::{Step, step};
use crate::facts::GuestFacts;
use crate::process::ProcessFacts;
use crate::runtime::{
    BuilderSpec, DiskRetention, DiskUsage, Guest, GuestExitWatch, GuestSpec, GuestState, GuestStats, GuestStream,
    HelperSpec, ObservedRun, Runtime, RuntimeInfo, Slot,
};
use crate::{DriverError, DriverFailure, DriverRefusal, RuntimeError, RuntimeOperation};

const PIPE_BYTES: usize = 64 * 1024;
/// Host memory a fake guest takes beyond its own.
pub const OVERHEAD_MIB: u64 = 16;
/// Slots of a fake machine.
pub const SLOTS: u16 = 64;

/// A connection that reached a fake guest.
#[derive(Debug)]
pub struct GuestConnection {
    /// The guest.
    pub id: RunId,
    /// Which of its ports.
    pub port: u16,
    /// How often this sandbox was created so far, from 1.
    pub boot: u32,
    /// The guest's end.
    pub stream: DuplexStream,
}

/// What a guest does with a connection. Returning `false` refuses it.
pub type GuestHandler = dyn Fn(GuestConnection) -> bool + Send + Sync;

/// The host, as far as a fake has one.
#[derive(Clone)]
pub struct FakeHost(Arc<Inner>);

struct Inner {
    serve: Box<GuestHandler>,
    state: Mutex<State>,
}

struct State {
    running: BTreeMap<RunId, Running>,
    disks: BTreeMap<RunId, Disks>,
    pids: u32,
    /// Answers of the next `create`s, taken from the front.
    failures: Vec<DriverRefusal>,
    /// The answer of every `create`, as long as it is there.
    refusal: Option<DriverRefusal>,
    /// How often a `create` was refused.
    refused: u32,
    /// Calls that fail, each once.
    failing: Vec<RuntimeOperation>,
    kept: BTreeMap<String, (KeptDisk, String)>,
    /// What disks take that are set aside.
    kept_bytes: u64,
    /// The volumes that are there; all, where a test says nothing of them.
    volumes: Option<BTreeSet<VolumeId>>,
    room: DiskUsage,
    /// Runs of which nothing can be removed by a sweep.
    stuck: BTreeSet<RunId>,
    /// How often the machine was looked at.
    reconciled: u32,
    /// What isolates its guests.
    runtime: RuntimeName,
    /// Guests that are stopped when somebody looks at them, as containers are on a full disk.
    stopped_when_seen: BTreeMap<RunId, NodeShortage>,
}

/// The disks of a run.
struct Disks {
    pod: PodId,
    /// How often its guest was started on them.
    boots: u32,
    /// What is on `/data`.
    data: String,
}

/// What a disk of `/data` holds that nothing was written to.
const EMPTY: &str = "";

impl State {
    const fn new() -> Self {
        Self {
            running: BTreeMap::new(),
            disks: BTreeMap::new(),
            pids: 0,
            failures: Vec::new(),
            refusal: None,
            refused: 0,
            failing: Vec::new(),
            kept: BTreeMap::new(),
            kept_bytes: 1,
            volumes: None,
            stuck: BTreeSet::new(),
            room: DiskUsage { size: 1 << 40, free: 1 << 40, guests: 0 },
            reconciled: 0,
            runtime: RuntimeName::QemuTcg,
            stopped_when_seen: BTreeMap::new(),
        }
    }

    fn attempt(&mut self, operation: RuntimeOperation, id: RunId) -> Result<(), RuntimeError> {
        let Some(at) = self.failing.iter().position(|failing| *failing == operation) else { return Ok(()) };
        self.failing.remove(at);
        let source = DriverFailure::Missing("the machine lacks something".to_owned());
        Err(RuntimeError::Failed { operation, id, step: step::VMM, source })
    }

    fn keep(&mut self, id: RunId, retention: &Retention) {
        // As empty as they were made.
        let unused = |disks: &Disks| disks.boots == 0 && disks.data == EMPTY;
        let Some(Disks { pod, data, .. }) = self.disks.remove(&id).filter(|disks| !unused(disks)) else { return };
        let mut names = (0_u32..).map(|more| if more == 0 { pod.to_string() } else { format!("{pod}.{more}") });
        let name = names.find(|name| !self.kept.contains_key(name)).unwrap_or_default();
        self.kept
            .insert(name.clone(), (KeptDisk { name, pod, bytes: self.kept_bytes, retention: Some(*retention) }, data));
    }

    fn newest_of(&self, pod: PodId) -> Option<String> {
        let its = self.kept.values().filter(|(disk, _)| disk.pod == pod);
        its.max_by_key(|(disk, _)| disk.retention.map(|kept| kept.since)).map(|(disk, _)| disk.name.clone())
    }

    /// Whether a guest can have its volumes: they are there, and no other guest has one.
    fn look_for_volumes(&self, spec: &GuestSpec) -> Result<(), RuntimeError> {
        self.volumes_are_free(spec.slot.run, &spec.volumes)
    }

    /// A machine of ours, which has these volumes.
    fn own_machine(&mut self, slot: Slot, volumes: Vec<VolumeId>) -> Guest {
        self.pids += 1;
        let process = ProcessFacts { pid: self.pids, started: 7, boot: "fake".to_owned() };
        let facts = GuestFacts::Qemu(VmmFacts { process });
        let (ended, exit) = GuestExitWatch::channel();
        self.running.insert(slot.run, Running { slot, facts: facts.clone(), volumes, ended, paused: None });
        Guest { facts, exit }
    }

    fn volumes_are_free(&self, run: RunId, volumes: &[VolumeId]) -> Result<(), RuntimeError> {
        let is_lost = |id: &&VolumeId| self.volumes.as_ref().is_some_and(|there| !there.contains(id));
        let is_taken = |id: &&VolumeId| self.running.values().any(|guest| guest.volumes.contains(id));
        let lost = volumes.iter().find(is_lost).map(|id| DriverFailure::Missing(format!("no volume {id}")));
        let taken = volumes.iter().find(is_taken).map(|id| DriverFailure::Taken(format!("volume {id} is taken")));
        lost.or(taken).map_or(Ok(()), |source| {
            let operation = RuntimeOperation::Create;
            Err(RuntimeError::Failed { operation, id: run, step: step::DISKS, source })
        })
    }

    /// Makes a run's disks unless they are there, or takes its POD's back.
    fn make_disks(&mut self, spec: &GuestSpec) -> Result<(), RuntimeError> {
        if self.disks.contains_key(&spec.slot.run) {
            return Ok(());
        }
        // A run that had disks does not take others.
        let newest = if spec.ran { None } else { self.newest_of(spec.pod) };
        let kept = newest.and_then(|name| self.kept.remove(&name));
        let data = match (kept, spec.data) {
            (Some((_, data)), _) => data,
            (None, DataDisk::KeptOrEmpty) => EMPTY.to_owned(),
            (None, DataDisk::Kept) => {
                let source = DriverFailure::Missing(format!("nothing is kept of the POD {}", spec.pod));
                let operation = RuntimeOperation::Create;
                return Err(RuntimeError::Failed { operation, id: spec.slot.run, step: step::DISKS, source });
            }
        };
        self.disks.insert(spec.slot.run, Disks { pod: spec.pod, boots: 0, data });
        Ok(())
    }
}

struct Running {
    slot: Slot,
    facts: GuestFacts,
    volumes: Vec<VolumeId>,
    ended: watch::Sender<Option<String>>,
    paused: Option<NodeShortage>,
}

impl FakeHost {
    /// A machine whose guests behave like this.
    pub fn new(serve: impl Fn(GuestConnection) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { serve: Box::new(serve), state: Mutex::new(State::new()) }))
    }

    /// A driver on this machine.
    #[must_use]
    pub fn driver(&self) -> FakeRuntime {
        FakeRuntime(self.clone())
    }

    /// Ends a guest from within, as a crash does.
    pub fn crash(&self, id: RunId) {
        if let Some(guest) = self.state().running.remove(&id) {
            guest.ended.send_replace(Some("the guest crashed".to_owned()));
        }
    }

    /// Makes the next `create` refuse.
    pub fn fail_next(&self, refusal: DriverRefusal) {
        self.state().failures.push(refusal);
    }

    /// Makes every `create` refuse, until it is called with `None`.
    pub fn fail(&self, refusal: Option<DriverRefusal>) {
        self.state().refusal = refusal;
    }

    /// Makes one more call of this kind fail, of `create`, `adopt` and `stop`, as where
    /// the VMM is lacking.
    pub fn fail_call(&self, operation: RuntimeOperation) {
        self.state().failing.push(operation);
    }

    /// How many of those are still to come.
    #[must_use]
    pub fn failing(&self) -> usize {
        self.state().failing.len()
    }

    /// How often a `create` was refused because of [`FakeHost::fail`].
    #[must_use]
    pub fn refused(&self) -> u32 {
        self.state().refused
    }

    /// Stops a guest as a VMM does whose disk is full; `resume` has it go on once
    /// this was called with `None`.
    pub fn pause(&self, id: RunId, wait_reason: Option<NodeShortage>) {
        if let Some(guest) = self.state().running.get_mut(&id) {
            guest.paused = wait_reason;
        }
    }

    /// Has a guest stopped as soon as somebody looks at it: no VMM watches over a container. It
    /// answers until then.
    pub fn pause_when_seen(&self, id: RunId, wait_reason: NodeShortage) {
        self.state().stopped_when_seen.insert(id, wait_reason);
    }

    /// What isolates its guests from the next daemon on.
    pub fn set_runtime(&self, name: RuntimeName) {
        self.state().runtime = name;
    }

    /// Whether a guest was stopped by its VMM.
    #[must_use]
    pub fn is_paused(&self, id: RunId) -> bool {
        self.state().running.get(&id).is_some_and(|guest| guest.paused.is_some())
    }

    /// Has the sweep of a new daemon fail on what is left of this run.
    pub fn stick(&self, id: RunId) {
        self.state().stuck.insert(id);
    }

    /// The volumes that are there are those that it is told of from now on: this one too.
    pub fn add_volume(&self, id: VolumeId) {
        self.state().volumes.get_or_insert_default().insert(id);
    }

    /// None of its volumes is there any more.
    pub fn lose_volumes(&self) {
        self.state().volumes = Some(BTreeSet::new());
    }

    /// What disks take that are set aside from now on.
    pub fn set_kept_bytes(&self, bytes: u64) {
        self.state().kept_bytes = bytes;
    }

    /// How full the disk is from now on.
    pub fn set_disk_usage(&self, room: DiskUsage) {
        self.state().room = room;
    }

    /// How often what the guests' networks need was looked at. The first look fails.
    #[must_use]
    pub fn reconciled(&self) -> u32 {
        self.state().reconciled
    }

    /// The disks that are kept.
    #[must_use]
    pub fn kept(&self) -> Vec<KeptDisk> {
        self.state().kept.values().map(|(disk, _)| disk.clone()).collect()
    }

    /// Has something on the `/data` of a run, as its guest writes it.
    pub fn write_data(&self, id: RunId, text: &str) {
        if let Some(disks) = self.state().disks.get_mut(&id) {
            text.clone_into(&mut disks.data);
        }
    }

    /// What is on the `/data` of a run.
    #[must_use]
    pub fn data(&self, id: RunId) -> Option<String> {
        self.state().disks.get(&id).map(|disks| disks.data.clone())
    }

    /// The guests that run.
    #[must_use]
    pub fn running(&self) -> Vec<Slot> {
        self.state().running.values().map(|guest| guest.slot).collect()
    }

    /// The runs that have disks, and how often each was started on them.
    #[must_use]
    pub fn disks(&self) -> BTreeMap<RunId, u32> {
        self.state().disks.iter().map(|(id, disks)| (*id, disks.boots)).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A driver on a [`FakeHost`].
#[derive(Clone)]
pub struct FakeRuntime(FakeHost);

#[async_trait]
impl Runtime for FakeRuntime {
    fn info(&self) -> RuntimeInfo {
        let reason = "a fake, for tests".to_owned();
        RuntimeInfo { name: self.0.state().runtime, reason, overhead_mib: OVERHEAD_MIB, slots: SLOTS }
    }

    async fn observed_runs(&self) -> Result<BTreeMap<RunId, ObservedRun>, DriverError> {
        let state = self.0.state();
        let observed_runs = state.disks.iter().map(|(id, disks)| {
            let guest = state.running.get(id);
            let slot = guest.map(|guest| guest.slot.number);
            (*id, ObservedRun { runs: guest.is_some(), slot, pod: Some(disks.pod) })
        });
        Ok(observed_runs.collect())
    }

    async fn sweep(&self, known: &BTreeMap<RunId, Option<u16>>, retention: &Retention) -> Result<usize, DriverError> {
        let mut state = self.0.state();
        let before: BTreeSet<RunId> = state.running.keys().chain(state.disks.keys()).copied().collect();
        let unknown: Vec<RunId> =
            before.into_iter().filter(|id| !known.contains_key(id) && !state.stuck.contains(id)).collect();
        for id in &unknown {
            state.running.remove(id);
            state.keep(*id, retention);
        }
        Ok(unknown.len())
    }

    async fn create(&self, spec: &GuestSpec) -> Result<Guest, RuntimeError> {
        let (id, mut state) = (spec.slot.run, self.0.state());
        if let Err(error) = state.attempt(RuntimeOperation::Create, id) {
            // It came as far as to the VMM.
            state.make_disks(spec)?;
            return Err(error);
        }
        if let Some(refusal) = state.refusal.clone() {
            state.refused += 1;
            return Err(refused(RuntimeOperation::Create, id, refusal));
        }
        if !state.failures.is_empty() {
            return Err(refused(RuntimeOperation::Create, id, state.failures.remove(0)));
        }
        if spec.slot.number >= SLOTS {
            return Err(refused(
                RuntimeOperation::Create,
                id,
                DriverRefusal::NoSlot { slot: spec.slot.number, slots: SLOTS },
            ));
        }
        if state.running.contains_key(&id) {
            return Err(refused(RuntimeOperation::Create, id, DriverRefusal::Runs));
        }
        state.make_disks(spec)?;
        state.look_for_volumes(spec)?;
        state.pids += 1;
        if let Some(disks) = state.disks.get_mut(&id) {
            disks.boots += 1;
        }
        let process = ProcessFacts { pid: state.pids, started: 7, boot: "fake".to_owned() };
        let facts = GuestFacts::Qemu(VmmFacts { process });
        let (ended, exit) = GuestExitWatch::channel();
        state.running.insert(
            id,
            Running { slot: spec.slot, facts: facts.clone(), volumes: spec.volumes.clone(), ended, paused: None },
        );
        Ok(Guest { facts, exit })
    }

    async fn create_helper(&self, spec: &HelperSpec) -> Result<Guest, RuntimeError> {
        let (id, mut state) = (spec.slot.run, self.0.state());
        state.attempt(RuntimeOperation::Create, id)?;
        let volumes = match spec.disk {
            OwnedDisk::Volume(volume) => vec![volume],
            OwnedDisk::Data(pod) if state.newest_of(pod).is_some() => Vec::new(),
            OwnedDisk::Data(pod) => {
                let source = DriverFailure::Missing(format!("nothing is kept of the POD {pod}"));
                return Err(RuntimeError::Failed {
                    operation: RuntimeOperation::Create,
                    id,
                    step: step::DISKS,
                    source,
                });
            }
        };
        state.volumes_are_free(id, &volumes)?;
        Ok(state.own_machine(spec.slot, volumes))
    }

    async fn create_builder(&self, spec: &BuilderSpec) -> Result<Guest, RuntimeError> {
        let mut state = self.0.state();
        state.attempt(RuntimeOperation::Create, spec.slot.run)?;
        Ok(state.own_machine(spec.slot, Vec::new()))
    }

    async fn adopt(&self, spec: &GuestSpec, facts: &GuestFacts) -> Result<Option<Guest>, RuntimeError> {
        let mut state = self.0.state();
        state.attempt(RuntimeOperation::Adopt, spec.slot.run)?;
        let Some(guest) = state.running.get_mut(&spec.slot.run).filter(|guest| guest.facts == *facts) else {
            return Ok(None);
        };
        // The watcher of the daemon before is gone with it.
        let (ended, exit) = GuestExitWatch::channel();
        guest.ended = ended;
        Ok(Some(Guest { facts: facts.clone(), exit }))
    }

    async fn console(&self, id: RunId) -> Result<Box<dyn GuestStream>, RuntimeError> {
        if !self.0.state().running.contains_key(&id) {
            return Err(refused(RuntimeOperation::Console, id, DriverRefusal::NotRunning));
        }
        let (mut guest, host) = duplex(PIPE_BYTES);
        let (mut gone, machine) = (self.0.watch(id), self.0.clone());
        tokio::spawn(async move {
            let _ = guest.write_all(format!("boot {}\n", machine.boots(id)).as_bytes()).await;
            if let Some(gone) = &mut gone {
                gone.wait().await;
            }
        });
        Ok(Box::new(host))
    }

    async fn connect(&self, id: RunId, port: u16) -> Result<Box<dyn GuestStream>, RuntimeError> {
        if !self.0.state().running.contains_key(&id) {
            return Err(refused(RuntimeOperation::Connect, id, DriverRefusal::NotRunning));
        }
        let boot = self.0.boots(id);
        let (stream, host) = duplex(PIPE_BYTES);
        if self.0.is_paused(id) {
            // Nobody answers, and nobody refuses.
            std::future::pending::<()>().await;
        }
        if (self.0.0.serve)(GuestConnection { id, port, boot, stream }) {
            return Ok(Box::new(host));
        }
        let source = DriverFailure::Io(io::ErrorKind::ConnectionRefused.into());
        Err(RuntimeError::Failed { operation: RuntimeOperation::Connect, id, step: "connect to its port", source })
    }

    async fn stats(&self, id: RunId) -> Result<GuestStats, RuntimeError> {
        if self.0.state().running.contains_key(&id) {
            Ok(GuestStats { cpu_us: 1, memory_bytes: 1, resident_bytes: 1, ..GuestStats::default() })
        } else {
            Err(refused(RuntimeOperation::Stats, id, DriverRefusal::NotRunning))
        }
    }

    async fn stop(&self, slot: Slot, disks: DiskRetention) -> Result<(), RuntimeError> {
        let mut state = self.0.state();
        state.attempt(RuntimeOperation::Stop, slot.run)?;
        if let Some(guest) = state.running.remove(&slot.run) {
            guest.ended.send_replace(Some("it was stopped".to_owned()));
        }
        match disks {
            DiskRetention::Attached => {}
            DiskRetention::KeepData(retention) | DiskRetention::KeepAll(retention) => state.keep(slot.run, &retention),
            DiskRetention::Erase => {
                state.disks.remove(&slot.run);
            }
        }
        Ok(())
    }

    async fn condition(&self, id: RunId) -> Result<GuestState, RuntimeError> {
        let mut state = self.0.state();
        if let Some(wait_reason) = state.stopped_when_seen.remove(&id)
            && let Some(guest) = state.running.get_mut(&id)
        {
            guest.paused = Some(wait_reason);
        }
        match state.running.get(&id) {
            Some(Running { paused: Some(wait_reason), .. }) => Ok(GuestState::Paused(*wait_reason)),
            Some(_) => Ok(GuestState::Running),
            None => Err(refused(RuntimeOperation::Condition, id, DriverRefusal::NotRunning)),
        }
    }

    async fn resume(&self, id: RunId) -> Result<(), RuntimeError> {
        self.condition(id).await.map(drop)
    }

    async fn disk_usage(&self) -> Result<DiskUsage, DriverError> {
        Ok(self.0.state().room)
    }

    async fn kept(&self, of: Option<PodId>) -> Result<Vec<KeptDisk>, DriverError> {
        Ok(self.0.kept().into_iter().filter(|disk| of.is_none_or(|of| of == disk.pod)).collect())
    }

    async fn kept_data(&self, pod: PodId) -> Result<Option<u64>, DriverError> {
        Ok(self.0.state().newest_of(pod).map(|_| 1))
    }

    async fn is_kept_of_machine(&self, pod: PodId) -> Result<bool, DriverError> {
        Ok(self.0.state().newest_of(pod).is_some())
    }

    async fn erase(&self, name: &str) -> Result<(), DriverError> {
        self.0.state().kept.remove(name);
        Ok(())
    }

    async fn reconcile_network(&self) -> Result<(), DriverError> {
        let mut state = self.0.state();
        state.reconciled += 1;
        if state.reconciled == 1 {
            return Err(DriverFailure::Missing("the machine lacks something".to_owned()))
                .step("look at the host's rules");
        }
        Ok(())
    }

    async fn close(&self) -> Result<(), DriverError> {
        Ok(())
    }
}

impl FakeHost {
    fn boots(&self, id: RunId) -> u32 {
        self.state().disks.get(&id).map_or(0, |disks| disks.boots)
    }

    /// Guests hang up when they end.
    #[must_use]
    pub fn watch(&self, id: RunId) -> Option<GuestExitWatch> {
        self.state().running.get(&id).map(|guest| GuestExitWatch::of(&guest.ended))
    }
}

fn refused(operation: RuntimeOperation, id: RunId, refusal: DriverRefusal) -> RuntimeError {
    RuntimeError::Refused { operation, id, refusal }
}
