//! `[images]`: where images are kept, and what is taken in.

use std::path::PathBuf;

use domain::{OutOfBounds, check_bounds};
use serde::{Deserialize, Serialize};
use wire::v1::images::BuildKind;

use crate::recipe::StepLimits;

/// The section `[images]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where images, disks and kernels are kept. Default `/var/lib/palatine/images`.
    pub store: PathBuf,
    /// The guest kernel: a directory that holds `boot/vmlinuz-*` and
    /// `lib/modules/*` (such as `/`), or kernel packages (`*.deb`). Default: none;
    /// the distribution's package for virtual machines is downloaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Mebibytes an image may have when unpacked. Default 16384.
    pub max_image_mib: u64,
    /// Files, directories and links an image may have. Default 1000000.
    pub max_entries: u64,
    /// Layers an image may have. Default 128.
    pub max_layers: usize,
    /// Milliseconds a registry may take for one answer. Default 30000.
    pub registry_timeout_ms: u64,
    /// Seconds a whole pull may take. Default 1800.
    pub pull_timeout_s: u64,
    /// The socket of the operator's own containerd, of which `palatine image import --containerd`
    /// takes images; whoever may use it is root on this machine. Default
    /// `/run/containerd/containerd.sock`.
    pub containerd: PathBuf,
    /// Public keys, one of which must have signed an image with cosign: files in PEM, ECDSA on
    /// P-256, as `cosign.pub` is. Default none.
    pub trusted_keys: Vec<PathBuf>,
    /// Take in only images that one of `trusted_keys` has signed, for everybody and for holders
    /// alike; what a recipe here builds needs no signature. Default `false`.
    pub require_signature: bool,
    /// What holders' builds may run in on this node; the strongest that works is taken, and named in the
    /// answer. `qemu`: a machine of its own without a network, the same wall as an agent's; it takes its
    /// share of `node.memory_mib` meanwhile. `container-bubblewrap`: namespaces of their own without
    /// rights, network or more of the host than its programs, whose kernel is the node's: a fault in that
    /// is a way out. Default `["qemu"]`; none, and holders bring what was built elsewhere.
    pub build_runtimes: Vec<BuildKind>,
    /// Holders' builds at once. Default 1.
    pub builds_at_once: usize,
    /// Seconds that one of them may take. Default 1800.
    pub build_timeout_s: u64,
    /// Virtual processors of a build's machine. Default 2.
    pub build_cores: u32,
    /// Mebibytes of memory that one may use; in no machine, beside what `node.memory_mib` gives
    /// away. Default 2048.
    pub build_memory_mib: u64,
    /// Processes and threads that one may have at once. Default 1024.
    pub build_processes: u64,
    /// Mebibytes that one may write, what it builds on and its result included. Default 8192.
    pub build_disk_mib: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            store: "/var/lib/palatine/images".into(),
            kernel: None,
            max_image_mib: 16_384,
            max_entries: 1_000_000,
            max_layers: 128,
            registry_timeout_ms: 30_000,
            pull_timeout_s: 1_800,
            containerd: "/run/containerd/containerd.sock".into(),
            trusted_keys: Vec::new(),
            require_signature: false,
            build_runtimes: vec![BuildKind::Qemu],
            builds_at_once: 1,
            build_timeout_s: 1_800,
            build_cores: 2,
            build_memory_mib: 2_048,
            build_processes: 1_024,
            build_disk_mib: 8_192,
        }
    }
}

/// Why `[images]` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A path that depends on where the program was started.
    #[error("images.{0} must be an absolute path")]
    Relative(&'static str),
    /// A signature is wanted that nobody could make.
    #[error("images.require_signature needs images.trusted_keys: without a key no image could be taken in")]
    NoKeys,
    /// A number out of its bounds.
    #[error(transparent)]
    Bounds(#[from] OutOfBounds),
}

impl Config {
    /// Bytes an image may have when unpacked.
    pub(crate) const fn max_image_bytes(&self) -> u64 {
        self.max_image_mib.saturating_mul(1 << 20)
    }

    /// What one holder's build may use.
    #[must_use]
    pub const fn build_limits(&self) -> StepLimits {
        StepLimits {
            timeout_s: self.build_timeout_s,
            memory_mib: self.build_memory_mib,
            processes: self.build_processes,
            disk_mib: self.build_disk_mib,
        }
    }

    /// Checks the section by itself.
    ///
    /// # Errors
    /// Names the first key that cannot be.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !self.store.is_absolute() {
            return Err(ConfigError::Relative("store"));
        }
        if self.kernel.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err(ConfigError::Relative("kernel"));
        }
        if !self.containerd.is_absolute() {
            return Err(ConfigError::Relative("containerd"));
        }
        if self.trusted_keys.iter().any(|path| !path.is_absolute()) {
            return Err(ConfigError::Relative("trusted_keys"));
        }
        if self.require_signature && self.trusted_keys.is_empty() {
            return Err(ConfigError::NoKeys);
        }
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Ok(check_bounds(
            "images",
            [
                ("max_image_mib", self.max_image_mib, 1..=u64::MAX),
                ("max_entries", self.max_entries, 1..=u64::MAX),
                ("max_layers", count(self.max_layers), 1..=u64::MAX),
                ("registry_timeout_ms", self.registry_timeout_ms, 1..=u64::MAX),
                ("pull_timeout_s", self.pull_timeout_s, 1..=u64::MAX),
                ("builds_at_once", count(self.builds_at_once), 1..=64),
                ("build_timeout_s", self.build_timeout_s, 1..=u64::MAX),
                ("build_cores", self.build_cores.into(), 1..=64),
                ("build_memory_mib", self.build_memory_mib, 64..=u64::MAX),
                ("build_processes", self.build_processes, 16..=u64::MAX),
                ("build_disk_mib", self.build_disk_mib, 16..=u64::MAX),
            ],
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_unknown_keys_are_refused() {
        assert_eq!(Config::default().check(), Ok(()));
        assert!(toml::from_str::<Config>("stoer = '/x'").is_err());
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
    }

    #[test]
    fn relative_paths_and_zero_bounds_are_named() {
        let relative: Config = toml::from_str("store = 'images'").unwrap();
        assert_eq!(relative.check(), Err(ConfigError::Relative("store")));
        let unsigned: Config = toml::from_str("require_signature = true").unwrap();
        assert_eq!(unsigned.check(), Err(ConfigError::NoKeys));
        let relative: Config = toml::from_str("containerd = 'containerd.sock'").unwrap();
        assert_eq!(relative.check(), Err(ConfigError::Relative("containerd")));
        let relative: Config = toml::from_str("trusted_keys = ['cosign.pub']").unwrap();
        assert_eq!(relative.check(), Err(ConfigError::Relative("trusted_keys")));
        let zero: Config = toml::from_str("max_layers = 0").unwrap();
        let said = zero.check().unwrap_err().to_string();
        assert_eq!(said, "[images] max_layers must be at least 1, not 0");
    }
}
