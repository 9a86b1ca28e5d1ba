//! An agent, as the store knows it.

use std::fmt;

use domain::{AgentId, Ask, Generation, ImageDigest, Meter, State, Tier, TierName, UnixMillis, Usage, Wallet};

/// One run of the gateway: a random number made when the store is opened. A
/// reservation of an earlier epoch has lost the process that would complete it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({self})")
    }
}

/// How long a holder's balance has been below the agent's tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Below {
    /// Successful readings below, in a row.
    pub readings: u32,
    /// When the first of them was.
    pub since: Option<UnixMillis>,
}

/// One agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name for life.
    pub id: AgentId,
    /// Its holder.
    pub wallet: Wallet,
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
    /// The node that was told, from the moment before it is told.
    pub node: Option<String>,
    /// What isolates it, as the node said.
    pub runtime: Option<String>,
    /// How often the node started it again.
    pub restarts: u32,
    /// The run of the gateway that reserved it.
    pub epoch: Epoch,
    /// Its bill. Of an ended agent nothing runs any more.
    pub meter: Meter,
    /// Whether it was ever ready.
    pub was_ready: bool,
    /// Its holder's balance, when last seen below the tier.
    pub below: Below,
    /// The number of its last change of state.
    pub changes: u64,
    /// Until when its node keeps its disks, if it ended without its owner's word.
    pub data_kept_until: Option<UnixMillis>,
}

impl Record {
    /// What it asks of a node.
    #[must_use]
    pub fn ask(&self) -> Ask {
        Ask { cores: self.tier_config.cores, memory_mib: u64::from(self.tier_config.memory) }
    }

    /// What it used up to `now`.
    #[must_use]
    pub fn usage(&self, now: UnixMillis) -> Usage {
        Usage::of(&self.tier_config, self.meter.uptime_ms(now))
    }
}
