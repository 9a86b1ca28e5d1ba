//! `[treasury]`: where the agents' keys lay.

use std::path::PathBuf;

use serde::Deserialize;

/// `[treasury]`. It needs `[evm]`, which names the chain.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder in which earlier versions kept the agents' keys, a file each. They are
    /// taken into the database, and not read again; a removed agent's is erased. Nothing is
    /// written there. Default `/var/lib/palatine/gateway/identities`.
    pub identities: PathBuf,
    /// The key that these files' password is. Default
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

/// The sections that the treasury is made from, beside `[treasury]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicesConfig {
    /// `[relayer]`.
    pub relayer: relay::Config,
    /// `[x402]`.
    pub x402: x402::Config,
}
