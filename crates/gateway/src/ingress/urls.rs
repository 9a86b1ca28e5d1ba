//! Where agents answer: by a host name of their own, and by a path of a listener
//! of their own, for clients that cannot resolve such names.

use std::net::SocketAddr;

use auth::GatewayName;
use domain::PodId;
use http::uri::Authority;

use crate::ConfigError;

/// Labels that no agent is called by: under the agents' domain they are the operator's,
/// and in paths they are the API's.
const RESERVED: [&str; 20] = [
    "admin",
    "agents",
    "api",
    "app",
    "auth",
    "chain",
    "console",
    "gateway",
    "health",
    "links",
    "localhost",
    "metrics",
    "palatine",
    "ready",
    "spawn",
    "status",
    "stop",
    "tiers",
    "usage",
    "www",
];

/// Whether no agent may be called by this label.
pub(crate) fn is_reserved(label: &str) -> bool {
    RESERVED.contains(&label)
}

/// An agent's own host, taken apart once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgentHostPattern {
    /// `http://` or `https://`.
    scheme: String,
    /// `.domain[:port]`.
    after_id: String,
    /// `.domain`, without the port, in lower case.
    suffix: String,
}

impl AgentHostPattern {
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let refused = || ConfigError::AgentHostPattern(text.to_owned());
        let (scheme, after_id) = text.split_once("{id}").ok_or_else(refused)?;
        let suffix = after_id.split_once(':').map_or(after_id, |(domain, _)| domain);
        let shaped = matches!(scheme, "http://" | "https://")
            && after_id.parse::<Authority>().is_ok()
            && suffix.strip_prefix('.').is_some_and(|domain| !domain.is_empty())
            && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
        if !shaped {
            return Err(refused());
        }
        let (scheme, after_id) = (scheme.to_owned(), after_id.to_owned());
        Ok(Self { scheme, suffix: suffix.to_ascii_lowercase(), after_id })
    }

    /// `{id}.localhost`, on this port.
    pub(crate) fn localhost(port: u16, tls: bool) -> Self {
        Self {
            scheme: if tls { "https://" } else { "http://" }.to_owned(),
            after_id: format!(".localhost:{port}"),
            suffix: ".localhost".to_owned(),
        }
    }

    /// An agent's URL.
    pub(crate) fn of(&self, id: PodId) -> String {
        format!("{}{id}{}", self.scheme, self.after_id)
    }

    /// The host of that URL, with its port unless it is the scheme's own.
    pub(crate) fn host(&self, id: PodId) -> String {
        format!("{id}{}", self.after_id)
    }

    /// The host that the agents' lie under, with its port, if signatures can name it.
    pub(crate) fn parent(&self) -> Option<GatewayName> {
        self.after_id.strip_prefix('.').and_then(|host| host.to_ascii_lowercase().parse().ok())
    }

    /// The domain that the agents' hosts lie under.
    pub(crate) fn domain(&self) -> &str {
        self.suffix.trim_start_matches('.')
    }

    /// The agent that a `Host` names, if it is one of ours, and its port where that is
    /// named too, as E2B does: `{port}-{id}`.
    pub(crate) fn agent(&self, host: &str) -> Option<(PodId, Option<u16>)> {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let name = name.strip_suffix('.').unwrap_or(name);
        let (label, suffix) = name.split_at_checked(name.find('.')?)?;
        let ours = suffix.eq_ignore_ascii_case(&self.suffix) || suffix.eq_ignore_ascii_case(".localhost");
        if ours { named(&label.to_ascii_lowercase()) } else { None }
    }
}

/// The agent of a label, and its port.
fn named(label: &str) -> Option<(PodId, Option<u16>)> {
    let id = |text: &str| text.parse().ok().filter(|id: &PodId| !id.begins_with_port());
    if let Some(id) = id(label) {
        return Some((id, None));
    }
    let (port, rest) = label.split_once('-')?;
    let plain = port.bytes().all(|digit| digit.is_ascii_digit()) && !port.starts_with('0');
    let port = Some(port).filter(|_| plain)?.parse().ok()?;
    Some((id(rest)?, Some(port)))
}

/// Agents under paths: `<base>/{id}`, taken apart once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgentPathPattern {
    /// `http://` or `https://`, and the host.
    origin: String,
    /// The host, with its port if it has one.
    authority: String,
    /// What stands before the id in a path, `/` at its end.
    before_id: String,
}

impl AgentPathPattern {
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let refused = || ConfigError::AgentPathPattern(text.to_owned());
        let base = text.strip_suffix("{id}").ok_or_else(refused)?;
        let (scheme, rest) = base.split_once("://").ok_or_else(refused)?;
        let (authority, path) = rest.split_at_checked(rest.find('/').ok_or_else(refused)?).ok_or_else(refused)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~');
        let shaped = matches!(scheme, "http" | "https")
            && authority.parse::<Authority>().is_ok_and(|authority| !authority.as_str().contains('@'))
            && path.ends_with('/')
            && path.bytes().all(plain);
        if !shaped {
            return Err(refused());
        }
        let origin = format!("{scheme}://{authority}");
        Ok(Self { origin, authority: authority.to_owned(), before_id: path.to_owned() })
    }

    /// On this address, which must be one that a client can ask.
    pub(crate) fn at(address: SocketAddr) -> Result<Self, ConfigError> {
        if address.ip().is_unspecified() {
            return Err(ConfigError::NoPathUrl(address));
        }
        Self::parse(&format!("http://{address}/{{id}}"))
    }

    /// An agent's URL, without a slash at its end.
    pub(crate) fn of(&self, id: PodId) -> String {
        format!("{}{}", self.origin, self.prefix(id))
    }

    /// The path that is an agent's root, without a slash at its end.
    pub(crate) fn prefix(&self, id: PodId) -> String {
        format!("{}{id}", self.before_id)
    }

    /// The host, with its port if it has one.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> PodId {
        "a1b2c3d4-e5f6-7890".parse().unwrap()
    }

    #[test]
    fn an_agents_host_is_its_id_under_our_domain_and_nothing_else() {
        let url = AgentHostPattern::parse("https://{id}.agents.example.com").unwrap();
        assert_eq!(url.of(id()), "https://a1b2c3d4-e5f6-7890.agents.example.com");
        assert_eq!(url.host(id()), "a1b2c3d4-e5f6-7890.agents.example.com");
        assert_eq!(url.domain(), "agents.example.com");
        for host in [
            "a1b2c3d4-e5f6-7890.agents.example.com",
            "A1B2C3D4-e5f6-7890.Agents.Example.COM:443",
            "a1b2c3d4-e5f6-7890.agents.example.com.",
            "a1b2c3d4-e5f6-7890.localhost:8080",
        ] {
            assert_eq!(url.agent(host), Some((id(), None)), "{host}");
        }
        let other = "agent-123".parse().unwrap();
        assert_eq!(url.agent("Agent-123.agents.example.com"), Some((other, None)));
        assert_eq!(url.agent("8080-agent-123.agents.example.com"), Some((other, Some(8080))));
        assert_eq!(url.agent("49983-A1b2c3d4-e5f6-7890.localhost:80"), Some((id(), Some(49_983))));
        for label in ["0-agent-123", "080-agent-123", "65536-agent-123", "+80-agent-123", "8080-", "80-80-agent-123"] {
            assert_eq!(url.agent(&format!("{label}.agents.example.com")), None, "{label}");
        }
        for host in
            ["agents.example.com", "localhost", "x.y.agents.example.com", "a1b2c3d4-e5f6-7890.example.com", "", ":"]
        {
            assert_eq!(url.agent(host), None, "{host}");
        }
        assert_eq!(AgentHostPattern::localhost(8080, false).of(id()), "http://a1b2c3d4-e5f6-7890.localhost:8080");
    }

    #[test]
    fn an_agents_path_begins_with_its_id_behind_whatever_a_proxy_takes_away() {
        let here = AgentPathPattern::at("127.0.0.1:8081".parse().unwrap()).unwrap();
        assert_eq!(here.of(id()), "http://127.0.0.1:8081/a1b2c3d4-e5f6-7890");
        assert_eq!((here.prefix(id()).as_str(), here.authority()), ("/a1b2c3d4-e5f6-7890", "127.0.0.1:8081"));
        let behind = AgentPathPattern::parse("https://example.com/agents/{id}").unwrap();
        assert_eq!(behind.of(id()), "https://example.com/agents/a1b2c3d4-e5f6-7890");
        assert_eq!(behind.prefix(id()), "/agents/a1b2c3d4-e5f6-7890");
        for text in ["", "{id}", "http://a{id}", "http://a/{id}/", "ftp://a/{id}", "http://u@a/{id}", "http://a/?{id}"]
        {
            assert_eq!(AgentPathPattern::parse(text), Err(ConfigError::AgentPathPattern(text.to_owned())), "{text}");
        }
        let everywhere = "0.0.0.0:8081".parse().unwrap();
        assert_eq!(AgentPathPattern::at(everywhere), Err(ConfigError::NoPathUrl(everywhere)));
    }
}
