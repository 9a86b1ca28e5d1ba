//! A run and its POD, as the store knows them.

use std::fmt;

use domain::{
    Generation, ImageDigest, Meter, PodId, ResourceRequest, RunId, State, TakenSlot, Tier, TierName, UnixMillis, Usage,
    Wallet,
};

use crate::error::StoreError;

/// Changes of state that a slow subscriber may lag behind before it has to read them
/// from the store.
pub(crate) const CHANGE_QUEUE: usize = 4096;

/// One run of the gateway: a random number made when the store is opened. A
/// reservation of an earlier epoch has lost the process that would complete it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayEpoch(pub u64);

impl GatewayEpoch {
    pub(crate) fn random() -> Result<Self, StoreError> {
        getrandom::u64().map(Self).map_err(|_| StoreError::Value("no random numbers from the system"))
    }
}

impl fmt::Display for GatewayEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for GatewayEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({self})")
    }
}

/// How long a holder's balance has been below the agent's tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BelowTier {
    /// Successful readings below, in a row.
    pub readings: u32,
    /// When the first of them was.
    pub since: Option<UnixMillis>,
}

/// What the rows of a POD are called by: the number of its first run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodRowId(pub u64);

/// What a node keeps of a POD that does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptData {
    /// Until when; `None`: for as long as nobody erases it.
    pub until: Option<UnixMillis>,
    /// What it takes of the node's disk.
    pub bytes: u64,
}

impl KeptData {
    /// Whether the node may have erased it by now.
    #[must_use]
    pub fn is_over(&self, now: UnixMillis) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// When a run's time to live is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunExpiry {
    /// By the clock as it was when this was set: what is shown.
    pub at: UnixMillis,
    /// By the time that is counted ([`TimeStore::count_time`](crate::TimeStore::count_time)):
    /// what decides.
    pub counted_ms: u64,
}

/// One change of a POD's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunChange {
    /// Rises by one with each change of this POD.
    pub seq: u64,
    /// When it was written.
    pub at: UnixMillis,
    /// The state entered.
    pub state: State,
}

impl RunChange {
    /// What a POD's first change was: its first reservation.
    pub(crate) const fn first(at: UnixMillis) -> Self {
        Self { seq: 1, at, state: State::Reserved }
    }
}

/// One run of a POD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRecord {
    /// The run.
    pub id: RunId,
    /// The POD it is a run of.
    pub pod: PodId,
    /// The POD's rows.
    pub pod_key: PodRowId,
    /// When the POD was first asked for.
    pub created_at: UnixMillis,
    /// Whether the POD is to leave nothing behind when its holder stops it.
    pub ephemeral: bool,
    /// Whether its image was brought by its holder, and not named by its type.
    pub brought: bool,
    /// Its holder.
    pub wallet: Wallet,
    /// Which of its holder's slots it has while it is live, from 0.
    pub slot: u32,
    /// How often what is wanted of it was changed.
    pub generation: Generation,
    /// Where it is in its life.
    pub state: State,
    /// The name it was spawned by.
    pub agent_type: String,
    /// What it boots.
    pub image: ImageDigest,
    /// Its tier at spawn.
    pub tier: TierName,
    /// What that tier gave at spawn.
    pub tier_config: Tier,
    /// Whether it answers without its bearer token.
    pub public: bool,
    /// When it was asked for.
    pub spawned_at: UnixMillis,
    /// When its wallet was free again.
    pub ended_at: Option<UnixMillis>,
    /// When it is stopped, if its holder has said so.
    pub expiry: Option<RunExpiry>,
    /// The node that was told, from the moment before it is told.
    pub node: Option<String>,
    /// What isolates it, as the node said.
    pub runtime: Option<String>,
    /// How often the node started it again.
    pub restarts: u32,
    /// The run of the gateway that reserved it.
    pub epoch: GatewayEpoch,
    /// Its bill. Of an ended agent nothing runs any more.
    pub meter: Meter,
    /// Whether it was ever ready.
    pub was_ready: bool,
    /// Its holder's balance, when last seen below the tier.
    pub below: BelowTier,
    /// The number of its POD's last change of state.
    pub changes: u64,
    /// What a node keeps of the POD's data, as that node said when a run of it ended
    /// last; while a run is live, what was kept before it.
    pub data: Option<KeptData>,
    /// That node.
    pub data_node: Option<String>,
}

impl RunRecord {
    /// What it asks of a node.
    #[must_use]
    pub fn ask(&self) -> ResourceRequest {
        ResourceRequest { cores: self.tier_config.cores, memory_mib: u64::from(self.tier_config.memory) }
    }

    /// The slot that it has, and what it takes.
    pub(crate) fn taken(&self) -> TakenSlot {
        TakenSlot { slot: self.slot, pod: self.pod, takes: self.ask() }
    }

    /// Whether its time to live is over, once so much time was counted.
    #[must_use]
    pub fn is_expired(&self, counted_ms: u64) -> bool {
        self.expiry.is_some_and(|expiry| expiry.counted_ms <= counted_ms)
    }

    /// What it used up to `now`.
    #[must_use]
    pub fn usage(&self, now: UnixMillis) -> Usage {
        Usage::of(&self.tier_config, self.meter.uptime_ms(now))
    }
}
