//! The `[node]` section.

use std::path::PathBuf;
use std::time::Duration;

use domain::{Backoff, BoundedSetting, OutOfBounds, RuntimeKind, UnixMillis, check_bounds};
use sandbox::drivers::container::{ContainerSettings, OciRuntime};
use sandbox::drivers::qemu::AcceleratorChoice;
use serde::{Deserialize, Serialize};
use wire::v1::node::{KeptCause, Retention};

use crate::policy::RestartPolicy;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// What becomes of the guests when the daemon is asked to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShutdownPolicy {
    /// They go on; the next daemon adopts them.
    #[default]
    Leave,
    /// They are stopped; the next daemon starts them again.
    Stop,
}

/// The node daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What the node is called, in answers and logs. Default: the machine's name.
    pub name: String,
    /// Where the node keeps its ledger, its journal and the guests' disks. Default
    /// `/var/lib/palatine/node`.
    pub state: PathBuf,
    /// The Unix socket of its API, with mode 0660. Default
    /// `/run/palatine/hypercore.sock`.
    pub socket: PathBuf,
    /// The group that may use the socket. Default: root's alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The program that is PID 1 in guests, linked statically. Default
    /// `/usr/lib/palatine/pod`.
    pub pod: PathBuf,
    /// What agents may run in, by name: `qemu`, a machine of their own, on KVM or emulated as
    /// `accelerator` says; `container-gvisor`, `container-runc` and `container-crun`, containers
    /// in user namespaces of their own, whose kernel is gVisor's or the node's. Containers are
    /// given only to those who may have them (`[tiers.<name>] runtimes`); whoever asks for nothing
    /// gets the strongest that works. Default `["qemu"]`.
    pub runtimes: Vec<RuntimeKind>,
    /// The program `runsc` of gVisor, which no distribution's package has: `container-gvisor`
    /// needs it. Default: the one that is found on the `PATH`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runsc: Option<PathBuf>,
    /// The user of the node who is root in the first container; each has 65536 of its own, also among the nodes of one
    /// machine, for 4096 containers at most. Default 1610612736.
    pub first_container_uid: u32,
    /// `auto`: KVM where a probe guest boots on it, else emulation. `kvm`: KVM or the
    /// node does not start. `tcg`: emulation. Default `auto`.
    pub accelerator: AcceleratorChoice,
    /// Milliseconds the probe guest may take. Default 5000.
    pub probe_deadline_ms: u64,
    /// Virtual processors given for each physical one. Default 4.
    pub vcpus_per_core: u32,
    /// Memory for guests and what runs them, in MiB; 0 means all but 1024 MiB of the
    /// machine's. Default 0.
    pub memory_mib: u64,
    /// Percent of that memory that is given away: more than 100 overcommits, and a
    /// guest may then be killed for want of memory. Default 100.
    pub memory_percent: u32,
    /// What the VMM of an emulated guest (`tcg`) keeps of translated code, in MiB, from 16 to
    /// 2047; promised to each guest beside its memory. More makes large programs, such as
    /// browsers, faster. Default 64.
    pub translation_cache_mib: u64,
    /// Size of each agent's writable layer, in MiB; takes only the space that is used.
    /// Default 4096.
    pub layer_mib: u64,
    /// Size of each agent's `/data`, likewise. Default 4096.
    pub data_mib: u64,
    /// MiB per second that each of an agent's cores may read from the disk of `state`,
    /// and as many that it may write; 0: as many as the disk gives. Larger tiers have
    /// larger shares of a busy disk in any case. Default 0.
    pub disk_mib_per_second: u64,
    /// Disk space under `state` that must stay free, in MiB: below it nothing is
    /// created, and agents wait. Default 1024.
    pub disk_free_mib: u64,
    /// Percent of the room for agents' disks that is promised at most: what is free
    /// and what those disks take already, less `disk_free_mib`. Above 100 more is
    /// promised than there is, and an agent waits when the disk is full. Default 200.
    pub disk_percent: u32,
    /// Days for which the data of a POD is kept after a run of it has ended. Default 30, at
    /// least 1.
    pub retention_days: u64,
    /// The first user id for VMMs: each sandbox has one of its own, also among the nodes
    /// of one machine. Default 1879048192, the start of a range that Linux distributions
    /// leave alone.
    pub first_uid: u32,
    /// Milliseconds from a guest's start to its readiness, or it is started again, after two
    /// thirds of them, and 30 s at most, if its `pod` has not spoken yet; as many within ten
    /// minutes that it may be unready later on. So much less than the gateway's
    /// `spawn_timeout_ms` that a guest that hangs at boot can be started once more within it.
    /// Default 45000.
    pub boot_deadline_ms: u64,
    /// Milliseconds between two looks at an agent. Default 2000.
    pub health_period_ms: u64,
    /// Looks in a row that may fail before the guest is started again. Default 5.
    pub health_failures: u32,
    /// Starts after a death, at most, within `restart_window_s`; then it has failed.
    /// Default 5.
    pub restarts: u32,
    /// The window, in seconds. Default 600.
    pub restart_window_s: u64,
    /// Milliseconds before the first of them; doubled each time. Default 500.
    pub backoff_first_ms: u64,
    /// Milliseconds before any of them at most. Default 30000.
    pub backoff_longest_ms: u64,
    /// Milliseconds an agent may take to end when it is asked, at most. Default 30000.
    pub grace_longest_ms: u64,
    /// Milliseconds a guest may take to switch itself off after that. Default 5000.
    pub power_off_ms: u64,
    /// What is kept of an agent's output, in KiB. Default 8192.
    pub agent_log_kib: u64,
    /// What is kept of a guest's console, in KiB. Default 512.
    pub console_log_kib: u64,
    /// Connections to one agent's port at the same time, at most. Default 256.
    pub streams: u32,
    /// Commands in one agent and readers of its logs at the same time, at most: its
    /// holder's own. Default 48.
    pub calls: u32,
    /// Metering marks that nobody has fetched, at most: then nothing is created.
    /// Default 100000.
    pub marks: usize,
    /// `leave`: guests outlive the daemon and are adopted by the next. `stop`: they are
    /// stopped with it and started again by the next. Default `leave`.
    pub on_shutdown: ShutdownPolicy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: machine_name(),
            state: "/var/lib/palatine/node".into(),
            socket: "/run/palatine/hypercore.sock".into(),
            group: None,
            pod: "/usr/lib/palatine/pod".into(),
            runtimes: vec![RuntimeKind::Qemu],
            runsc: None,
            first_container_uid: 1_610_612_736,
            accelerator: AcceleratorChoice::Auto,
            probe_deadline_ms: 5_000,
            vcpus_per_core: 4,
            memory_mib: 0,
            memory_percent: 100,
            translation_cache_mib: 64,
            layer_mib: 4_096,
            data_mib: 4_096,
            disk_mib_per_second: 0,
            disk_free_mib: 1_024,
            disk_percent: 200,
            retention_days: 30,
            first_uid: 1_879_048_192,
            boot_deadline_ms: 45_000,
            health_period_ms: 2_000,
            health_failures: 5,
            restarts: 5,
            restart_window_s: 600,
            backoff_first_ms: 500,
            backoff_longest_ms: 30_000,
            grace_longest_ms: 30_000,
            power_off_ms: 5_000,
            agent_log_kib: 8_192,
            console_log_kib: 512,
            streams: 256,
            calls: 48,
            marks: 100_000,
            on_shutdown: ShutdownPolicy::Leave,
        }
    }
}

/// Why a `[node]` section is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A number out of its bounds.
    #[error(transparent)]
    Bounds(#[from] OutOfBounds),
    /// A path that depends on where the program was started.
    #[error("node.{0} must be an absolute path")]
    Relative(&'static str),
    /// A range of users that holds others.
    #[error("node.first_uid must be at least {least} and leave room for 65536 more", least = Config::MIN_UID)]
    Uid,
    /// The same for containers.
    #[error(
        "node.first_container_uid must be at least {least}, leave room for 65536 users of 4096 containers, and not \
         meet the users from node.first_uid on",
        least = Config::MIN_UID
    )]
    ContainerUid,
    /// Nothing to run agents in, or the same twice.
    #[error(
        "node.runtimes must name at least one of qemu, container-gvisor, container-runc and container-crun, and none of them twice"
    )]
    Runtimes,
    /// A name of another shape.
    #[error("node.name must have 1 to 64 characters of a-z, A-Z, 0-9, '.', '-' and '_'")]
    Name,
}

impl Config {
    /// The smallest disk.
    pub const MIN_DISK_MIB: u64 = 16;
    /// Below are the machine's own users.
    pub const MIN_UID: u32 = 65_536;
    /// Users of all containers together.
    const CONTAINER_USERS: u32 = ContainerSettings::USERS * ContainerSettings::SLOTS as u32;
    /// Memory that is left to the machine.
    pub(crate) const MACHINE_MIB: u64 = 1_024;

    /// Checks the section.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        check_bounds("node", self.bounds())?;
        let paths = [("state", &self.state), ("socket", &self.socket), ("pod", &self.pod)];
        for (key, path) in paths.into_iter().chain(self.runsc.as_ref().map(|runsc| ("runsc", runsc))) {
            if !path.is_absolute() {
                return Err(ConfigError::Relative(key));
            }
        }
        let named = (1..=64).contains(&self.name.len())
            && self.name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if !named {
            return Err(ConfigError::Name);
        }
        let room = self.first_uid.checked_add(u32::from(u16::MAX) + 1).is_some();
        if self.first_uid < Self::MIN_UID || !room {
            return Err(ConfigError::Uid);
        }
        self.check_runtimes()
    }

    fn check_runtimes(&self) -> Result<(), ConfigError> {
        let twice = self.runtimes.iter().enumerate().any(|(at, one)| self.runtimes[..at].contains(one));
        if self.runtimes.is_empty() || twice {
            return Err(ConfigError::Runtimes);
        }
        let (first, users) = (self.first_container_uid, self.first_uid..=self.first_uid + u32::from(u16::MAX));
        let last = first.checked_add(Self::CONTAINER_USERS - 1).ok_or(ConfigError::ContainerUid)?;
        let apart = last < *users.start() || first > *users.end();
        if first < Self::MIN_UID || !apart { Err(ConfigError::ContainerUid) } else { Ok(()) }
    }

    /// The containers that are offered, the strongest first.
    #[must_use]
    pub fn oci_runtimes(&self) -> Vec<OciRuntime> {
        RuntimeKind::ALL.into_iter().filter(|kind| self.runtimes.contains(kind)).filter_map(OciRuntime::of).collect()
    }

    fn bounds(&self) -> [BoundedSetting; 20] {
        [
            // Above that QEMU takes what it likes.
            ("translation_cache_mib", self.translation_cache_mib, 16..=2_047),
            // A disk on which a filesystem fits.
            ("layer_mib", self.layer_mib, Self::MIN_DISK_MIB..=u64::MAX),
            ("data_mib", self.data_mib, Self::MIN_DISK_MIB..=u64::MAX),
            ("probe_deadline_ms", self.probe_deadline_ms, 1..=u64::MAX),
            ("vcpus_per_core", self.vcpus_per_core.into(), 1..=u64::MAX),
            ("memory_percent", self.memory_percent.into(), 1..=u64::MAX),
            ("disk_percent", self.disk_percent.into(), 1..=u64::MAX),
            ("retention_days", self.retention_days, 1..=u64::MAX),
            ("boot_deadline_ms", self.boot_deadline_ms, 1..=u64::MAX),
            ("health_period_ms", self.health_period_ms, 1..=u64::MAX),
            ("health_failures", self.health_failures.into(), 1..=u64::MAX),
            ("restart_window_s", self.restart_window_s, 1..=u64::MAX),
            ("backoff_first_ms", self.backoff_first_ms, 1..=u64::MAX),
            ("backoff_longest_ms", self.backoff_longest_ms, 1..=u64::MAX),
            ("power_off_ms", self.power_off_ms, 1..=u64::MAX),
            ("agent_log_kib", self.agent_log_kib, 1..=u64::MAX),
            ("console_log_kib", self.console_log_kib, 1..=u64::MAX),
            ("streams", self.streams.into(), 1..=u64::MAX),
            ("calls", self.calls.into(), 1..=u64::MAX),
            ("marks", self.marks as u64, 1..=u64::MAX),
        ]
    }

    /// What one agent's disks are promised.
    pub(crate) const fn agent_disk_mib(&self) -> u64 {
        self.layer_mib.saturating_add(self.data_mib)
    }

    /// For how long disks are kept that are set aside now.
    pub(crate) fn retention(&self, now: UnixMillis, cause: KeptCause) -> Retention {
        Retention { since: now, until: now.plus(self.retention_ms()), cause }
    }

    pub(crate) const fn retention_ms(&self) -> u64 {
        self.retention_days.saturating_mul(DAY_MS)
    }

    pub(crate) const fn backoff(&self) -> Backoff {
        let (first, longest) = (self.backoff_first_ms, self.backoff_longest_ms);
        Backoff { first: Duration::from_millis(first), longest: Duration::from_millis(longest) }
    }

    pub(crate) const fn restart_policy(&self) -> RestartPolicy {
        RestartPolicy {
            most: self.restarts,
            window_ms: self.restart_window_s.saturating_mul(1_000),
            backoff: self.backoff(),
        }
    }
}

fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass() {
        let config = Config { name: "node-1".to_owned(), ..Config::default() };
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn a_value_out_of_bounds_is_refused_by_its_key() {
        let bounds = |key, given, allowed| OutOfBounds { section: "node", key, given, allowed }.into();
        let cases = [
            (Config { streams: 0, ..Config::default() }, bounds("streams", 0, 1..=u64::MAX)),
            (
                Config { translation_cache_mib: 4_096, ..Config::default() },
                bounds("translation_cache_mib", 4_096, 16..=2_047),
            ),
            (Config { data_mib: 1, ..Config::default() }, bounds("data_mib", 1, 16..=u64::MAX)),
            (Config { socket: "node.sock".into(), ..Config::default() }, ConfigError::Relative("socket")),
            (Config { first_uid: 1_000, ..Config::default() }, ConfigError::Uid),
            (Config { first_uid: u32::MAX, ..Config::default() }, ConfigError::Uid),
            (Config { name: "a b".to_owned(), ..Config::default() }, ConfigError::Name),
            (Config { runtimes: Vec::new(), ..Config::default() }, ConfigError::Runtimes),
            (Config { runtimes: vec![RuntimeKind::ContainerRunc; 2], ..Config::default() }, ConfigError::Runtimes),
            (Config { first_container_uid: 1_000, ..Config::default() }, ConfigError::ContainerUid),
            (Config { first_container_uid: u32::MAX, ..Config::default() }, ConfigError::ContainerUid),
            (Config { first_container_uid: 1_879_048_192, ..Config::default() }, ConfigError::ContainerUid),
        ];
        for (config, error) in cases {
            assert_eq!(config.check(), Err(error));
        }
    }
}
