//! The sections `[gateway]`, `[tls]` and `[limits]`, each with its rules.

pub(crate) mod error;
pub(crate) mod gateway;
pub(crate) mod limits;
pub(crate) mod tls;

pub use error::ConfigError;
pub use gateway::Config;
pub use limits::Limits;
pub use tls::TlsConfig;
