//! Who may come in: spent messages, reservations, idempotency.

use domain::{
    AllowanceExceeded, Generation, HolderAllowance, ImageDigest, Meter, PodId, ResourceRequest, RunId, State, Tier,
    TierName, UnixMillis, VolumeMount, Wallet, free_slot,
};

use crate::pod::KeptPod;
use crate::port::port;
use crate::record::{BelowTier, GatewayEpoch, PodRowId, RunChange, RunExpiry, RunRecord};
use crate::volumes::VolumeRefusal;

/// How long an idempotency key stands for its first answer.
pub(crate) const KEY_LIFE_MS: u64 = 24 * 60 * 60 * 1000;

/// A signed message that may be used once: the SHA-256 of wallet and text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayKey {
    /// Which message.
    pub key: [u8; 32],
    /// From when on nobody accepts it any more.
    pub expires_at: UnixMillis,
}

/// A caller's promise that a retry is the same request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The caller's key.
    pub key: String,
    /// The SHA-256 of what was asked.
    pub request: [u8; 32],
}

/// Which POD a run is to be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunPod {
    /// A new one.
    New {
        /// The id that its holder chose; else it is its first run's.
        name: Option<PodId>,
        /// Whether its holder's stop removes it.
        ephemeral: bool,
    },
    /// One of the holder's that does not run.
    Existing(PodId),
}

/// What a holder asks for: a run, of a new POD or of one it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunReservation {
    /// The message that asks; spent whatever the answer is. Who asks by an API key sends none.
    pub replay_key: Option<ReplayKey>,
    /// The new run's id.
    pub id: RunId,
    /// The POD it is of.
    pub pod: RunPod,
    /// Who asks.
    pub wallet: Wallet,
    /// The name it is spawned by.
    pub agent_type: String,
    /// What it boots.
    pub image: ImageDigest,
    /// Whether the holder brought that image, and did not name it by its type.
    pub brought: bool,
    /// The holder's tier.
    pub tier: TierName,
    /// What that tier gives; of cores and memory, the part that was asked for.
    pub tier_config: Tier,
    /// What all live runs of the holder may take together.
    pub allowance: HolderAllowance,
    /// Whether it answers without its bearer token.
    pub public: bool,
    /// The volumes that a new POD's runs have; of one that is there they are settled.
    pub volumes: Vec<VolumeMount>,
    /// When it is stopped, if its holder has said so.
    pub expiry: Option<RunExpiry>,
    /// The caller's key, if it sent one.
    pub idempotency: Option<IdempotencyKey>,
    /// Whether a new run may be started now. If not, only what was asked for before is
    /// answered.
    pub may_start: bool,
    /// The time.
    pub now: UnixMillis,
}

/// The answer to a [`RunReservation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A slot of the wallet's is taken for this run.
    Reserved(RunRecord),
    /// The key was used for the same request before: this is its run, as it
    /// is now.
    Repeated(RunRecord),
    /// The key was used for the same request before, and its POD was removed since.
    RepeatedRemoved,
    /// The wallet may have one live run, and has one, of this POD.
    Busy(PodId),
    /// This POD runs already, of a wallet that may have several.
    Running(PodId),
    /// Beside those that run, the wallet may have no further one that takes so much.
    AllowanceExceeded(AllowanceExceeded),
    /// No new run may be started now.
    Overloaded,
    /// The chosen id is in use, or was another holder's.
    IdTaken(PodId),
    /// The holder has no such POD.
    NoPod(PodId),
    /// What is kept of these PODs, the largest first, fills the tier's disk quota.
    QuotaFull(Vec<KeptPod>),
    /// The holder has as many PODs that do not run as it may: [`pod::MAX_STOPPED_PODS`].
    TooManyPods,
    /// The run cannot have its volumes.
    NoVolumes(VolumeRefusal),
    /// The key was used for another request.
    Mismatch,
    /// The message was used before.
    Replayed,
}

port! {
    /// Messages that work once, and reservations.
    AdmissionStore {
        /// Spends a message; [`StoreError::Replayed`](crate::StoreError::Replayed) if it
        /// was spent before.
        fn spend(&self, replay_key: ReplayKey) -> ();

        /// The same for what must work on a full disk too.
        fn spend_essential(&self, replay_key: ReplayKey) -> ();

        /// Spends a message and takes a slot of its wallet's, in one transaction. Whatever
        /// stands in the way, but for faults of the store, is an [`Admission`].
        fn reserve(&self, reservation: RunReservation) -> Admission;
    }
}

/// Where a run's POD is in the tables.
pub(crate) enum PodLookup {
    /// Nowhere yet.
    New { id: PodId, key: PodRowId },
    /// Where it was before its holder removed it.
    Again { id: PodId, key: PodRowId },
    /// There, with its last run.
    There(Box<RunRecord>),
}

impl PodLookup {
    /// The POD's rows, where it is there.
    pub(crate) fn there(&self) -> Option<PodRowId> {
        match self {
            Self::There(last) => Some(last.pod_key),
            Self::New { .. } | Self::Again { .. } => None,
        }
    }
}

impl RunReservation {
    /// The slot that the run gets beside the wallet's live ones, or why it gets none.
    pub(crate) fn slot(&self, live: &[RunRecord]) -> Result<u32, AllowanceExceeded> {
        let asked = ResourceRequest { cores: self.tier_config.cores, memory_mib: self.tier_config.memory.into() };
        free_slot(self.allowance, asked, live.iter().map(RunRecord::taken).collect())
    }

    /// What is said where there is no slot.
    pub(crate) fn exceeds(&self, exceeded: AllowanceExceeded) -> Admission {
        match exceeded.taken.first() {
            Some(run) if self.allowance.agents == 1 => Admission::Busy(run.pod),
            Some(_) | None => Admission::AllowanceExceeded(exceeded),
        }
    }

    /// What is said of a POD that runs already.
    pub(crate) const fn running(&self, pod: PodId) -> Admission {
        if self.allowance.agents == 1 { Admission::Busy(pod) } else { Admission::Running(pod) }
    }

    /// The run, as it will be written.
    pub(crate) fn record(&self, epoch: GatewayEpoch, place: &PodLookup, slot: u32) -> RunRecord {
        let (pod, pod_key, last) = match place {
            PodLookup::New { id, key } | PodLookup::Again { id, key } => (*id, *key, None),
            PodLookup::There(last) => (last.pod, last.pod_key, Some(last)),
        };
        RunRecord {
            id: self.id,
            pod,
            pod_key,
            created_at: last.map_or(self.now, |last| last.created_at),
            ephemeral: match self.pod {
                RunPod::New { ephemeral, .. } => ephemeral,
                RunPod::Existing(_) => last.is_some_and(|last| last.ephemeral),
            },
            brought: self.brought,
            wallet: self.wallet,
            slot,
            generation: Generation::FIRST,
            state: State::Reserved,
            agent_type: self.agent_type.clone(),
            image: self.image,
            tier: self.tier.clone(),
            tier_config: self.tier_config.as_kept(),
            public: self.public,
            spawned_at: self.now,
            ended_at: None,
            expiry: self.expiry,
            node: None,
            runtime: None,
            restarts: 0,
            epoch,
            meter: Meter::default(),
            was_ready: false,
            below: BelowTier::default(),
            changes: last.map_or(1, |last| last.changes + 1),
            data: last.and_then(|last| last.data),
            data_node: last.and_then(|last| last.data_node.clone()),
        }
    }

    /// What listeners are told of it.
    pub(crate) const fn change(&self, record: &RunRecord) -> RunChange {
        RunChange { seq: record.changes, at: self.now, state: State::Reserved }
    }
}
