//! The names a gateway answers to, and the pages that may call it.
//!
//! A page of any site can have its own name lead to this machine (DNS rebinding),
//! and is then of one origin with what answers there. Such a request bears the
//! page's host: an address, `localhost` and the configured names are ours, and
//! every other host is refused.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use http::uri::Authority;
use serde::Deserialize;

/// A host's name, in lower case, without a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Host(String);

/// An origin of pages, as a browser writes it; or `*`, any.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Origin(String);

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a host.
    #[error("expected a host's name without a port, not {0:?}")]
    Host(String),
    /// Not an origin.
    #[error("expected http://<host>[:port], https://<host>[:port] or *, not {0:?}")]
    Origin(String),
}

impl TryFrom<String> for Host {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let shaped = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
        if text.is_empty() || !text.bytes().all(shaped) {
            return Err(NameError::Host(text));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl TryFrom<String> for Origin {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        let shaped = host.is_some_and(|host| host.parse::<Authority>().is_ok_and(|host| !host.as_str().contains('@')));
        if shaped || text == "*" { Ok(Self(text.to_ascii_lowercase())) } else { Err(NameError::Origin(text)) }
    }
}

impl Host {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Origin {
    /// Whether every page is meant.
    pub(crate) fn is_any(&self) -> bool {
        self.0 == "*"
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The hosts whose requests are for the API.
#[derive(Clone, Debug, Default)]
pub(crate) struct ApiHosts {
    names: BTreeSet<String>,
    /// Hosts as our own clients write them: nothing of theirs need be taken apart.
    written: BTreeSet<String>,
}

impl ApiHosts {
    /// These, and the names of these authorities.
    pub(crate) fn new<'a>(hosts: &BTreeSet<Host>, authorities: impl IntoIterator<Item = &'a str>) -> Self {
        let written: BTreeSet<String> =
            authorities.into_iter().filter(|host| name(host).is_some()).map(str::to_owned).collect();
        let names = written.iter().filter_map(|host| name(host));
        Self { names: hosts.iter().map(|host| host.0.clone()).chain(names).collect(), written }
    }

    /// Whether a request for this host is for us.
    pub(crate) fn contains(&self, host: &str) -> bool {
        if self.written.contains(host) {
            return true;
        }
        let Some(name) = name(host) else { return false };
        is_address(&name) || name == "localhost" || name.ends_with(".localhost") || self.names.contains(&name)
    }

    /// Whether this host is one that the gateway itself is called by: no agent is.
    pub(crate) fn is_named(&self, host: &str) -> bool {
        self.written.contains(host) || name(host).is_some_and(|name| self.names.contains(&name))
    }
}

/// The name in a host, in lower case; an IPv6 address keeps its brackets.
fn name(host: &str) -> Option<String> {
    let authority: Authority = host.parse().ok()?;
    let name = authority.host();
    let name = name.strip_suffix('.').unwrap_or(name);
    (!host.contains('@') && !name.is_empty()).then(|| name.to_ascii_lowercase())
}

/// Whether a host, with or without a port, is this machine to itself.
pub(crate) fn is_loopback(host: &str) -> bool {
    let Some(name) = name(host) else { return false };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || name.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn is_address(name: &str) -> bool {
    name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_2_7_a_host_that_is_not_ours_is_not_known_whatever_it_looks_like() {
        let hosts = ApiHosts::new(
            &BTreeSet::from([Host::try_from("API.example.com".to_owned()).unwrap()]),
            ["gate.example.com:8443", "agents.example.com"],
        );
        for host in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "192.0.2.7",
            "localhost",
            "LOCALHOST.:8080",
            "x.localhost",
            "api.example.com",
            "Gate.example.com:1",
            "agents.example.com.",
        ] {
            assert!(hosts.contains(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "notlocalhost",
            "evil@localhost",
            "localhost@evil.example",
            "x.api.example.com",
            "example.com",
            "localhost/evil",
            "a b",
            ":8080",
        ] {
            assert!(!hosts.contains(host), "{host}");
        }
    }

    #[test]
    fn a_name_with_a_port_and_a_page_are_no_host_and_no_origin() {
        for text in ["", "a:1", "http://a", "a/b", "*"] {
            assert!(Host::try_from(text.to_owned()).is_err(), "{text}");
        }
        for text in ["", "a", "http://", "http://a/", "http://u@a", "ftp://a", "null"] {
            assert!(Origin::try_from(text.to_owned()).is_err(), "{text}");
        }
        assert!(Origin::try_from("*".to_owned()).unwrap().is_any());
        assert_eq!(Origin::try_from("https://App.example:1".to_owned()).unwrap().to_string(), "https://app.example:1");
    }
}
