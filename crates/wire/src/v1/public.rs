//! The public API: Romulus's routes and JSON, and what we add to them.
//!
//! Romulus's fields keep their names and types. What we add stands beside them.

use std::collections::BTreeMap;

use domain::{
    EndReason, FailReason, ImageDigest, NodeShortage, PodId, RunId, State, StateName, StopReason, Tier, TierName,
    UnixMillis, Usage, VolumeMount, Wallet, byte_hours,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::v1::node::GuestReport;
use crate::v1::vault::AgentVault;
use crate::{Environment, Secret};

/// Who signs: the wallet, in base58.
pub const X_WALLET: &str = "x-wallet";
/// The ed25519 signature, in base58.
pub const X_SIGNATURE: &str = "x-signature";
/// The signed instant: Unix milliseconds, 13 digits.
pub const X_TIMESTAMP: &str = "x-timestamp";
/// Which gateway the signature is for: the host of the URL that the client was
/// given, with its port unless that is the scheme's own.
pub const X_AUDIENCE: &str = "x-audience";
/// Makes a retry return the first answer.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The images that the project brings as recipes, by the names that `agent_type` says: an operator builds them.
pub const STARTER_IMAGES: [&str; 5] = ["nano", "base", "browser", "chat", "coding"];

/// `POST /spawn`: a new agent, or with `pod` the start of one that does not run.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SpawnRequest {
    /// The name of an image the operator offers. For an agent that is started again, the
    /// one it was spawned by where this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "echo")]
    pub agent_type: Option<String>,
    /// One of the caller's agents that does not run: it is started again, with its id,
    /// URL, vault, prices and data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodId>,
    /// The new agent's id, where its holder chooses it: a DNS label of at most 57
    /// characters. It is the holder's for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "agent-123")]
    pub name: Option<String>,
    /// Whether the new agent is removed when its holder stops it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<bool>,
    /// The agent's environment: API keys and the like. Handed to the guest once;
    /// never shown again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Environment>,
    /// Whether the agent answers anyone, without its bearer token. `false` for a new agent
    /// where this is absent; for one that is started again, as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<bool>,
    /// Fewer cores than the tier gives. Where the tier allows several agents at once, they
    /// have its cores and memory together. Where this is absent, an agent that is started
    /// again takes as many as before, at most what the tier gives now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
    /// Less memory than the tier gives, in MiB. Where this is absent, as with `cores`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u32>,
    /// The volumes that a new agent has for itself, and where: each start of it attaches them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<SpawnVolume>>,
    /// Seconds after which this start of the agent is stopped as its holder would stop it,
    /// counted from this request on; see [`Agent::expires_at`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 900)]
    pub timeout_seconds: Option<u64>,
    /// What the agent is to run in: a name such as `qemu-kvm` or `container-runc`, or what
    /// several begin with (`container`). Where this is absent an agent that is started again stays in
    /// what it ran in, and a new one has the strongest that works, of what the caller's tier allows; an
    /// agent with volumes needs a machine (`qemu`). What it runs in is `runtime` of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "qemu")]
    pub runtime: Option<String>,
    /// An image of the caller's own, by digest; refused unless the operator lets
    /// the caller's tier bring one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_ref: Option<String>,
}

/// A volume that a new agent is to have, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SpawnVolume {
    /// The volume's name.
    #[schema(example = "work")]
    pub name: String,
    /// An absolute path over nothing that the agent's system is made of.
    #[schema(example = "/workspace")]
    pub path: String,
}

impl From<VolumeMount> for SpawnVolume {
    fn from(mount: VolumeMount) -> Self {
        Self { name: mount.name.to_string(), path: mount.path.to_string() }
    }
}

/// The answer of `POST /spawn`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SpawnResponse {
    /// Always `true`: a failure is a [`crate::fault::Fault`].
    pub success: bool,
    /// The new agent, with its bearer token.
    pub agent: Agent,
    /// What its tier gives.
    pub tier_config: Tier,
}

/// An agent, as its holder sees it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Agent {
    /// Its name for life.
    pub id: PodId,
    /// Its last start.
    pub run: RunId,
    /// Where it answers.
    #[schema(example = "http://a1b2c3d4-e5f6-7890.localhost:8080")]
    pub url: String,
    /// The host of `url`: what Romulus calls its URL.
    #[serde(default)]
    #[schema(example = "a1b2c3d4-e5f6-7890.localhost:8080")]
    pub host: String,
    /// Where it answers clients that cannot resolve that host: its root under a
    /// path. Absent where the operator does not offer it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "http://127.0.0.1:8081/a1b2c3d4-e5f6-7890")]
    pub path_url: Option<String>,
    /// Its holder.
    pub wallet: Wallet,
    /// The tier at spawn.
    pub tier: TierName,
    /// When it was first asked for.
    pub created_at: UnixMillis,
    /// When its last start was asked for.
    pub spawned_at: UnixMillis,
    /// When it is stopped, while it runs and its holder has given it a time to live. What is
    /// counted is how long its gateways' machines were awake, so a clock that is set ends it
    /// neither earlier nor later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<UnixMillis>,
    /// Where it is in its life.
    pub state: StateName,
    /// Why it ended, once it has (or is about to); what its node lacks while it is
    /// `waiting`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Until when its data is kept, while it does not run. `DELETE /agents/{id}` erases
    /// it before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_kept_until: Option<UnixMillis>,
    /// What that data takes of its node's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_bytes: Option<u64>,
    /// Whether it is removed when its holder stops it.
    pub ephemeral: bool,
    /// The name it was spawned by.
    pub agent_type: String,
    /// What it boots.
    pub image: ImageDigest,
    /// What isolates it, as the node reports; absent until a node runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Whether it answers without its bearer token.
    pub public: bool,
    /// How often the node has had to start it again.
    pub restarts: u32,
    /// The bearer token of this start. Only in the answer of `POST /spawn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
}

/// Why an agent ended, or what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Reason {
    /// On purpose.
    Stopped(StopReason),
    /// Not on purpose.
    Failed(FailReason),
    /// Its node lacks this.
    Waiting(NodeShortage),
}

impl Reason {
    /// The reason of a state, where it has one.
    #[must_use]
    pub const fn of(state: State) -> Option<Self> {
        match state {
            State::Reserved | State::Placed | State::Booting | State::Ready => None,
            State::Waiting(lack) => Some(Self::Waiting(lack)),
            State::Stopping(EndReason::Stopped(reason)) | State::Stopped(reason) => Some(Self::Stopped(reason)),
            State::Stopping(EndReason::Failed(reason)) | State::Failed(reason) => Some(Self::Failed(reason)),
        }
    }
}

/// `POST /agents/{id}/timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeoutRequest {
    /// Seconds from now on after which the agent is stopped; `null`: it lives until it is
    /// stopped.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(example = 900, required = true)]
    pub timeout_seconds: Option<u64>,
}

/// The answer of `POST /agents/{id}/timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TimeoutResponse {
    /// Always `true`.
    pub success: bool,
    /// When the agent is stopped; absent if it lives until it is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<UnixMillis>,
}

/// The answer of `POST /stop/{id}` and of `DELETE /agents/{id}`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct StopResponse {
    /// Always `true`.
    pub success: bool,
    /// Milliseconds the agent was ready since it was started last.
    pub uptime_ms: u64,
    /// `stopped`; `stopping` (with 202) while the node cannot be reached.
    pub state: StateName,
    /// Until when its data is kept; absent where none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_kept_until: Option<UnixMillis>,
    /// What that data takes of its node's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_bytes: Option<u64>,
}

/// The answer of `GET /agents/{id}/token`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenResponse {
    /// What opens the agent, as `POST /spawn` has told it: good until the agent is stopped.
    pub token: Secret,
    /// The run that it opens.
    pub run: RunId,
}

/// The answer of `GET /status/{id}`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StatusResponse {
    /// The agent, without its token.
    pub agent: Agent,
    /// Milliseconds the agent was ready since it was started last.
    pub uptime_ms: u64,
    /// Its vault; absent while the holder is linked to no owner, or where the
    /// gateway has no chain configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<AgentVault>,
    /// What its guest says of it, while it has one: how its process ended, and what it wrote
    /// last. Absent where it says nothing, or where its node does not answer at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestReport>,
}

/// The answer of `GET /usage/{wallet}`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct UsageResponse {
    /// Whose usage.
    pub wallet: Wallet,
    /// Totals over all starts of all agents the wallet ever had, the running one included.
    pub stats: WalletUsage,
    /// The live agent, the newest of several; always `null` where totals are read without
    /// the wallet's own signature or key.
    pub active_agent: Option<Agent>,
    /// All live agents, newest first, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub active_agents: Vec<Agent>,
}

/// Totals of a wallet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WalletUsage {
    /// Milliseconds ready.
    pub total_uptime_ms: u64,
    /// Starts of agents that were ready at least once.
    pub spawns: u64,
    /// Ready seconds × cores, rounded down.
    pub core_seconds: u64,
    /// Ready seconds × GiB, rounded down.
    pub gib_seconds: u64,
    /// Bytes of disk × hours, rounded down: volumes by their sizes, and what is kept of agents
    /// that do not run by what it takes.
    #[serde(default)]
    pub disk_byte_hours: u64,
}

impl WalletUsage {
    /// The totals of this usage.
    #[must_use]
    pub fn new(usage: &Usage, spawns: u64) -> Self {
        Self {
            total_uptime_ms: usage.uptime_ms,
            spawns,
            core_seconds: usage.core_seconds(),
            gib_seconds: usage.gib_seconds(),
            disk_byte_hours: byte_hours(usage.disk_mib_ms),
        }
    }
}

/// The answer of `GET /tiers`: Romulus's table, by name.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TiersResponse {
    /// Thresholds in whole tokens, and what they give.
    #[schema(value_type = std::collections::HashMap<String, Tier>)]
    pub tiers: BTreeMap<String, Tier>,
    /// The token's mint.
    pub mint: String,
    /// The images `agent_type` may name.
    pub agent_types: Vec<String>,
}

/// The answer of `GET /agents`: one's own, newest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AgentsResponse {
    /// The agents, those that do not run included (at most 100).
    pub agents: Vec<Agent>,
}

/// One change of an agent's state: the data of an SSE event on
/// `GET /agents/{id}/events`, whose `event` is `state` and whose `id` is `seq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateChange {
    /// Rises by one with each change of this agent.
    pub seq: u64,
    /// When the gateway recorded it.
    pub at: UnixMillis,
    /// The state entered.
    pub state: StateName,
    /// Why, where it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

impl StateChange {
    /// The change of this number, to this state.
    #[must_use]
    pub const fn new(seq: u64, at: UnixMillis, state: State) -> Self {
        Self { seq, at, state: state.name(), reason: Reason::of(state) }
    }
}

/// What a gateway works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Component {
    /// The database.
    Store,
    /// The nodes that run agents.
    Node,
    /// Solana's JSON-RPC: the balances.
    Solana,
    /// The EVM chain's JSON-RPC: vaults and payments.
    Evm,
}

impl Component {
    /// The name, as it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Node => "node",
            Self::Solana => "solana",
            Self::Evm => "evm",
        }
    }
}

/// Whether a part does what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ComponentState {
    /// It did, when it was last asked.
    Ok,
    /// It did not.
    Failing,
}

/// How a part was when it was last asked.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ComponentStatus {
    /// Which.
    pub part: Component,
    /// How it was.
    pub state: ComponentState,
    /// Since when.
    pub since: UnixMillis,
    /// What it does not do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The answer of `GET /ready`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReadyResponse {
    /// `ok`, or what is missing.
    pub status: String,
    /// The program's version.
    pub version: String,
    /// What the gateway works with. While `evm` alone is failing, agents work and
    /// vaults and payments do not: that is said here, with status 200.
    pub parts: Vec<ComponentStatus>,
}

/// The answer of `GET /health`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HealthResponse {
    /// `ok`, or what is missing.
    pub status: String,
    /// The program's version.
    pub version: String,
}
