//! The section `[tls]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::config::error::ConfigError;

/// `[tls]`: certificates of one's own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Addresses for HTTPS. Default none.
    pub listen: Vec<SocketAddr>,
    /// The certificate chain, PEM. Must cover the gateway's own name and
    /// `*.<domain>`. Default none.
    pub cert_file: Option<PathBuf>,
    /// Its private key, PEM. Default none.
    pub key_file: Option<PathBuf>,
    /// How often the files are looked at; changed ones are taken over without a
    /// restart. Default `60000`.
    pub reload_ms: u64,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self { listen: Vec::new(), cert_file: None, key_file: None, reload_ms: 60_000 }
    }
}

impl TlsConfig {
    /// The files, where TLS is configured.
    #[must_use]
    pub fn files(&self) -> Option<(&PathBuf, &PathBuf)> {
        self.cert_file.as_ref().zip(self.key_file.as_ref())
    }

    /// Checks that a certificate is there where one is needed.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let halves = self.cert_file.is_some() != self.key_file.is_some();
        let bare = !self.listen.is_empty() && self.files().is_none();
        if halves || bare { Err(ConfigError::HalfTls) } else { Ok(()) }
    }
}
