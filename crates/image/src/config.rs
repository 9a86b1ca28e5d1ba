//! `[images]`: where images are kept, and what is taken in.

use std::path::PathBuf;

use domain::{OutOfBounds, check_bounds};
use serde::{Deserialize, Serialize};

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
        }
    }
}

/// Why `[images]` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A path that depends on where the program was started.
    #[error("images.{0} must be an absolute path")]
    Relative(&'static str),
    /// A number out of its bounds.
    #[error(transparent)]
    Bounds(#[from] OutOfBounds),
}

impl Config {
    /// Bytes an image may have when unpacked.
    pub(crate) const fn max_image_bytes(&self) -> u64 {
        self.max_image_mib.saturating_mul(1 << 20)
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
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Ok(check_bounds(
            "images",
            [
                ("max_image_mib", self.max_image_mib, 1..=u64::MAX),
                ("max_entries", self.max_entries, 1..=u64::MAX),
                ("max_layers", count(self.max_layers), 1..=u64::MAX),
                ("registry_timeout_ms", self.registry_timeout_ms, 1..=u64::MAX),
                ("pull_timeout_s", self.pull_timeout_s, 1..=u64::MAX),
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
        let zero: Config = toml::from_str("max_layers = 0").unwrap();
        let said = zero.check().unwrap_err().to_string();
        assert_eq!(said, "[images] max_layers must be at least 1, not 0");
    }
}
