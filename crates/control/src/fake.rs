//! A node in memory that keeps a real node's promises, and can be made to break
//! whatever a real one may break: it loses questions and answers, does things
//! late, is slow, goes away, loses its disk; its guests boot, die, fail.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use client::NodeError;
use domain::{FailReason, Mark, MarkKind, PodId, RunId, UnixMillis, WaitReason};
use tokio::sync::Notify;
use tokio::time::Instant;
use wire::fault::{Code, Fault};
use wire::node::{
    AgentMark, DataDisk, DataPolicy, DeleteResponse, KeptData, MarksPage, NodeInfo, Phase, Quarantined, RuntimeName,
    Sandbox, SandboxSpec, Sandboxes,
};

use crate::clock::Clock;
use crate::node::Node;

const CREATE: &str = "create the sandbox";
/// For how long disks are kept.
const RETENTION_MS: u64 = 30 * 86_400_000;
/// What each POD's data takes.
const KEPT_BYTES: u64 = 1024 * 1024;

/// A clock that follows tokio's, so that paused tests command it.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    start: Instant,
}

impl TokioClock {
    /// What this clock shows when it is made.
    pub const START: UnixMillis = UnixMillis(1_700_000_000_000);
}

impl Default for TokioClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> UnixMillis {
        Self::START.plus(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// How a fake node misbehaves. Chances are out of 1000.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chaos {
    /// The question never arrives.
    pub lose_question: u64,
    /// The answer never arrives.
    pub lose_answer: u64,
    /// The caller is told that nothing arrived, and it arrives `late` after.
    pub arrive_late: u64,
    /// How late.
    pub late: Duration,
    /// How long every call takes.
    pub slow: Duration,
}

/// What becomes of one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is done and answered.
    Good,
    /// It never arrives.
    QuestionLost,
    /// It is done, and its answer never arrives.
    AnswerLost,
    /// It is done and answered, but only after this long.
    Slow(Duration),
    /// Its caller is told that nothing arrived, and it is done this much later.
    Late(Duration),
}

/// What a fake node can hold and how its guests are.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Virtual processors.
    pub cores: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// How long a guest boots; zero is ready at once, `None` never.
    pub boot: Option<Duration>,
    /// Marks in one answer at most.
    pub page: usize,
}

impl Default for Build {
    fn default() -> Self {
        Self { cores: u32::MAX, memory_mib: u64::MAX, boot: Some(Duration::ZERO), page: 1000 }
    }
}

#[derive(Debug)]
struct Guts {
    build: Build,
    chaos: Chaos,
    down: bool,
    refuse: Option<Code>,
    next_creation: Option<Fate>,
    sandboxes: BTreeMap<RunId, Sandbox>,
    /// Disks that were set aside, and those that are held by no sandbox at all.
    kept: BTreeMap<PodId, UnixMillis>,
    quarantined: BTreeMap<RunId, Sandbox>,
    journal: String,
    /// What nobody has said to have kept.
    marks: Vec<AgentMark>,
    /// Every mark ever made, for tests to compare a bill with.
    history: Vec<AgentMark>,
    last_seq: u64,
    created: u64,
    random: u64,
}

/// The node: a handle that is cheap to clone.
#[derive(Clone)]
pub struct FakeNode {
    name: Arc<str>,
    clock: Arc<dyn Clock>,
    guts: Arc<Mutex<Guts>>,
    news: Arc<Notify>,
    calls: Arc<AtomicU64>,
}

impl std::fmt::Debug for FakeNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeNode").field("name", &self.name).finish_non_exhaustive()
    }
}

impl FakeNode {
    /// A node of this name; `seed` decides its chaos.
    #[must_use]
    pub fn new(name: &str, clock: Arc<dyn Clock>, build: Build, seed: u64) -> Self {
        let guts = Guts {
            build,
            chaos: Chaos::default(),
            down: false,
            refuse: None,
            next_creation: None,
            sandboxes: BTreeMap::new(),
            kept: BTreeMap::new(),
            quarantined: BTreeMap::new(),
            journal: "journal-1".to_owned(),
            marks: Vec::new(),
            history: Vec::new(),
            last_seq: 0,
            created: 0,
            random: seed,
        };
        let (guts, news) = (Arc::new(Mutex::new(guts)), Arc::new(Notify::new()));
        Self { name: name.into(), clock, guts, news, calls: Arc::default() }
    }

    fn guts(&self) -> MutexGuard<'_, Guts> {
        self.guts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it misbehave from now on.
    pub fn set_chaos(&self, chaos: Chaos) {
        self.guts().chaos = chaos;
    }

    /// Makes guests boot like this from now on.
    pub fn set_boot(&self, boot: Option<Duration>) {
        self.guts().build.boot = boot;
    }

    /// Makes the daemon go away, or come back. Its guests live on.
    pub fn set_down(&self, down: bool) {
        self.guts().down = down;
        self.news.notify_waiters();
    }

    /// Makes it refuse every creation with this code, or none.
    pub fn set_refusal(&self, code: Option<Code>) {
        self.guts().refuse = code;
    }

    /// Decides what becomes of the next creation.
    pub fn set_next_creation(&self, fate: Fate) {
        self.guts().next_creation = Some(fate);
    }

    /// What really runs here.
    #[must_use]
    pub fn running(&self) -> Vec<RunId> {
        self.guts().sandboxes.keys().copied().collect()
    }

    /// Whose disks it keeps.
    #[must_use]
    pub fn kept(&self) -> Vec<PodId> {
        self.guts().kept.keys().copied().collect()
    }

    /// It lacks something that a guest needs; with `None`, what it lacked is there.
    pub fn lack(&self, id: RunId, lacks: Option<WaitReason>) {
        let mut guts = self.guts();
        let since = self.clock.now();
        if guts.sandboxes.get(&id).is_some_and(|sandbox| sandbox.phase == Phase::Ready) {
            guts.mark(id, MarkKind::Unready, since);
        }
        if let Some(sandbox) = guts.sandboxes.get_mut(&id) {
            sandbox.phase = lacks.map_or(Phase::Booting, |lacks| Phase::Waiting { lacks, since });
        }
        drop(guts);
        self.news.notify_waiters();
    }

    /// It cannot read a sandbox's record, or can again.
    pub fn quarantine(&self, id: RunId, held: bool) {
        let mut held_by = self.guts();
        let guts = &mut *held_by;
        if held {
            guts.quarantined.extend(guts.sandboxes.remove(&id).map(|sandbox| (id, sandbox)));
        } else {
            guts.sandboxes.extend(guts.quarantined.remove(&id).map(|sandbox| (id, sandbox)));
        }
    }

    /// How many sandboxes it ever made.
    #[must_use]
    pub fn created(&self) -> u64 {
        self.guts().created
    }

    /// Every mark it ever made, also of journals it has lost.
    #[must_use]
    pub fn history(&self) -> Vec<AgentMark> {
        self.guts().history.clone()
    }

    /// How many questions it was asked.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// A guest dies, and boots again.
    pub fn crash(&self, id: RunId) {
        let mut guts = self.guts();
        let now = self.clock.now();
        let Some(sandbox) = guts.sandboxes.get_mut(&id) else { return };
        let was_ready = sandbox.phase == Phase::Ready;
        sandbox.phase = Phase::Backoff { at: now };
        sandbox.restarts += 1;
        if was_ready {
            guts.mark(id, MarkKind::Unready, now);
        }
        drop(guts);
        self.boot(id);
        self.news.notify_waiters();
    }

    /// A guest that boots is ready.
    pub fn make_ready(&self, id: RunId) {
        self.guts().ready(id, self.clock.now());
        self.news.notify_waiters();
    }

    /// A guest fails for good.
    pub fn fail(&self, id: RunId, reason: FailReason) {
        let mut guts = self.guts();
        let now = self.clock.now();
        let Some(sandbox) = guts.sandboxes.get_mut(&id) else { return };
        let was_ready = sandbox.phase == Phase::Ready;
        sandbox.phase = Phase::Failed { reason };
        if was_ready {
            guts.mark(id, MarkKind::Unready, now);
        }
        drop(guts);
        self.news.notify_waiters();
    }

    /// The machine is made anew: nothing runs, and its journal is another.
    pub fn lose_disk(&self) {
        let mut guts = self.guts();
        guts.sandboxes.clear();
        guts.marks.clear();
        guts.last_seq = 0;
        guts.journal.push_str("-again");
        drop(guts);
        self.news.notify_waiters();
    }

    /// Lets a guest boot: marks it, and makes it ready when its time has come.
    fn boot(&self, id: RunId) {
        let mut guts = self.guts();
        let now = self.clock.now();
        guts.mark(id, MarkKind::Booting, now);
        match guts.build.boot {
            None => {}
            Some(Duration::ZERO) => guts.ready(id, now),
            Some(boot) => {
                let (guts, news, clock) = (Arc::clone(&self.guts), Arc::clone(&self.news), Arc::clone(&self.clock));
                tokio::spawn(async move {
                    tokio::time::sleep(boot).await;
                    guts.lock().unwrap_or_else(PoisonError::into_inner).ready(id, clock.now());
                    news.notify_waiters();
                });
            }
        }
    }

    /// Asks: with the misbehaviour that is due. What is asked may be done and
    /// its answer lost, be lost itself, or be done later than anybody waits.
    async fn ask<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl Fn(&Self) -> T + Clone + Send + 'static,
    ) -> Result<T, NodeError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let slow = self.guts().chaos.slow;
        if !slow.is_zero() {
            tokio::time::sleep(slow).await;
        }
        let luck = {
            let mut guts = self.guts();
            let fate = if operation == CREATE { guts.next_creation.take() } else { None };
            if guts.down { Fate::QuestionLost } else { fate.unwrap_or_else(|| guts.luck()) }
        };
        match luck {
            Fate::Good => Ok(work(self)),
            Fate::Slow(time) => {
                tokio::time::sleep(time).await;
                Ok(work(self))
            }
            Fate::QuestionLost => Err(unavailable(operation)),
            Fate::AnswerLost => {
                work(self);
                Err(unavailable(operation))
            }
            Fate::Late(late) => {
                let (node, work) = (self.clone(), work.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(late).await;
                    work(&node);
                });
                Err(unavailable(operation))
            }
        }
    }

    fn create_now(&self, id: RunId, spec: &SandboxSpec) -> Result<Sandbox, NodeError> {
        {
            let mut guts = self.guts();
            if let Some(code) = guts.refuse {
                return Err(NodeError::Refused(Box::new(Fault::new(code, "the test said so"))));
            }
            if let Some(held) = guts.sandboxes.get(&id) {
                return Ok(held.clone());
            }
            if spec.data == DataDisk::Kept && !guts.kept.contains_key(&spec.pod) {
                return Err(NodeError::Refused(Box::new(Fault::new(Code::NoData, "nothing is kept of this POD"))));
            }
            let (cores, memory) = guts.free();
            if spec.cores > cores || spec.memory_mib > memory {
                return Err(NodeError::Refused(Box::new(Fault::new(Code::NoCapacity, "the node is full"))));
            }
            guts.created += 1;
            guts.kept.remove(&spec.pod);
            guts.sandboxes.insert(id, sandbox(id, spec, self.clock.now()));
        }
        self.boot(id);
        self.news.notify_waiters();
        self.guts().sandboxes.get(&id).cloned().ok_or_else(|| unavailable(CREATE))
    }

    fn delete_now(&self, id: RunId, pod: PodId, data: DataPolicy) -> DeleteResponse {
        let mut guts = self.guts();
        let held = guts.sandboxes.contains_key(&id);
        match data {
            DataPolicy::Keep if held => {
                let until = self.clock.now().plus(RETENTION_MS);
                guts.kept.insert(pod, until);
            }
            DataPolicy::Keep => {}
            DataPolicy::Erase => {
                guts.kept.remove(&pod);
            }
        }
        let kept = guts.kept.get(&pod).map(|until| KeptData { until: Some(*until), bytes: KEPT_BYTES });
        if let Some(sandbox) = guts.sandboxes.remove(&id) {
            let now = self.clock.now();
            if sandbox.phase == Phase::Ready {
                guts.mark(id, MarkKind::Unready, now);
            }
            guts.mark(id, MarkKind::Gone, now);
        }
        drop(guts);
        self.news.notify_waiters();
        DeleteResponse { id, kept }
    }

    /// Waits until `done` finds something, or for `wait`, or for the node to go
    /// away.
    async fn until<T>(&self, wait: Duration, done: impl Fn(&Guts) -> Option<T>) -> Option<T> {
        let end = Instant::now() + wait;
        loop {
            let heard = self.news.notified();
            tokio::pin!(heard);
            heard.as_mut().enable();
            {
                let guts = self.guts();
                if guts.down {
                    return None;
                }
                if let Some(found) = done(&guts) {
                    return Some(found);
                }
            }
            if tokio::time::timeout_at(end, heard).await.is_err() {
                return None;
            }
        }
    }
}

impl Guts {
    fn luck(&mut self) -> Fate {
        let Chaos { lose_question, lose_answer, arrive_late, late, .. } = self.chaos;
        if lose_question + lose_answer + arrive_late == 0 {
            return Fate::Good;
        }
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        match (z ^ (z >> 31)) % 1000 {
            roll if roll < lose_question => Fate::QuestionLost,
            roll if roll < lose_question + lose_answer => Fate::AnswerLost,
            roll if roll < lose_question + lose_answer + arrive_late => Fate::Late(late),
            _ => Fate::Good,
        }
    }

    fn free(&self) -> (u32, u64) {
        let held = self.sandboxes.values();
        held.fold((self.build.cores, self.build.memory_mib), |(cores, memory), one| {
            (cores.saturating_sub(one.cores), memory.saturating_sub(one.memory_mib))
        })
    }

    fn mark(&mut self, agent: RunId, kind: MarkKind, at: UnixMillis) {
        self.last_seq += 1;
        let mark = AgentMark { agent, mark: Mark { seq: self.last_seq, at, kind } };
        self.marks.push(mark);
        self.history.push(mark);
    }

    fn ready(&mut self, id: RunId, now: UnixMillis) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        if matches!(sandbox.phase, Phase::Booting | Phase::Backoff { .. }) {
            sandbox.phase = Phase::Ready;
            sandbox.ready_after_ms.get_or_insert(now.since(sandbox.created_at));
            self.mark(id, MarkKind::Ready, now);
        }
    }
}

fn sandbox(id: RunId, spec: &SandboxSpec, now: UnixMillis) -> Sandbox {
    Sandbox {
        id,
        pod: spec.pod,
        generation: spec.generation,
        image: spec.image,
        cores: spec.cores,
        memory_mib: spec.memory_mib,
        port: 8080,
        phase: Phase::Booting,
        runtime: RuntimeName::QemuTcg,
        restarts: 0,
        created_at: now,
        ready_after_ms: None,
        pid: None,
        cause: None,
    }
}

fn unavailable(operation: &'static str) -> NodeError {
    NodeError::Unavailable { operation, source: "the test said so".into() }
}

#[async_trait]
impl Node for FakeNode {
    fn name(&self) -> &str {
        &self.name
    }

    async fn info(&self) -> Result<NodeInfo, NodeError> {
        self.ask("describe the node", |node| {
            let guts = node.guts();
            let (free_cores, free_memory_mib) = guts.free();
            NodeInfo {
                name: node.name.to_string(),
                version: "fake".to_owned(),
                runtime: RuntimeName::QemuTcg,
                runtime_reason: "it is a fake".to_owned(),
                cores: guts.build.cores,
                free_cores,
                memory_mib: guts.build.memory_mib,
                free_memory_mib,
                most_memory_mib: None,
                disk: None,
                sandboxes: u32::try_from(guts.sandboxes.len()).unwrap_or(u32::MAX),
                images: BTreeMap::new(),
            }
        })
        .await
    }

    async fn create(&self, id: RunId, spec: &SandboxSpec, _traceparent: Option<&str>) -> Result<Sandbox, NodeError> {
        let spec = spec.clone();
        self.ask(CREATE, move |node| node.create_now(id, &spec)).await?
    }

    async fn get(&self, id: RunId) -> Result<Option<Sandbox>, NodeError> {
        self.ask("read the sandbox", move |node| node.guts().sandboxes.get(&id).cloned()).await
    }

    async fn wait_ready(&self, id: RunId, timeout: Duration) -> Result<Option<Sandbox>, NodeError> {
        self.until(timeout, |guts| match guts.sandboxes.get(&id).map(|sandbox| sandbox.phase) {
            Some(Phase::Booting | Phase::Backoff { .. } | Phase::Waiting { .. }) => None,
            Some(Phase::Ready | Phase::Failed { .. } | Phase::Stopping) | None => Some(()),
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
            node.guts().kept.remove(&pod);
        })
        .await
    }

    async fn list(&self) -> Result<Sandboxes, NodeError> {
        self.ask("list the sandboxes", |node| {
            let guts = node.guts();
            let quarantined = guts.quarantined.keys();
            let quarantined = quarantined.map(|id| Quarantined { id: *id, runs: true, cause: "the test".to_owned() });
            Sandboxes { sandboxes: guts.sandboxes.values().cloned().collect(), quarantined: quarantined.collect() }
        })
        .await
    }

    async fn marks(&self, after: u64, wait: Duration) -> Result<MarksPage, NodeError> {
        let news = |guts: &Guts| guts.marks.last().is_some_and(|mark| mark.mark.seq > after).then_some(());
        self.until(wait, news).await;
        self.ask("read the metering marks", move |node| {
            let mut guts = node.guts();
            // What is kept elsewhere is forgotten here.
            if after <= guts.last_seq {
                guts.marks.retain(|mark| mark.mark.seq > after);
            }
            let page = guts.build.page;
            let marks = guts.marks.iter().filter(|mark| mark.mark.seq > after).take(page).copied().collect();
            MarksPage { journal: guts.journal.clone(), marks }
        })
        .await
    }
}
