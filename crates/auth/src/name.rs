//! What a gateway is called: the host of the URL that its clients were given.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest host: a DNS name.
const MAX_HOST: usize = 253;

/// Why a text is no gateway's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a gateway's name is the host of its URL in lower case, with :<port> unless that is the scheme's own, such as \
     api.example.com or 127.0.0.1:8080"
)]
pub struct GatewayNameError;

/// The host of a gateway's URL, with its port unless that is the scheme's own: what
/// HTTP calls `@authority` (RFC 9421, 2.2.3). A signature is good at the gateway it
/// names. A client takes it from the URL it was given, never from what a gateway
/// says, so that no operator can have a signature made that is meant for another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GatewayName(String);

impl GatewayName {
    /// The name of this host, and this port where it is not the scheme's own. IPv6
    /// addresses stand in brackets.
    ///
    /// # Errors
    /// When such a host cannot be a URL's.
    pub fn new(host: &str, port: Option<u16>) -> Result<Self, GatewayNameError> {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        port.map_or_else(|| host.clone(), |port| format!("{host}:{port}")).try_into()
    }

    /// The name as a text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GatewayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for GatewayName {
    type Error = GatewayNameError;

    fn try_from(name: String) -> Result<Self, GatewayNameError> {
        let bracket = name.rfind(']').unwrap_or(0);
        let (host, port) = match name[bracket..].find(':') {
            Some(at) => (&name[..bracket + at], Some(&name[bracket + at + 1..])),
            None => (name.as_str(), None),
        };
        if is_host(host) && port.is_none_or(is_port) { Ok(Self(name)) } else { Err(GatewayNameError) }
    }
}

impl FromStr for GatewayName {
    type Err = GatewayNameError;

    fn from_str(name: &str) -> Result<Self, GatewayNameError> {
        name.to_owned().try_into()
    }
}

impl From<GatewayName> for String {
    fn from(name: GatewayName) -> Self {
        name.0
    }
}

/// Whether this is a host as URLs are written: one address or name has one text.
fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok_and(|parsed| parsed.to_string() == address);
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    };
    let numeric =
        |host: &str| host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    (1..=MAX_HOST).contains(&host.len())
        && host.split('.').all(label)
        && (!numeric(host) || host.parse::<Ipv4Addr>().is_ok())
}

fn is_port(port: &str) -> bool {
    port.parse::<u16>().is_ok_and(|number| number > 0 && number.to_string() == port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_url_is_a_name() {
        let names =
            ["localhost", "127.0.0.1:8080", "api.example", "[::1]:8080", "[2001:db8::1]", "my_gateway:80", "a-b.c"];
        for name in names {
            assert_eq!(GatewayName::from_str(name).map(|name| name.to_string()), Ok(name.to_owned()));
        }
        assert_eq!(GatewayName::new("Api.Example.", None).unwrap().as_str(), "api.example");
        assert_eq!(GatewayName::new("[::1]", Some(8080)).unwrap().as_str(), "[::1]:8080");
    }

    #[test]
    fn what_no_url_has_as_its_host_or_has_otherwise_is_none() {
        let long = format!("{}.a", "a".repeat(64));
        let longer = ["abcdefghi"; 26].join(".");
        let names = [
            "",
            ".",
            "a..b",
            ".a",
            "a.",
            "Palatine.example",
            "a b",
            "a\n",
            "ä",
            "a/b",
            "a@b",
            "a:",
            "a:0",
            "a:080",
            "a:65536",
            "a:1:2",
            "::1",
            "[::1",
            "[0::1]",
            "[::1]x",
            "[::1%eth0]",
            "127.0.0.300",
            "127.1",
            "0x7f000001.1",
            "*.a",
            "a:+1",
            &long,
            &longer,
        ];
        for name in names {
            assert_eq!(GatewayName::from_str(name), Err(GatewayNameError), "{name:?}");
        }
    }
}
