//! A node in memory that keeps a real node's promises, and can be made to break
//! whatever a real one may break: it loses questions and answers, does things
//! late, is slow, goes away, loses its disk; its guests boot, die, fail. Nobody can talk to
//! a guest: who needs that wraps it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use client::{LogSource, NodeError};
use domain::{
    Clock, ContentCall, DiskChange, FailReason, ImageDigest, MarkKind, NodeShortage, OwnedDisk, PodId, RunId,
    SnapshotId, VolumeId,
};
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::sync::Notify;
use tokio::time::Instant;
use wire::fault::{Code, Fault};
use wire::v1::node::{
    AgentMark, CopyState, DataDisk, DataPolicy, DeleteResponse, ImageNeeds, KeptData, MarksPage, NodeInfo,
    NodeSnapshot, NodeVolume, Quarantined, RestoreSpec, RuntimeName, Sandbox, SandboxPhase, SandboxSpec, Sandboxes,
    SnapshotSpec, VolumeSpec,
};

use crate::fake::behaviour::{CallOutcome, Chaos, FakeNodeSpec};
use crate::fake::state::{FakeNodeState, sandbox};
use crate::fleet::node::{ByteStream, Node, NodeBody, NodeCopies, NodeImages};

const CREATE: &str = "create the sandbox";
const MAKE_VOLUME: &str = "make the volume";
/// For how long disks are kept.
const RETENTION_MS: u64 = 30 * 86_400_000;
/// What each POD's data takes.
const KEPT_BYTES: u64 = 1024 * 1024;

/// The node: a handle that is cheap to clone.
#[derive(Clone)]
pub struct FakeNode {
    name: Arc<str>,
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<FakeNodeState>>,
    news: Arc<Notify>,
    infos: Arc<AtomicU64>,
}

impl std::fmt::Debug for FakeNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeNode").field("name", &self.name).finish_non_exhaustive()
    }
}

impl FakeNode {
    /// A node of this name; `seed` decides its chaos.
    #[must_use]
    pub fn new(name: &str, clock: Arc<dyn Clock>, spec: FakeNodeSpec, seed: u64) -> Self {
        let state = Arc::new(Mutex::new(FakeNodeState::new(spec, seed)));
        Self { name: name.into(), clock, state, news: Arc::default(), infos: Arc::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, FakeNodeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it misbehave from now on.
    pub fn set_chaos(&self, chaos: Chaos) {
        self.state().chaos = chaos;
    }

    /// Makes guests boot like this from now on.
    pub fn set_boot(&self, boot: Option<Duration>) {
        self.state().spec.boot = boot;
    }

    /// Makes the daemon go away, or come back. Its guests live on.
    pub fn set_down(&self, down: bool) {
        self.state().down = down;
        self.news.notify_waiters();
    }

    /// Makes it leave the question how it is without an answer, or not any more. It does
    /// all else that it is asked for.
    pub fn set_mute(&self, mute: bool) {
        self.state().mute = mute;
    }

    /// Decides which images it holds.
    pub fn set_images(&self, images: BTreeMap<String, ImageDigest>) {
        self.state().images = images;
    }

    /// Decides what those images need.
    pub fn set_image_needs(&self, needs: BTreeMap<String, ImageNeeds>) {
        self.state().image_needs = needs;
    }

    /// Makes it refuse every creation with this code, or none.
    pub fn set_refusal(&self, code: Option<Code>) {
        self.state().refuse = code;
    }

    /// Decides what becomes of the next creation.
    pub fn set_next_creation(&self, outcome: CallOutcome) {
        self.state().next_creation = Some(outcome);
    }

    /// Decides what becomes of the next volume that it is to make.
    pub fn set_next_volume(&self, outcome: CallOutcome) {
        self.state().next_volume = Some(outcome);
    }

    /// What really runs here.
    #[must_use]
    pub fn running(&self) -> Vec<RunId> {
        self.state().sandboxes.keys().copied().collect()
    }

    /// Whose disks it keeps.
    #[must_use]
    pub fn kept(&self) -> Vec<PodId> {
        self.state().kept.keys().copied().collect()
    }

    /// It lacks something that a guest needs; with `None`, what it lacked is there.
    pub fn lack(&self, id: RunId, lacks: Option<NodeShortage>) {
        let mut state = self.state();
        let since = self.clock.now();
        if state.sandboxes.get(&id).is_some_and(|sandbox| sandbox.phase == SandboxPhase::Ready) {
            state.mark(id, MarkKind::Unready, since);
        }
        if let Some(sandbox) = state.sandboxes.get_mut(&id) {
            sandbox.phase = lacks.map_or(SandboxPhase::Booting, |lacks| SandboxPhase::Waiting { lacks, since });
        }
        drop(state);
        self.news.notify_waiters();
    }

    /// It cannot read a sandbox's record, or can again.
    pub fn quarantine(&self, id: RunId, held: bool) {
        let mut held_by = self.state();
        let state = &mut *held_by;
        if held {
            state.quarantined.extend(state.sandboxes.remove(&id).map(|sandbox| (id, sandbox)));
        } else {
            state.sandboxes.extend(state.quarantined.remove(&id).map(|sandbox| (id, sandbox)));
        }
    }

    /// How many sandboxes it ever made.
    #[must_use]
    pub fn created(&self) -> u64 {
        self.state().created
    }

    /// Every mark it ever made, also of journals it has lost.
    #[must_use]
    pub fn history(&self) -> Vec<AgentMark> {
        self.state().history.clone()
    }

    /// It says that it holds so much of a disk, or that it was down.
    pub fn mark_disk(&self, change: DiskChange) {
        let now = self.clock.now();
        self.state().mark_disk(change, now);
        self.news.notify_waiters();
    }

    /// How often it was asked how it is.
    #[must_use]
    pub fn infos(&self) -> u64 {
        self.infos.load(Ordering::SeqCst)
    }

    /// A guest dies, and boots again.
    pub fn crash(&self, id: RunId) {
        let mut state = self.state();
        let now = self.clock.now();
        let Some(sandbox) = state.sandboxes.get_mut(&id) else { return };
        let was_ready = sandbox.phase == SandboxPhase::Ready;
        sandbox.phase = SandboxPhase::Backoff { at: now };
        sandbox.restarts += 1;
        if was_ready {
            state.mark(id, MarkKind::Unready, now);
        }
        drop(state);
        self.boot(id);
        self.news.notify_waiters();
    }

    /// A guest that boots is ready.
    pub fn make_ready(&self, id: RunId) {
        self.state().ready(id, self.clock.now());
        self.news.notify_waiters();
    }

    /// A guest fails for good.
    pub fn fail(&self, id: RunId, reason: FailReason) {
        let mut state = self.state();
        let now = self.clock.now();
        let Some(sandbox) = state.sandboxes.get_mut(&id) else { return };
        let was_ready = sandbox.phase == SandboxPhase::Ready;
        sandbox.phase = SandboxPhase::Failed { reason };
        if was_ready {
            state.mark(id, MarkKind::Unready, now);
        }
        drop(state);
        self.news.notify_waiters();
    }

    /// The machine is made anew: nothing runs, and its journal is another.
    pub fn lose_disk(&self) {
        let mut state = self.state();
        state.sandboxes.clear();
        state.marks.clear();
        state.disks.clear();
        state.last_seq = 0;
        state.journal.push_str("-again");
        drop(state);
        self.news.notify_waiters();
    }

    /// Lets a guest boot: marks it, and makes it ready when its time has come.
    fn boot(&self, id: RunId) {
        let mut state = self.state();
        let now = self.clock.now();
        state.mark(id, MarkKind::Booting, now);
        match state.spec.boot {
            None => {}
            Some(Duration::ZERO) => state.ready(id, now),
            Some(boot) => {
                let (state, news, clock) = (Arc::clone(&self.state), Arc::clone(&self.news), Arc::clone(&self.clock));
                tokio::spawn(async move {
                    tokio::time::sleep(boot).await;
                    state.lock().unwrap_or_else(PoisonError::into_inner).ready(id, clock.now());
                    news.notify_waiters();
                });
            }
        }
    }

    /// Asks: with the misbehaviour that is due. What is asked may be done and
    /// its answer lost, be lost itself, or be done later than anybody waits.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl Fn(&Self) -> T + Clone + Send + 'static,
    ) -> Result<T, NodeError> {
        let slow = self.state().chaos.slow;
        if !slow.is_zero() {
            tokio::time::sleep(slow).await;
        }
        let outcome = {
            let mut state = self.state();
            let decided = match operation {
                CREATE => state.next_creation.take(),
                MAKE_VOLUME => state.next_volume.take(),
                _ => None,
            };
            if state.down { CallOutcome::NotConnected } else { decided.unwrap_or_else(|| state.draw()) }
        };
        match outcome {
            CallOutcome::Good => Ok(work(self)),
            CallOutcome::Slow(time) => {
                tokio::time::sleep(time).await;
                Ok(work(self))
            }
            CallOutcome::NotConnected => Err(not_connected(operation)),
            CallOutcome::QuestionLost => Err(lost(operation)),
            CallOutcome::AnswerLost => {
                work(self);
                Err(lost(operation))
            }
            CallOutcome::Late(late) => {
                let (node, work) = (self.clone(), work.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(late).await;
                    work(&node);
                });
                Err(lost(operation))
            }
        }
    }

    fn create_now(&self, id: RunId, spec: &SandboxSpec) -> Result<Sandbox, NodeError> {
        {
            let mut state = self.state();
            if let Some(code) = state.refuse {
                return Err(NodeError::Refused(Box::new(Fault::new(code, "the test said so"))));
            }
            if let Some(held) = state.sandboxes.get(&id) {
                return Ok(held.clone());
            }
            if spec.data == DataDisk::Kept && !state.kept.contains_key(&spec.pod) {
                return Err(NodeError::Refused(Box::new(Fault::new(Code::NoData, "nothing is kept of this POD"))));
            }
            let (cores, memory) = state.free();
            if spec.cores > cores || spec.memory_mib > memory {
                return Err(NodeError::Refused(Box::new(Fault::new(Code::NoCapacity, "the node is full"))));
            }
            if let Some(code) = state.refused_volume(id, spec) {
                return Err(NodeError::Refused(Box::new(Fault::new(code, "a volume cannot be had"))));
            }
            for wanted in &spec.volumes {
                if let Some(volume) = state.volumes.get_mut(&wanted.id) {
                    volume.sandbox = Some(id);
                }
            }
            state.created += 1;
            state.kept.remove(&spec.pod);
            state.sandboxes.insert(id, sandbox(id, spec, self.clock.now()));
        }
        self.boot(id);
        self.news.notify_waiters();
        self.state().sandboxes.get(&id).cloned().ok_or_else(|| lost(CREATE))
    }

    fn put_volume_now(&self, id: VolumeId, spec: VolumeSpec) -> Result<NodeVolume, NodeError> {
        let mut state = self.state();
        let no = |code| Err(NodeError::Refused(Box::new(Fault::new(code, "the volume cannot be made"))));
        let before = match state.volumes.get(&id) {
            None if spec.exists => return no(Code::NoVolume),
            held => held.map_or(0, |volume| volume.size_mib),
        };
        let room = state.disk_mib.unwrap_or_default().saturating_sub(state.promised_mib());
        if spec.size_mib.saturating_sub(before) > room {
            return no(Code::NoCapacity);
        }
        let volume = state.volumes.entry(id).or_insert(NodeVolume { id, size_mib: 0, bytes: 4096, sandbox: None });
        volume.size_mib = volume.size_mib.max(spec.size_mib);
        Ok(*volume)
    }

    /// Has it offer these runtimes, the strongest first.
    pub fn set_runtimes(&self, runtimes: &[RuntimeName]) {
        self.state().runtimes = runtimes.to_vec();
    }

    /// Gives it a disk of this size for volumes.
    pub fn set_disk(&self, mib: u64) {
        self.state().disk_mib = Some(mib);
    }

    /// The volumes that it holds.
    #[must_use]
    pub fn volumes(&self) -> Vec<NodeVolume> {
        self.state().volumes.values().copied().collect()
    }

    /// Copies of volumes are underway still, the next so many times that they are asked for.
    pub fn set_slow_copies(&self, times: u32) {
        self.state().slow_copies = times;
    }

    /// It holds no volume any more.
    pub fn lose_volumes(&self) {
        self.state().volumes.clear();
    }

    /// Its snapshots, and what they are of.
    #[must_use]
    pub fn snapshots(&self) -> Vec<(SnapshotId, VolumeId)> {
        self.state().snapshots.iter().map(|(id, of)| (*id, *of)).collect()
    }

    /// By which snapshot a volume was put back last, and by which order.
    #[must_use]
    pub fn restored(&self, volume: VolumeId) -> Option<(SnapshotId, u64)> {
        self.state().restored.get(&volume).copied()
    }

    /// A copy of a volume is asked for; whether it is made by now.
    fn copy_now(&self, volume: VolumeId) -> Result<CopyState, NodeError> {
        let mut state = self.state();
        let no = |code| Err(NodeError::Refused(Box::new(Fault::new(code, "the volume cannot be copied"))));
        match state.volumes.get(&volume) {
            None => return no(Code::NoVolume),
            Some(NodeVolume { sandbox: Some(_), .. }) => return no(Code::VolumeAttached),
            Some(_) => {}
        }
        if let Some(left) = state.slow_copies.checked_sub(1) {
            state.slow_copies = left;
            return Ok(CopyState::Copying);
        }
        Ok(CopyState::Done)
    }

    fn delete_now(&self, id: RunId, pod: PodId, data: DataPolicy) -> DeleteResponse {
        let mut state = self.state();
        let held = state.sandboxes.contains_key(&id);
        state.volumes.values_mut().filter(|volume| volume.sandbox == Some(id)).for_each(|volume| volume.sandbox = None);
        match data {
            DataPolicy::Keep if held => {
                let until = self.clock.now().plus(RETENTION_MS);
                state.kept.insert(pod, until);
            }
            DataPolicy::Keep => {}
            DataPolicy::Erase => {
                state.kept.remove(&pod);
            }
        }
        let kept = state.kept.get(&pod).map(|until| KeptData { until: Some(*until), bytes: KEPT_BYTES });
        if let Some(sandbox) = state.sandboxes.remove(&id) {
            let now = self.clock.now();
            if sandbox.phase == SandboxPhase::Ready {
                state.mark(id, MarkKind::Unready, now);
            }
            state.mark(id, MarkKind::Gone, now);
        }
        drop(state);
        self.news.notify_waiters();
        DeleteResponse { id, kept }
    }

    /// Waits until `done` finds something, or for `wait`, or for the node to go
    /// away.
    async fn until<T>(&self, wait: Duration, done: impl Fn(&FakeNodeState) -> Option<T>) -> Option<T> {
        let end = Instant::now() + wait;
        loop {
            let heard = self.news.notified();
            tokio::pin!(heard);
            heard.as_mut().enable();
            {
                let state = self.state();
                if state.down {
                    return None;
                }
                if let Some(found) = done(&state) {
                    return Some(found);
                }
            }
            if tokio::time::timeout_at(end, heard).await.is_err() {
                return None;
            }
        }
    }
}

fn not_connected(operation: &'static str) -> NodeError {
    NodeError::NotConnected { operation, source: io::ErrorKind::ConnectionRefused.into() }
}

fn lost(operation: &'static str) -> NodeError {
    NodeError::ConnectionLost { operation, source: "the test said so".into() }
}

#[async_trait]
impl Node for FakeNode {
    fn name(&self) -> &str {
        &self.name
    }

    async fn info(&self) -> Result<NodeInfo, NodeError> {
        self.infos.fetch_add(1, Ordering::SeqCst);
        if self.state().mute {
            std::future::pending::<()>().await;
        }
        self.ask("describe the node", |node| node.state().info(&node.name)).await
    }

    async fn create(&self, id: RunId, spec: &SandboxSpec, _traceparent: Option<&str>) -> Result<Sandbox, NodeError> {
        let spec = spec.clone();
        self.ask(CREATE, move |node| node.create_now(id, &spec)).await?
    }

    async fn get(&self, id: RunId) -> Result<Option<Sandbox>, NodeError> {
        self.ask("read the sandbox", move |node| node.state().sandboxes.get(&id).cloned()).await
    }

    async fn wait_ready(&self, id: RunId, timeout: Duration) -> Result<Option<Sandbox>, NodeError> {
        self.until(timeout, |state| match state.sandboxes.get(&id).map(|sandbox| sandbox.phase) {
            Some(SandboxPhase::Booting | SandboxPhase::Backoff { .. } | SandboxPhase::Waiting { .. }) => None,
            Some(SandboxPhase::Ready | SandboxPhase::Failed { .. } | SandboxPhase::Stopping) | None => Some(()),
        })
        .await;
        self.get(id).await
    }

    async fn delete(
        &self,
        id: RunId,
        pod: PodId,
        _grace: Duration,
        data: DataPolicy,
    ) -> Result<DeleteResponse, NodeError> {
        self.ask("delete the sandbox", move |node| node.delete_now(id, pod, data)).await
    }

    async fn erase(&self, pod: PodId) -> Result<(), NodeError> {
        self.ask("erase a POD's data", move |node| {
            node.state().kept.remove(&pod);
        })
        .await
    }

    async fn put_volume(&self, id: VolumeId, spec: &VolumeSpec) -> Result<NodeVolume, NodeError> {
        let spec = *spec;
        self.ask(MAKE_VOLUME, move |node| node.put_volume_now(id, spec)).await?
    }

    async fn volume(&self, id: VolumeId) -> Result<NodeVolume, NodeError> {
        let found = self.ask("look at the volume", move |node| node.state().volumes.get(&id).copied()).await?;
        found.ok_or_else(|| NodeError::Refused(Box::new(Fault::new(Code::NoVolume, "it is not here"))))
    }

    async fn erase_volume(&self, id: VolumeId) -> Result<(), NodeError> {
        self.ask("erase the volume", move |node| {
            node.state().volumes.remove(&id);
        })
        .await
    }

    async fn list(&self) -> Result<Sandboxes, NodeError> {
        self.ask("list the sandboxes", |node| {
            let state = node.state();
            let quarantined = state.quarantined.keys();
            let quarantined = quarantined.map(|id| Quarantined { id: *id, runs: true, cause: "the test".to_owned() });
            Sandboxes { sandboxes: state.sandboxes.values().cloned().collect(), quarantined: quarantined.collect() }
        })
        .await
    }

    async fn marks(&self, after: u64, wait: Duration) -> Result<MarksPage, NodeError> {
        let news = |state: &FakeNodeState| {
            let last = state.marks.last().map(|mark| mark.mark.seq).max(state.disks.last().map(|mark| mark.seq));
            last.is_some_and(|last| last > after).then_some(())
        };
        self.until(wait, news).await;
        self.ask("read the metering marks", move |node| {
            let mut state = node.state();
            // What is kept elsewhere is forgotten here.
            if after <= state.last_seq {
                state.marks.retain(|mark| mark.mark.seq > after);
                state.disks.retain(|mark| mark.seq > after);
            }
            let page = state.spec.page;
            let marks: Vec<_> = state.marks.iter().filter(|mark| mark.mark.seq > after).take(page).copied().collect();
            // Those that come before what the page leaves out.
            let end = marks.last().filter(|_| marks.len() == page).map_or(u64::MAX, |mark| mark.mark.seq);
            let disks = state.disks.iter().filter(|mark| mark.seq > after && mark.seq < end).copied().collect();
            MarksPage { journal: state.journal.clone(), marks, disks }
        })
        .await
    }

    async fn tunnel(&self, _id: RunId, _port: Option<u16>) -> Result<Box<dyn ByteStream>, NodeError> {
        Err(lost("reach the agent's port"))
    }

    async fn logs(&self, _id: RunId, _source: LogSource, _follow: bool) -> Result<NodeBody, NodeError> {
        Err(lost("read the logs"))
    }

    fn copies(&self) -> &dyn NodeCopies {
        self
    }

    fn images(&self) -> &dyn NodeImages {
        self
    }

    async fn content(
        &self,
        disk: OwnedDisk,
        call: ContentCall,
        holder: &str,
        request: Request<NodeBody>,
    ) -> Result<Response<NodeBody>, NodeError> {
        let (method, query) = (request.method().clone(), request.uri().query().unwrap_or_default().to_owned());
        let body = request.into_body().collect().await.map_err(|_| lost("work on the disk's files"))?.to_bytes();
        // What was asked comes back: the test looks at that.
        let said = format!("{method} {disk} {} {query} {holder} {}", call.as_str(), String::from_utf8_lossy(&body));
        self.ask("work on the disk's files", move |_| ()).await?;
        let said = http_body_util::Full::new(Bytes::from(said));
        Ok(Response::new(said.map_err(|never| match never {}).boxed_unsync()))
    }

    async fn forward(&self, _id: RunId, _target: &str, _: Request<NodeBody>) -> Result<Response<NodeBody>, NodeError> {
        Err(lost("pass the request to the guest"))
    }
}

#[async_trait]
impl NodeCopies for FakeNode {
    async fn make(&self, id: SnapshotId, spec: SnapshotSpec) -> Result<NodeSnapshot, NodeError> {
        self.ask("make the snapshot", move |node| {
            let state = node.copy_now(spec.volume)?;
            if state == CopyState::Done {
                node.state().snapshots.insert(id, spec.volume);
            }
            Ok(NodeSnapshot { id, state, size_mib: 100, bytes: 4096 })
        })
        .await?
    }

    async fn restore(&self, id: SnapshotId, spec: RestoreSpec) -> Result<CopyState, NodeError> {
        self.ask("put the volume back", move |node| {
            if !node.state().snapshots.contains_key(&id) {
                return Err(NodeError::Refused(Box::new(Fault::new(Code::NotFound, "there is no such snapshot"))));
            }
            let state = node.copy_now(spec.volume)?;
            if state == CopyState::Done {
                node.state().restored.insert(spec.volume, (id, spec.order));
            }
            Ok(state)
        })
        .await?
    }

    async fn erase_copy(&self, id: SnapshotId) -> Result<(), NodeError> {
        self.ask("erase the snapshot", move |node| {
            node.state().snapshots.remove(&id);
        })
        .await
    }
}
