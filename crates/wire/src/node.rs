//! The node API: what the control plane asks of `hypercore`.
//!
//! | call | does |
//! |---|---|
//! | `PUT /v1/sandboxes/{id}` [`SandboxSpec`] | makes it run; 202 [`Sandbox`]. The same spec again is 200 and changes nothing |
//! | `GET /v1/sandboxes` | all, as [`Sandboxes`] |
//! | `GET /v1/sandboxes/{id}` | one. `?wait_ms=` with `?until=ready` answers when it is ready or has failed |
//! | `DELETE /v1/sandboxes/{id}?grace_ms=` | gone when this answers 200 [`Gone`]; unknown ids are gone already |
//! | `GET /v1/sandboxes/{id}/logs?follow=&source=` | text lines; `source` is `agent` (default) or `console` |
//! | `GET /v1/sandboxes/{id}/tunnel` | `Upgrade: palatine-tunnel`: 101, then bytes to and from the agent's port |
//! | `POST /v1/sandboxes/{id}/pod/process.Process/*` | passed to `pod` with the node's own credential |
//! | `GET /v1/marks?after=&wait_ms=` | metering: [`Marks`], oldest first. Asking with `after=N` tells the node that 1..=N are kept |
//! | `GET /v1/node` | [`NodeInfo`] |
//! | `GET /health`, `/metrics`, `/openapi.json` | as everywhere |

use domain::{AgentId, FailReason, Generation, ImageDigest, Mark, UnixMillis};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Environment;

/// The protocol name a tunnel upgrades to.
pub const TUNNEL: &str = "palatine-tunnel";

/// The desired state of one sandbox.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxSpec {
    /// Rises with each change of what is desired.
    pub generation: Generation,
    /// What to boot; must be in the node's image store.
    pub image: ImageDigest,
    /// Virtual processors.
    pub cores: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// The agent's environment. Sealed on the node's disk, wiped at stop; in no
    /// answer.
    #[serde(default)]
    pub env: Environment,
}

/// What a node says of one sandbox. Never its environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sandbox {
    /// The agent it is for.
    pub id: AgentId,
    /// The generation it runs.
    pub generation: Generation,
    /// What it boots.
    pub image: ImageDigest,
    /// Virtual processors.
    pub cores: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// The TCP port that its agent serves.
    pub port: u16,
    /// Where it is.
    pub phase: Phase,
    /// What isolates it, with its accelerator.
    pub runtime: RuntimeName,
    /// How often it has been started again since it was made.
    pub restarts: u32,
    /// When the node was first told.
    pub created_at: UnixMillis,
    /// Milliseconds from the node being told to the first readiness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_after_ms: Option<u64>,
    /// The VMM's process id, for the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

/// Where a sandbox is, on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "name")]
pub enum Phase {
    /// The guest is starting.
    Booting,
    /// The agent answers.
    Ready,
    /// The guest died; it is started again at `at`.
    Backoff {
        /// When.
        at: UnixMillis,
    },
    /// It is being taken down.
    Stopping,
    /// It died too often, or could not be started. Waits to be deleted.
    Failed {
        /// Why.
        reason: FailReason,
    },
}

/// What really isolates a sandbox: never anything else in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuntimeName {
    /// QEMU's `microvm` machine on KVM.
    QemuKvm,
    /// QEMU's `microvm` machine, emulated.
    QemuTcg,
}

impl RuntimeName {
    /// The name as the wire writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QemuKvm => "qemu-kvm",
            Self::QemuTcg => "qemu-tcg",
        }
    }
}

/// All sandboxes of a node.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Sandboxes {
    /// In the order of their ids.
    pub sandboxes: Vec<Sandbox>,
}

/// What a deletion leaves.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Gone {
    /// The sandbox that is gone.
    pub id: AgentId,
}

/// A stretch of the node's metering journal.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Marks {
    /// The journal these numbers belong to: a node that lost its disk starts a
    /// new one.
    pub journal: String,
    /// The marks, in order.
    pub marks: Vec<AgentMark>,
}

/// One entry of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentMark {
    /// Whom it is about.
    pub agent: AgentId,
    /// What was seen.
    #[serde(flatten)]
    pub mark: Mark,
}

/// A node, as it describes itself.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// What it runs agents in.
    pub runtime: RuntimeName,
    /// Why that accelerator, in one sentence.
    pub runtime_reason: String,
    /// Physical processors.
    pub cores: u32,
    /// Virtual processors still to be given.
    pub free_cores: u32,
    /// Memory for guests, in MiB.
    pub memory_mib: u64,
    /// Memory still to be given, in MiB.
    pub free_memory_mib: u64,
    /// Live sandboxes.
    pub sandboxes: u32,
    /// The images it holds, by name.
    pub images: std::collections::BTreeMap<String, ImageDigest>,
}
