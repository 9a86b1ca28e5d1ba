//! The sections `[gateway]`, `[tls]` and `[limits]`, with their rules.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use auth::GatewayName;
use domain::TierName;
use serde::Deserialize;

use crate::edge::hosts::{Host, Origin, is_loopback};
use crate::ingress::urls::{AgentUrl, PathUrl};

/// Why a section is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Nowhere to listen.
    #[error("gateway.listen and tls.listen: at least one address is needed")]
    NoListener,
    /// Not a URL of an agent.
    #[error("gateway.agent_url: expected http://{{id}}.<domain>[:port] or https://, not {0:?}")]
    AgentUrl(String),
    /// Not the URL of an agent's path.
    #[error("gateway.path_url: expected http://<host>[:port]/{{id}} or https://, not {0:?}")]
    PathUrl(String),
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
    /// A limit that lets nothing through.
    #[error("limits.{0} must be at least {1}")]
    TooSmall(&'static str, u64),
    /// A limit that lets too much through, or leaves too little.
    #[error("limits.{0} must be at most {1}")]
    TooLarge(&'static str, u64),
}

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
    /// The key of the agents' tokens; made (mode 0600) if absent. Default
    /// `/var/lib/palatine/gateway/token.key`.
    pub token_key_file: PathBuf,
    /// How often nodes and chains are asked whether they do what they are for, in
    /// milliseconds: `/ready` tells what was found. Default `10000`.
    pub probe_ms: u64,
    /// How often the nodes' images are read. Default `5000`.
    pub images_refresh_ms: u64,
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
            images_refresh_ms: 5_000,
            drain_ms: 30_000,
            metrics_addresses: None,
            trusted_proxies: BTreeSet::new(),
        }
    }
}

/// `[tls]`: certificates of one's own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
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

impl Default for Tls {
    fn default() -> Self {
        Self { listen: Vec::new(), cert_file: None, key_file: None, reload_ms: 60_000 }
    }
}

/// `[limits]`: what one client may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once. Default `10000`.
    pub connections: u32,
    /// Connections at once from one address (IPv6: one /64; one /48 has four times as
    /// many). Default `512`.
    pub connections_per_address: u32,
    /// Bytes of a request's headers. Default `16384`.
    pub header_bytes: u32,
    /// Time for the headers of a request to arrive, and for an idle connection
    /// to stay open. Default `15000`.
    pub header_ms: u64,
    /// Bytes of an API request's body. Agents' bodies are streamed and not
    /// limited. Default `262144`.
    pub body_bytes: u32,
    /// Bytes of the body of a request that is paid for: it is read whole before it
    /// goes on. Default `4194304`.
    pub paid_body_bytes: u32,
    /// Bytes of the bodies of such requests that are held at once. Default `134217728`.
    pub paid_bodies_bytes: u32,
    /// Of these, those from one address, and those of one payer. Default `16777216`.
    pub paid_bodies_per_address_bytes: u32,
    /// Time for an API request's body to arrive. Default `15000`.
    pub body_ms: u64,
    /// Age at which a connection is asked to end after its requests under way.
    /// Default `3600000`.
    pub connection_age_ms: u64,
    /// API requests of one wallet per minute; as many at once. Stopping is not
    /// counted. Default `120`.
    pub wallet_per_minute: u32,
    /// API requests of one address (IPv6: one /64) per second; twice as many at
    /// once. Default `50`.
    pub address_per_second: u32,
    /// Requests of one address to agents per second; twice as many at once.
    /// Default `500`.
    pub ingress_per_second: u32,
    /// Wallets and addresses that are told apart (beyond them, new ones share),
    /// and spent signatures held in memory.
    /// Default `100000`.
    pub tracked: u32,
    /// Time for an agent to take a connection. Default `2000`.
    pub agent_connect_ms: u64,
    /// Time for an agent to begin its answer. Default `300000`.
    pub agent_answer_ms: u64,
    /// Connections to one agent at once; they are kept and used again. Default `64`.
    pub agent_connections: u32,
    /// Of these, those of one address without the agent's token, and those of one payer.
    /// Default `8`.
    pub agent_connections_per_address: u32,
    /// Requests that wait for a connection to one agent: its token's holders, those who
    /// pay and all others have so many each. Default `512`.
    pub agent_waiting: u32,
    /// Of these, those of one address without the agent's token, and those of one payer.
    /// Default `64`.
    pub agent_waiting_per_address: u32,
    /// How long they wait. Default `10000`.
    pub agent_wait_ms: u64,
    /// How long a connection to an agent is kept that nobody uses: less than agents
    /// keep theirs. Default `1500`.
    pub agent_idle_ms: u64,
    /// Followed logs, event streams, commands and upgraded connections at once.
    /// Default `2000`.
    pub streams: u32,
    /// Upgraded connections to one agent at once. Default `128`.
    pub streams_per_agent: u32,
    /// Upgraded connections of one address at once, without the agents' tokens, and of
    /// one payer. Default `64`.
    pub streams_per_address: u32,
    /// Followed logs, event streams and commands of one wallet at once. Default `64`.
    pub streams_per_wallet: u32,
    /// How long an upgraded connection, or an answer, may be silent. Default `900000`.
    pub stream_idle_ms: u64,
    /// Percent of the streams, and of each agent's connections, that are left to
    /// holders: who comes without the agent's token cannot take them. Default `25`.
    pub owner_percent: u32,
    /// Percent of the streams, and of the connections to each agent that has prices, that
    /// are left to who pays, beside the holders': who pays nothing cannot take them. Of
    /// both together 90 count at most. Default `25`.
    pub payer_percent: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: 512,
            header_bytes: 16 * 1024,
            header_ms: 15_000,
            body_bytes: 256 * 1024,
            paid_body_bytes: 4 * 1024 * 1024,
            paid_bodies_bytes: 128 * 1024 * 1024,
            paid_bodies_per_address_bytes: 16 * 1024 * 1024,
            body_ms: 15_000,
            connection_age_ms: 3_600_000,
            wallet_per_minute: 120,
            address_per_second: 50,
            ingress_per_second: 500,
            tracked: 100_000,
            agent_connect_ms: 2_000,
            agent_answer_ms: 300_000,
            agent_connections: 64,
            agent_connections_per_address: 8,
            agent_waiting: 512,
            agent_waiting_per_address: 64,
            agent_wait_ms: 10_000,
            agent_idle_ms: 1_500,
            streams: 2_000,
            streams_per_agent: 128,
            streams_per_address: 64,
            streams_per_wallet: 64,
            stream_idle_ms: 900_000,
            owner_percent: 25,
            payer_percent: 25,
        }
    }
}

impl Config {
    /// Checks the sections that belong together.
    ///
    /// # Errors
    /// Names the first key that breaks a rule.
    pub fn check(&self, tls: &Tls, limits: &Limits) -> Result<(), ConfigError> {
        if self.listen.is_empty() && tls.listen.is_empty() {
            return Err(ConfigError::NoListener);
        }
        if let Some(text) = &self.agent_url {
            AgentUrl::parse(text)?;
        }
        if let Some(text) = &self.path_url {
            PathUrl::parse(text)?;
            if self.paths(tls).is_empty() {
                return Err(ConfigError::NoPathListener);
            }
        }
        tls.check()?;
        limits.check()
    }

    /// Whether anything says that the gateway is asked from elsewhere.
    fn is_public(&self) -> bool {
        let agents = self.agent_url.as_deref().and_then(|text| AgentUrl::parse(text).ok());
        let paths = self.path_url.as_deref().and_then(|text| PathUrl::parse(text).ok());
        let mut names = self.name.iter().chain(&self.audiences).map(GatewayName::as_str);
        agents.is_some_and(|url| !is_loopback(url.domain()))
            || paths.is_some_and(|url| !is_loopback(url.authority()))
            || names.any(|name| !is_loopback(name))
            || self.hosts.iter().any(|host| !is_loopback(host.as_str()))
            || !self.trusted_proxies.is_empty()
    }

    /// Who may read `/metrics`.
    pub(crate) fn watchers(&self) -> BTreeSet<IpAddr> {
        match &self.metrics_addresses {
            Some(addresses) => addresses.clone(),
            None if self.is_public() => BTreeSet::new(),
            None => BTreeSet::from([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
        }
    }

    /// Where agents are paths.
    pub(crate) fn paths(&self, tls: &Tls) -> Vec<SocketAddr> {
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

impl Tls {
    /// The files, where TLS is configured.
    #[must_use]
    pub fn files(&self) -> Option<(&PathBuf, &PathBuf)> {
        self.cert_file.as_ref().zip(self.key_file.as_ref())
    }

    fn check(&self) -> Result<(), ConfigError> {
        let halves = self.cert_file.is_some() != self.key_file.is_some();
        let bare = !self.listen.is_empty() && self.files().is_none();
        if halves || bare { Err(ConfigError::HalfTls) } else { Ok(()) }
    }
}

impl Limits {
    /// Headers below this would refuse ordinary clients.
    const MIN_HEADER_BYTES: u32 = 4096;
    /// Above this, who comes without a token and pays nothing finds no place.
    const MAX_KEPT_PERCENT: u32 = 90;

    /// What visitors may take of so many places, payers with them: never all, unless
    /// there is one alone.
    pub(crate) fn for_visitors(&self, places: u32) -> u32 {
        without(places, self.owner_percent)
    }

    /// What those may take of so many places who pay nothing.
    pub(crate) fn for_unpaid(&self, places: u32) -> u32 {
        without(places, self.owner_percent.saturating_add(self.payer_percent).min(Self::MAX_KEPT_PERCENT))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let counts = [
            ("connections", self.connections),
            ("connections_per_address", self.connections_per_address),
            ("body_bytes", self.body_bytes),
            ("paid_body_bytes", self.paid_body_bytes),
            ("wallet_per_minute", self.wallet_per_minute),
            ("address_per_second", self.address_per_second),
            ("ingress_per_second", self.ingress_per_second),
            ("tracked", self.tracked),
            ("agent_connections", self.agent_connections),
            ("agent_connections_per_address", self.agent_connections_per_address),
            ("agent_waiting", self.agent_waiting),
            ("agent_waiting_per_address", self.agent_waiting_per_address),
            ("streams", self.streams),
            ("streams_per_agent", self.streams_per_agent),
            ("streams_per_address", self.streams_per_address),
            ("streams_per_wallet", self.streams_per_wallet),
        ];
        let times = [
            ("header_ms", self.header_ms),
            ("body_ms", self.body_ms),
            ("connection_age_ms", self.connection_age_ms),
            ("agent_connect_ms", self.agent_connect_ms),
            ("agent_answer_ms", self.agent_answer_ms),
            ("agent_wait_ms", self.agent_wait_ms),
            ("agent_idle_ms", self.agent_idle_ms),
            ("stream_idle_ms", self.stream_idle_ms),
        ];
        let counts = counts.into_iter().map(|(key, value)| (key, u64::from(value)));
        if let Some((key, _)) = counts.chain(times).find(|(_, value)| *value == 0) {
            return Err(ConfigError::TooSmall(key, 1));
        }
        if self.header_bytes < Self::MIN_HEADER_BYTES {
            return Err(ConfigError::TooSmall("header_bytes", u64::from(Self::MIN_HEADER_BYTES)));
        }
        let bodies = [
            ("paid_bodies_bytes", self.paid_bodies_bytes),
            ("paid_bodies_per_address_bytes", self.paid_bodies_per_address_bytes),
        ];
        // The largest that may come must find room.
        if let Some((key, _)) = bodies.into_iter().find(|(_, value)| *value < self.paid_body_bytes) {
            return Err(ConfigError::TooSmall(key, u64::from(self.paid_body_bytes)));
        }
        let kept = [("owner_percent", self.owner_percent), ("payer_percent", self.payer_percent)];
        if let Some((key, _)) = kept.into_iter().find(|(_, percent)| *percent > Self::MAX_KEPT_PERCENT) {
            return Err(ConfigError::TooLarge(key, u64::from(Self::MAX_KEPT_PERCENT)));
        }
        Ok(())
    }
}

/// So many places without so many percent of them: one at least.
fn without(places: u32, percent: u32) -> u32 {
    let kept = (u64::from(places) * u64::from(percent)).div_ceil(100);
    places.saturating_sub(u32::try_from(kept).unwrap_or(u32::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_their_own_rules() {
        assert_eq!(Config::default().check(&Tls::default(), &Limits::default()), Ok(()));
    }

    #[test]
    fn a_section_that_cannot_work_is_refused_by_its_key() {
        let check = |config: Config, tls: Tls, limits: Limits| config.check(&tls, &limits).unwrap_err().to_string();
        let silent = Config { listen: vec![], ..Config::default() };
        assert!(check(silent, Tls::default(), Limits::default()).starts_with("gateway.listen"));
        for url in ["", "http://{id}", "ftp://{id}.a", "http://x{id}.a", "http://{id}.a/b", "http://{id}."] {
            let config = Config { agent_url: Some(url.to_owned()), ..Config::default() };
            assert!(check(config, Tls::default(), Limits::default()).starts_with("gateway.agent_url"), "{url}");
        }
        let half = Tls { cert_file: Some("a".into()), ..Tls::default() };
        assert!(check(Config::default(), half, Limits::default()).starts_with("tls:"));
        let shut = Limits { connections: 0, ..Limits::default() };
        assert_eq!(check(Config::default(), Tls::default(), shut), "limits.connections must be at least 1");
        let full = Limits { payer_percent: 91, ..Limits::default() };
        assert_eq!(check(Config::default(), Tls::default(), full), "limits.payer_percent must be at most 90");
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
            assert!(!config.watchers().is_empty() && !config.paths(&Tls::default()).is_empty(), "{config:?}");
        }
        let public = [
            Config { agent_url: Some("https://{id}.agents.example.com".to_owned()), ..Config::default() },
            Config { name: names(&["pods.example.com"]).pop(), ..Config::default() },
            Config { audiences: names(&["localhost:8080", "192.0.2.1:8080"]), ..Config::default() },
            Config { hosts: host("pods.example.com"), ..Config::default() },
            Config { trusted_proxies: ["127.0.0.1".parse().unwrap()].into(), ..Config::default() },
        ];
        for config in public {
            assert!(config.watchers().is_empty() && config.paths(&Tls::default()).is_empty(), "{config:?}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let said = serde_json::from_str::<Limits>(r#"{"conections": 1}"#).unwrap_err().to_string();
        assert!(said.contains("conections"), "{said}");
    }
}
