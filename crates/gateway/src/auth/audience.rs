//! By which names clients know this gateway: what signatures and links may be for.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use auth::GatewayName;

use crate::ingress::urls::AgentHostPattern;
use crate::{Config, ConfigError};

/// An address that is listened on, and whether it speaks TLS.
pub(crate) type ListenAddress = (SocketAddr, bool);

/// The operator's own list; without one, what follows from the rest of the
/// configuration. Never what a request says.
pub(crate) fn audiences(
    config: &Config,
    agent_url: &AgentHostPattern,
    listening: &[ListenAddress],
) -> Result<Vec<GatewayName>, ConfigError> {
    let mut names: BTreeSet<GatewayName> = config.name.iter().chain(&config.audiences).cloned().collect();
    if config.audiences.is_empty() {
        if config.agent_url.is_some() {
            names.insert(agent_url.parent().ok_or_else(|| ConfigError::NoAudience(agent_url.domain().to_owned()))?);
        }
        names.extend(listening.iter().flat_map(own));
    }
    if names.is_empty() {
        // Every address is listened on and nobody said which is meant: this machine's own.
        names.extend(listening.iter().flat_map(local));
    }
    Ok(names.into_iter().collect())
}

/// What an address is called. One that stands for every address is no name: every
/// gateway that listens so would have the same.
fn own(listening: &ListenAddress) -> Vec<GatewayName> {
    let ip = listening.0.ip();
    if ip.is_unspecified() {
        Vec::new()
    } else if ip.is_loopback() {
        local(listening)
    } else {
        named(&host(ip), listening).into_iter().collect()
    }
}

/// What this machine calls itself, and the loopback address that is listened on.
fn local(listening: &ListenAddress) -> Vec<GatewayName> {
    let ip = Some(listening.0.ip()).filter(|ip| !ip.is_unspecified()).map(host);
    let hosts = ["127.0.0.1", "localhost", "[::1]"].into_iter().map(str::to_owned).chain(ip);
    hosts.filter_map(|host| named(&host, listening)).collect()
}

fn host(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn named(host: &str, &(address, tls): &ListenAddress) -> Option<GatewayName> {
    let usual = if tls { 443 } else { 80 };
    GatewayName::new(host, Some(address.port()).filter(|port| *port != usual)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(config: &Config, listening: &[(&str, bool)]) -> Vec<String> {
        let agent_url =
            AgentHostPattern::parse(config.agent_url.as_deref().unwrap_or("http://{id}.localhost:8080")).unwrap();
        let listening: Vec<ListenAddress> =
            listening.iter().map(|(address, tls)| (address.parse().unwrap(), *tls)).collect();
        let names = audiences(config, &agent_url, &listening).unwrap();
        names.into_iter().map(String::from).collect()
    }

    #[test]
    fn fault_2_5_a_gateway_on_loopback_is_known_by_this_machines_names() {
        let config = Config::default();
        let local = ["127.0.0.1:8080", "[::1]:8080", "localhost:8080"];
        assert_eq!(names(&config, &[("127.0.0.1:8080", false)]), local);
        assert_eq!(names(&config, &[("[::1]:8080", false)]), local);
        assert_eq!(names(&config, &[("127.0.0.1:80", false)]), ["127.0.0.1", "[::1]", "localhost"]);
        assert!(names(&config, &[("127.0.0.2:8080", false)]).contains(&"127.0.0.2:8080".to_owned()));
    }

    #[test]
    fn fault_2_5_every_address_is_nobodys_name() {
        let config = Config { agent_url: Some("https://{id}.agents.example.com".to_owned()), ..Config::default() };
        let everywhere = [("0.0.0.0:443", true), ("[::]:443", true)];
        assert_eq!(names(&config, &everywhere), ["agents.example.com"]);
        let named = Config { name: Some("api.example".parse().unwrap()), ..Config::default() };
        assert_eq!(names(&named, &everywhere), ["api.example"]);
        assert_eq!(
            names(&Config::default(), &[("0.0.0.0:8080", false)]),
            ["127.0.0.1:8080", "[::1]:8080", "localhost:8080"]
        );
        assert_eq!(names(&Config::default(), &[("192.0.2.1:8443", true)]), ["192.0.2.1:8443"]);
    }

    #[test]
    fn fault_2_5_the_operators_list_is_the_whole_list() {
        let listed = ["a.example", "b.example:8443"].map(|name| name.parse().unwrap()).to_vec();
        let config = Config { audiences: listed, ..Config::default() };
        assert_eq!(names(&config, &[("127.0.0.1:8080", false)]), ["a.example", "b.example:8443"]);
        let config = Config { name: Some("c.example".parse().unwrap()), ..config };
        assert_eq!(names(&config, &[("127.0.0.1:8080", false)]), ["a.example", "b.example:8443", "c.example"]);
    }
}
