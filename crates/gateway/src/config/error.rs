//! Why a section of the configuration is refused.

use std::net::SocketAddr;

use domain::OutOfBounds;

/// Why a section is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Nowhere to listen.
    #[error("gateway.listen and tls.listen: at least one address is needed")]
    NoListener,
    /// Not a URL of an agent.
    #[error("gateway.agent_url: expected http://{{id}}.<domain>[:port] or https://, not {0:?}")]
    AgentHostPattern(String),
    /// Not the URL of an agent's path.
    #[error("gateway.path_url: expected http://<host>[:port]/{{id}} or https://, not {0:?}")]
    AgentPathPattern(String),
    /// Agents under paths, where no client could be told.
    #[error("gateway.path_url: agents cannot be told to be at {0}; set it to http://<host>[:port]/{{id}}")]
    NoPathUrl(SocketAddr),
    /// A path's URL without a listener.
    #[error("gateway.path_url: nothing listens for it; set gateway.path_listen")]
    NoPathListener,
    /// A domain that signatures cannot name.
    #[error("gateway.audiences: the domain of agent_url, {0:?}, cannot be a gateway's name; list them")]
    NoAudience(String),
    /// One half of a certificate.
    #[error("tls: cert_file and key_file belong together, and tls.listen needs both")]
    HalfTls,
    /// A number out of its bounds.
    #[error(transparent)]
    Bounds(#[from] OutOfBounds),
}
