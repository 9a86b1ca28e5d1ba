//! Names under `localhost` lead to the gateway itself.
//!
//! A development gateway tells of agents at `http://{id}.localhost:PORT`.
//! Browsers know that every such name is this machine; not every C library does,
//! and the gateway may be on another machine after all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Resolves `*.localhost` to the gateway, all else as the system does.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    gateway: Gateway,
}

/// Where the gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Gateway {
    At(Vec<IpAddr>),
    Named(String),
}

impl Resolver {
    pub(super) fn new(gateway: &Url) -> Self {
        Self { gateway: Gateway::of(gateway) }
    }

    /// Whether the gateway is this machine, so that no proxy is asked.
    pub(super) fn is_here(&self) -> bool {
        match &self.gateway {
            Gateway::At(addresses) => addresses.iter().all(IpAddr::is_loopback),
            Gateway::Named(_) => false,
        }
    }
}

impl Gateway {
    fn of(gateway: &Url) -> Self {
        let host = gateway.host_str().unwrap_or_default();
        match host.trim_matches(['[', ']']).parse() {
            Ok(address) => Self::At(vec![address]),
            Err(_) if is_local(host) => Self::At(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
            Err(_) => Self::Named(host.to_owned()),
        }
    }
}

fn is_local(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let sought = match &self.gateway {
            Gateway::At(addresses) if is_local(name.as_str()) => {
                let found: Vec<_> = addresses.iter().map(|address| SocketAddr::new(*address, 0)).collect();
                return Box::pin(async { Ok(Box::new(found.into_iter()) as Addrs) });
            }
            Gateway::Named(host) if is_local(name.as_str()) => host.clone(),
            Gateway::At(_) | Gateway::Named(_) => name.as_str().to_owned(),
        };
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((sought, 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateways_own_address_is_known_where_its_url_says_it() {
        let of = |url: &str| Gateway::of(&url.parse().unwrap());
        let loopback = Gateway::At(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        assert_eq!(of("http://10.1.2.3:8080"), Gateway::At(vec![[10, 1, 2, 3].into()]));
        assert_eq!(of("http://[::1]:8080"), Gateway::At(vec![Ipv6Addr::LOCALHOST.into()]));
        assert_eq!(of("http://localhost:8080"), loopback);
        assert_eq!(of("http://gateway.localhost"), loopback);
        assert_eq!(of("https://api.example"), Gateway::Named("api.example".to_owned()));
    }

    #[tokio::test]
    async fn only_names_under_localhost_lead_to_the_gateway() {
        let resolver = Resolver::new(&"http://10.1.2.3:8080".parse().unwrap());
        for name in ["localhost", "a1b2c3d4-e5f6-7890.localhost"] {
            let found: Vec<_> = resolver.resolve(name.parse().unwrap()).await.unwrap().collect();
            assert_eq!(found, ["10.1.2.3:0".parse().unwrap()]);
        }
        assert!(!is_local("notlocalhost") && !is_local("localhost.example"));
    }
}
