//! `[treasury]`: where the agents' keys lie.

use std::path::PathBuf;

use serde::Deserialize;

/// `[treasury]`. It needs `[evm]`, which names the chain.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder of the agents' key files, one each. Default
    /// `/var/lib/palatine/gateway/identities`.
    pub identities: PathBuf,
    /// The key that these files' password is; made (mode 0600) if absent. Default
    /// `/var/lib/palatine/gateway/identities.key`.
    pub key_file: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            identities: PathBuf::from("/var/lib/palatine/gateway/identities"),
            key_file: PathBuf::from("/var/lib/palatine/gateway/identities.key"),
        }
    }
}

/// The sections that the treasury is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `[treasury]`.
    pub treasury: Config,
    /// `[relayer]`.
    pub relayer: relay::Config,
    /// `[x402]`.
    pub x402: x402::Config,
}
