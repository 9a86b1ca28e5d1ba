//! The pod API: what `hypercore` asks of PID 1 in a guest.
//!
//! HTTP/1.1 on the guest's own link, [`PORT`]. Before the identity is delivered
//! nothing but `pod` runs in the guest and nobody but the node is on the link;
//! whoever delivers it sets the token that every later call must carry as
//! `Authorization: Bearer`.
//!
//! | call | does |
//! |---|---|
//! | `POST /v1/identity` [`GuestConfig`] | once: 200 [`PodStatus`]; again: 409 `wrong_state` |
//! | `GET /v1/status?wait_ms=&until=ready` | [`PodStatus`]; with `until`, once it is ready, has failed, or its agent has ended meanwhile |
//! | `GET /v1/logs?after=&follow=` | [`LogLine`]s, one JSON a line |
//! | `POST /v1/stop` [`StopRequest`] | stops the agent, syncs, powers off |
//! | `GET /v1/tunnel?port=` | `Upgrade: palatine-tunnel`: 101, then bytes to and from a port at the guest's loopback |
//! | `GET /metrics` | Prometheus text |
//! | `GET /health` | 204, without a token |
//! | `POST /process.Process/*` | E2B's process protocol: [`crate::process`] |
//! | `/v1/volumes/{name}/path`, `/dir`, `/file` | the files of one of its volumes: [`crate::content`] |
//!
//! A helper ([`HELPER`]) answers, to the node alone and without a token, since nothing of anybody's
//! runs in it:
//!
//! | call | does |
//! |---|---|
//! | `POST /v1/mount` [`HelperConfig`] | 204 once its disk is mounted; 409 `wrong_state` says why it is not |
//! | `/v1/content/path`, `/dir`, `/file` | the files of its disk: [`crate::content`] |
//! | `POST /v1/stop` [`StopRequest`] | syncs, powers off |
//! | `GET /health` | 204 |

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use domain::{MAX_MOUNTS, MountPath, PodId, RunId, UnixMillis, VolumeName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Environment, Secret};

/// The lowest signal of real time, as C libraries on Linux count: the two below it
/// are their own.
pub const SIGRTMIN: u8 = 34;
/// The highest.
pub const SIGRTMAX: u8 = 64;

/// Where `pod` listens: the port of E2B's in-sandbox daemon.
pub const PORT: u16 = 49_983;
/// Every guest's own address: each is alone in a network of its own.
pub const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 2);
/// The node's end of every guest's link, and the guest's only route.
pub const GATEWAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// The length of that network's prefix.
pub const PREFIX_LENGTH: u8 = 30;
/// The word on the kernel's command line that makes `pod` print
/// [`PROBE_ANSWER`] on the console and power off: how an accelerator is tried.
pub const PROBE: &str = "palatine.probe";
/// What `pod` prints then.
pub const PROBE_ANSWER: &str = "palatine-probe-ok";
/// The word on the kernel's command line that makes `pod` a helper: it has one disk, the first of
/// [`VOLUME_SERIALS`], and no image, and answers for the files of that disk
/// ([`crate::content`]).
pub const HELPER: &str = "palatine.helper";

/// The serials of a guest's volumes, in the order of [`GuestConfig::volumes`].
pub const VOLUME_SERIALS: [&str; MAX_MOUNTS] =
    ["volume0", "volume1", "volume2", "volume3", "volume4", "volume5", "volume6", "volume7"];

/// Who the guest is, delivered once per boot.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GuestConfig {
    /// The POD, as the agent itself calls it.
    pub pod_id: PodId,
    /// This start of it.
    pub run_id: RunId,
    /// What later calls must carry.
    pub token: Secret,
    /// The node's clock: nanoseconds since the Unix epoch.
    pub clock_unix_ns: u64,
    /// Base64 of 64 random bytes for the guest kernel's generator.
    pub entropy: Secret,
    /// Name servers, as addresses.
    pub resolvers: Vec<String>,
    /// What to run.
    pub run: ImageRunConfig,
    /// The holder's environment.
    pub env: Environment,
    /// The volumes that are attached, by their place in [`VOLUME_SERIALS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<GuestVolume>,
    /// W3C trace context of the spawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// `GET /v1/boot`: how far a guest is that cannot be told anything yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestBoot {
    /// How much of the check of its volumes is done, in per cent, while that goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<u8>,
}

/// What a helper is told once, before it answers for its disk's files.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HelperConfig {
    /// The node's clock: nanoseconds since the Unix epoch.
    pub clock_unix_ns: u64,
    /// Base64 of 64 random bytes for the guest kernel's generator.
    pub entropy: Secret,
}

/// A volume, and where it is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GuestVolume {
    /// What its owner calls it.
    pub name: VolumeName,
    /// Where it is mounted.
    pub path: MountPath,
}

/// What an image says about how it is run: the image contract, from the OCI
/// config and its `ai.palatine.*` labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageRunConfig {
    /// Entrypoint and arguments; never empty.
    pub argv: Vec<String>,
    /// The image's own environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: String,
    /// `user`, `uid`, `user:group` or `uid:gid` (empty means 1000:1000).
    pub user: String,
    /// The TCP port the agent serves.
    pub port: u16,
    /// The path that answers 2xx when the agent is usable.
    pub ready_path: String,
    /// The path that answers 2xx while it is alive.
    pub health_path: String,
    /// Where it keeps state; `/data` is linked or bound there.
    pub state_dir: String,
    /// The signal that asks it to end, such as `SIGTERM` or `SIGRTMIN+3`.
    pub stop_signal: String,
}

/// What `pod` says of itself and its agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PodStatus {
    /// Where it is.
    pub phase: PodPhase,
    /// How often the agent's process was started again in this boot.
    pub restarts: u32,
    /// How often it has ended in this boot, or could not be started.
    #[serde(default)]
    pub exits: u32,
    /// Microseconds from PID 1's first instruction to its listening for the
    /// identity (kernel modules and the network included).
    pub listening_after_us: u64,
    /// Microseconds spent in the steps of boot, by name, for the benchmark.
    pub timings_us: BTreeMap<String, u64>,
    /// The last exit of the agent's process, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
}

/// Where `pod` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PodPhase {
    /// Waits for its identity.
    Waiting,
    /// The agent's process is starting.
    Starting,
    /// The agent answers its ready path.
    Ready,
    /// The agent's process died and is started again after a pause.
    Backoff,
    /// The agent's process died too often.
    Failed,
    /// It is being taken down.
    Stopping,
}

/// One line of the agent's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Rises by one with each line of this boot.
    pub seq: u64,
    /// The guest's clock.
    pub at: UnixMillis,
    /// `stdout`, `stderr` or `pod`.
    pub stream: String,
    /// The line, without its end; cut at 16 KiB.
    pub line: String,
}

/// `POST /v1/stop`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct StopRequest {
    /// Milliseconds between the stop signal and `SIGKILL`.
    pub grace_ms: u64,
}
