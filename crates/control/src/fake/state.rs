//! What a fake node holds.

use std::collections::BTreeMap;

use domain::{
    DiskChange, DiskMark, ImageDigest, ImageId, Mark, MarkKind, PodId, RunId, SnapshotId, UnixMillis, VolumeId, Wallet,
};
use wire::fault::Code;
use wire::v1::images::{ArchiveSpec, BuildRuntime, BuildSpec, HeldImage, ImportSpec};
use wire::v1::node::{
    AgentMark, ImageNeeds, NodeDisk, NodeInfo, NodeVolume, RuntimeName, Sandbox, SandboxPhase, SandboxSpec,
};

use crate::fake::behaviour::{CallOutcome, Chaos, FakeNodeSpec};

/// All that a fake node is and holds.
#[derive(Debug)]
pub(super) struct FakeNodeState {
    pub(super) spec: FakeNodeSpec,
    pub(super) chaos: Chaos,
    pub(super) down: bool,
    /// It does not say how it is, though it does all else.
    pub(super) mute: bool,
    pub(super) refuse: Option<Code>,
    pub(super) next_creation: Option<CallOutcome>,
    pub(super) next_volume: Option<CallOutcome>,
    pub(super) images: BTreeMap<String, ImageDigest>,
    pub(super) image_needs: BTreeMap<String, ImageNeeds>,
    /// What holders have brought.
    pub(super) uploads: BTreeMap<ImageId, FakeUpload>,
    pub(super) sandboxes: BTreeMap<RunId, Sandbox>,
    /// Disks that were set aside, and those that are held by no sandbox at all.
    pub(super) kept: BTreeMap<PodId, UnixMillis>,
    pub(super) quarantined: BTreeMap<RunId, Sandbox>,
    /// What it offers; of an older node nothing is said.
    pub(super) runtimes: Vec<RuntimeName>,
    /// Its disk for volumes, in MiB, where it has one.
    pub(super) disk_mib: Option<u64>,
    pub(super) volumes: BTreeMap<VolumeId, NodeVolume>,
    /// Snapshots that are whole, by what they are of; and how often copies are still underway when
    /// they are asked for.
    pub(super) snapshots: BTreeMap<SnapshotId, VolumeId>,
    pub(super) slow_copies: u32,
    /// Volumes that were put back, with the orders.
    pub(super) restored: BTreeMap<VolumeId, (SnapshotId, u64)>,
    pub(super) journal: String,
    /// What nobody has said to have kept.
    pub(super) marks: Vec<AgentMark>,
    /// The same, of disks.
    pub(super) disks: Vec<DiskMark>,
    /// Every mark ever made, for tests to compare a bill with.
    pub(super) history: Vec<AgentMark>,
    pub(super) last_seq: u64,
    pub(super) created: u64,
    pub(super) random: u64,
}

impl FakeNodeState {
    pub(super) fn new(spec: FakeNodeSpec, seed: u64) -> Self {
        Self {
            spec,
            chaos: Chaos::default(),
            down: false,
            mute: false,
            refuse: None,
            next_creation: None,
            next_volume: None,
            images: BTreeMap::new(),
            image_needs: BTreeMap::new(),
            uploads: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            kept: BTreeMap::new(),
            quarantined: BTreeMap::new(),
            disk_mib: None,
            runtimes: Vec::new(),
            volumes: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            slow_copies: 0,
            restored: BTreeMap::new(),
            journal: "journal-1".to_owned(),
            marks: Vec::new(),
            disks: Vec::new(),
            history: Vec::new(),
            last_seq: 0,
            created: 0,
            random: seed,
        }
    }

    pub(super) fn info(&self, name: &str) -> NodeInfo {
        let (free_cores, free_memory_mib) = self.free();
        NodeInfo {
            name: name.to_owned(),
            version: "fake".to_owned(),
            runtime: RuntimeName::QemuTcg,
            runtime_reason: "it is a fake".to_owned(),
            runtimes: self.runtimes.clone(),
            cores: self.spec.cores,
            free_cores,
            memory_mib: self.spec.memory_mib,
            free_memory_mib,
            most_memory_mib: None,
            disk: self.disk_mib.map(|mib| self.disk(mib)),
            sandboxes: u32::try_from(self.sandboxes.len()).unwrap_or(u32::MAX),
            images: self.images.clone(),
            image_needs: self.image_needs.clone(),
        }
    }

    pub(super) fn promised_mib(&self) -> u64 {
        self.volumes.values().map(|volume| volume.size_mib).sum()
    }

    fn disk(&self, size_mib: u64) -> NodeDisk {
        let promised_mib = self.promised_mib();
        NodeDisk {
            size_mib,
            free_mib: size_mib,
            least_free_mib: 0,
            promised_mib,
            promisable_mib: size_mib.saturating_sub(promised_mib),
            overcommit_percent: 100,
            sandbox_mib: 0,
            kept: 0,
            kept_mib: 0,
        }
    }

    /// The first volume of a run that is not here or that another has.
    pub(super) fn refused_volume(&self, id: RunId, spec: &SandboxSpec) -> Option<Code> {
        spec.volumes.iter().find_map(|wanted| match self.volumes.get(&wanted.id) {
            None => Some(Code::NoVolume),
            Some(volume) => volume.sandbox.is_some_and(|other| other != id).then_some(Code::VolumeAttached),
        })
    }

    pub(super) fn draw(&mut self) -> CallOutcome {
        let Chaos { lose_question, lose_answer, arrive_late, late, .. } = self.chaos;
        if lose_question + lose_answer + arrive_late == 0 {
            return CallOutcome::Good;
        }
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        match (z ^ (z >> 31)) % 1000 {
            roll if roll < lose_question => CallOutcome::QuestionLost,
            roll if roll < lose_question + lose_answer => CallOutcome::AnswerLost,
            roll if roll < lose_question + lose_answer + arrive_late => CallOutcome::Late(late),
            _ => CallOutcome::Good,
        }
    }

    pub(super) fn free(&self) -> (u32, u64) {
        let held = self.sandboxes.values();
        held.fold((self.spec.cores, self.spec.memory_mib), |(cores, memory), one| {
            (cores.saturating_sub(one.cores), memory.saturating_sub(one.memory_mib))
        })
    }

    pub(super) fn mark(&mut self, agent: RunId, kind: MarkKind, at: UnixMillis) {
        self.last_seq += 1;
        let mark = AgentMark { agent, mark: Mark { seq: self.last_seq, at, kind } };
        self.marks.push(mark);
        self.history.push(mark);
    }

    pub(super) fn mark_disk(&mut self, change: DiskChange, at: UnixMillis) {
        self.last_seq += 1;
        self.disks.push(DiskMark { seq: self.last_seq, at, change });
    }

    pub(super) fn ready(&mut self, id: RunId, now: UnixMillis) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        if matches!(sandbox.phase, SandboxPhase::Booting | SandboxPhase::Backoff { .. }) {
            sandbox.phase = SandboxPhase::Ready;
            sandbox.ready_after_ms.get_or_insert(now.since(sandbox.created_at));
            self.mark(id, MarkKind::Ready, now);
        }
    }
}

/// An upload, and what was made of it.
#[derive(Clone, Debug)]
pub(super) struct FakeUpload {
    pub(super) spec: ArchiveSpec,
    pub(super) bytes: Vec<u8>,
    pub(super) made: Option<HeldImage>,
    pub(super) build: Option<BuildSpec>,
    pub(super) holder: Option<Wallet>,
}

impl FakeUpload {
    pub(super) fn shown(&self) -> HeldImage {
        let receiving = HeldImage::Receiving { offset: self.bytes.len() as u64, size: self.spec.size };
        self.made.clone().unwrap_or(receiving)
    }

    /// Makes an image of it; an archive that begins with `bad` is none.
    pub(super) fn make(&mut self, spec: &ImportSpec) -> HeldImage {
        if self.made.is_none() {
            self.build.clone_from(&spec.build);
            self.holder = spec.holder;
            let runtime = spec.build.as_ref().map(|_| BuildRuntime::ContainerBubblewrap);
            let failed = |error: &str| HeldImage::Failed { code: Code::InvalidImage, error: error.to_owned() };
            self.made = Some(if self.bytes.starts_with(b"bad") {
                failed("it is no image")
            } else if self.spec.size > spec.max_mib << 20 {
                failed("it is too large")
            } else if self.bytes.starts_with(b"slow") {
                HeldImage::Importing { step: "unpack".to_owned(), runtime }
            } else {
                self.held(self.spec.size)
            });
        }
        self.shown()
    }

    /// What is worked on is done.
    pub(super) fn finish(&mut self) {
        if let Some(HeldImage::Importing { .. }) = self.made {
            self.made = Some(self.held(2 * self.spec.size));
        }
    }

    fn held(&self, bytes: u64) -> HeldImage {
        let digest = ImageDigest(self.spec.sha256.0);
        let built_in = self.build.as_ref().map(|_| BuildRuntime::ContainerBubblewrap);
        HeldImage::Held { digest, bytes, needs: ImageNeeds::default(), built_in }
    }
}

/// A sandbox that was just made.
pub(super) fn sandbox(id: RunId, spec: &SandboxSpec, now: UnixMillis) -> Sandbox {
    Sandbox {
        id,
        pod: spec.pod,
        generation: spec.generation,
        image: spec.image,
        cores: spec.cores,
        memory_mib: spec.memory_mib,
        port: 8080,
        phase: SandboxPhase::Booting,
        runtime: spec.runtime.unwrap_or(RuntimeName::QemuTcg),
        restarts: 0,
        created_at: now,
        ready_after_ms: None,
        pid: None,
        cause: None,
        guest: None,
    }
}
