//! The section `[gateway]`, and what must hold of all sections together.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use auth::GatewayName;
use domain::TierName;
use serde::Deserialize;

use crate::config::error::ConfigError;
use crate::config::limits::Limits;
use crate::config::tls::TlsConfig;
use crate::edge::hosts::{Host, Origin, is_loopback};
use crate::ingress::urls::{AgentHostPattern, AgentPathPattern};

/// `[gateway]`: the public edge.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Addresses for plain HTTP. Default `["127.0.0.1:8080"]`.
    pub listen: Vec<SocketAddr>,
    /// Where agents answer: a URL with `{id}` as its first label. Requests for
    /// that host go to the agent, as do those for `{id}.localhost`. Default
    /// `http://{id}.localhost:<port of the first listener>` (`https://` if that
    /// listener speaks TLS).
    pub agent_url: Option<String>,
    /// Addresses for plain HTTP where an agent is the path that begins with its id:
    /// `http://127.0.0.1:8081/{id}/…`, for clients that cannot resolve the hosts of
    /// `agent_url`. All agents share one origin there, so no page of one is kept
    /// from another's: not for browsers. Default: where nothing is public (`listen`
    /// and all names are loopback, `agent_url` is under localhost, there is no TLS
    /// and no trusted proxy), the first of `listen` with the next port; else none.
    pub path_listen: Option<Vec<SocketAddr>>,
    /// What clients are told of that: a URL with `{id}` as its last segment, for
    /// a proxy before it. Default `http://<first of path_listen>/{id}`.
    pub path_url: Option<String>,
    /// Names that the API is asked by, beside addresses, `localhost`, `audiences` and
    /// the domain of `agent_url`. A request for any other host is refused. Default none.
    pub hosts: BTreeSet<Host>,
    /// Origins whose pages may call the API: `https://app.example.com`, or `*`.
    /// Default none.
    pub cors_origins: BTreeSet<Origin>,
    /// The public host, with its port unless that is the scheme's own: one of
    /// `audiences`. Default none.
    pub name: Option<GatewayName>,
    /// The hosts of this gateway's URL as clients are given it, each with its port
    /// unless that is the scheme's own. Signatures and links must name one of them,
    /// so that none can be replayed at another operator's gateway. Default `name`, the
    /// domain of `agent_url`, and the addresses listened on, for loopback with
    /// `localhost`.
    pub audiences: Vec<GatewayName>,
    /// Accept only signatures that bind request and gateway, on every route. Default
    /// `false`: Romulus's own routes, and reading one's own agents, take
    /// `romulus:<unix-ms>` too, which whoever gets it can replay at another gateway
    /// for five minutes.
    pub require_bound: bool,
    /// Answer `/usage/{wallet}` with totals to anyone. Default `false`.
    pub public_usage: bool,
    /// Tiers whose holders may name an image by digest. Default none.
    pub byo_image_tiers: BTreeSet<TierName>,
    /// Where earlier versions kept the key of the agents' tokens. It is taken into the
    /// database at the first start, and not read again; nothing is written there. Default
    /// `/var/lib/palatine/gateway/token.key`.
    pub token_key_file: PathBuf,
    /// How often nodes and chains are asked whether they do what they are for, in
    /// milliseconds: `/ready` tells what was found. Default `10000`.
    pub probe_ms: u64,
    /// How often earlier versions read the nodes' images. It is taken and not used:
    /// `control.inventory_ms` says how often nodes are asked. Default none.
    pub images_refresh_ms: Option<u64>,
    /// How long a shutdown waits for requests under way. Default `30000`.
    pub drain_ms: u64,
    /// Client addresses that may read `/metrics`; others get 404, and so does
    /// what a proxy that is not trusted passes on. Default the loopback addresses,
    /// unless something is public (`agent_url`, `path_url`, `name`, `audiences` or
    /// `hosts` names more than loopback, or there is a trusted proxy): then a proxy on
    /// this machine may be what asks, and the default is none.
    pub metrics_addresses: Option<BTreeSet<IpAddr>>,
    /// Proxies in front of the gateway, whose last `X-Forwarded-For` entry is
    /// the client's address. Default none.
    pub trusted_proxies: BTreeSet<IpAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))],
            agent_url: None,
            path_listen: None,
            path_url: None,
            hosts: BTreeSet::new(),
            cors_origins: BTreeSet::new(),
            name: None,
            audiences: Vec::new(),
            require_bound: false,
            public_usage: false,
            byo_image_tiers: BTreeSet::new(),
            token_key_file: PathBuf::from("/var/lib/palatine/gateway/token.key"),
            probe_ms: 10_000,
            images_refresh_ms: None,
            drain_ms: 30_000,
            metrics_addresses: None,
            trusted_proxies: BTreeSet::new(),
        }
    }
}

impl Config {
    /// Checks the sections that belong together.
    ///
    /// # Errors
    /// Names the first key that breaks a rule.
    pub fn check(&self, tls: &TlsConfig, limits: &Limits) -> Result<(), ConfigError> {
        if self.listen.is_empty() && tls.listen.is_empty() {
            return Err(ConfigError::NoListener);
        }
        if let Some(text) = &self.agent_url {
            AgentHostPattern::parse(text)?;
        }
        if let Some(text) = &self.path_url {
            AgentPathPattern::parse(text)?;
            if self.path_addresses(tls).is_empty() {
                return Err(ConfigError::NoPathListener);
            }
        }
        tls.check()?;
        Ok(limits.check()?)
    }

    /// Whether anything says that the gateway is asked from elsewhere.
    fn is_public(&self) -> bool {
        let agents = self.agent_url.as_deref().and_then(|text| AgentHostPattern::parse(text).ok());
        let paths = self.path_url.as_deref().and_then(|text| AgentPathPattern::parse(text).ok());
        let mut names = self.name.iter().chain(&self.audiences).map(GatewayName::as_str);
        agents.is_some_and(|url| !is_loopback(url.domain()))
            || paths.is_some_and(|url| !is_loopback(url.authority()))
            || names.any(|name| !is_loopback(name))
            || self.hosts.iter().any(|host| !is_loopback(host.as_str()))
            || !self.trusted_proxies.is_empty()
    }

    /// Who may read `/metrics`.
    pub(crate) fn metrics_readers(&self) -> BTreeSet<IpAddr> {
        match &self.metrics_addresses {
            Some(addresses) => addresses.clone(),
            None if self.is_public() => BTreeSet::new(),
            None => BTreeSet::from([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
        }
    }

    /// Where agents are paths.
    pub(crate) fn path_addresses(&self, tls: &TlsConfig) -> Vec<SocketAddr> {
        let loopback = self.listen.iter().all(|address| address.ip().is_loopback());
        let local = loopback && tls.listen.is_empty() && !self.is_public();
        let behind = |first: &SocketAddr| {
            let port = if first.port() == 0 { 0 } else { first.port().checked_add(1).unwrap_or(u16::MAX - 1) };
            SocketAddr::new(first.ip(), port)
        };
        match &self.path_listen {
            Some(addresses) => addresses.clone(),
            None if local => self.listen.first().map(behind).into_iter().collect(),
            None => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_their_own_rules() {
        assert_eq!(Config::default().check(&TlsConfig::default(), &Limits::default()), Ok(()));
    }

    #[test]
    fn a_section_that_cannot_work_is_refused_by_its_key() {
        let check =
            |config: Config, tls: TlsConfig, limits: Limits| config.check(&tls, &limits).unwrap_err().to_string();
        let silent = Config { listen: vec![], ..Config::default() };
        assert!(check(silent, TlsConfig::default(), Limits::default()).starts_with("gateway.listen"));
        for url in ["", "http://{id}", "ftp://{id}.a", "http://x{id}.a", "http://{id}.a/b", "http://{id}."] {
            let config = Config { agent_url: Some(url.to_owned()), ..Config::default() };
            assert!(check(config, TlsConfig::default(), Limits::default()).starts_with("gateway.agent_url"), "{url}");
        }
        let half = TlsConfig { cert_file: Some("a".into()), ..TlsConfig::default() };
        assert!(check(Config::default(), half, Limits::default()).starts_with("tls:"));
        let shut = Limits { connections: 0, ..Limits::default() };
        assert_eq!(
            check(Config::default(), TlsConfig::default(), shut),
            "[limits] connections must be at least 1, not 0"
        );
        let full = Limits { payer_percent: 91, ..Limits::default() };
        assert_eq!(
            check(Config::default(), TlsConfig::default(), full),
            "[limits] payer_percent must be from 0 to 90, not 91"
        );
        let both = Limits { owner_percent: 70, payer_percent: 40, ..Limits::default() };
        assert_eq!((both.for_visitors(100), both.for_unpaid(100)), (30, 10));
    }

    #[test]
    fn fault_2_10_whatever_names_more_than_loopback_makes_a_gateway_public() {
        let names = |list: &[&str]| list.iter().map(|name| name.parse().unwrap()).collect::<Vec<GatewayName>>();
        let host = |name: &str| BTreeSet::from([Host::try_from(name.to_owned()).unwrap()]);
        let local = [
            Config::default(),
            Config { audiences: names(&["127.0.0.1:8080", "localhost:8080", "[::1]:8080"]), ..Config::default() },
            Config { agent_url: Some("http://{id}.localhost:8080".to_owned()), ..Config::default() },
            Config { hosts: host("palatine.localhost"), ..Config::default() },
        ];
        for config in local {
            assert!(
                !config.metrics_readers().is_empty() && !config.path_addresses(&TlsConfig::default()).is_empty(),
                "{config:?}"
            );
        }
        let public = [
            Config { agent_url: Some("https://{id}.agents.example.com".to_owned()), ..Config::default() },
            Config { name: names(&["pods.example.com"]).pop(), ..Config::default() },
            Config { audiences: names(&["localhost:8080", "192.0.2.1:8080"]), ..Config::default() },
            Config { hosts: host("pods.example.com"), ..Config::default() },
            Config { trusted_proxies: ["127.0.0.1".parse().unwrap()].into(), ..Config::default() },
        ];
        for config in public {
            assert!(
                config.metrics_readers().is_empty() && config.path_addresses(&TlsConfig::default()).is_empty(),
                "{config:?}"
            );
        }
    }
}
