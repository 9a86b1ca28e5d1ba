//! Who asks, as far as it is known by where he is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What counts as one client: an IPv4 address, or the IPv6 /64 that a provider gives
/// to one customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientAddr(pub u128);

/// Set for IPv6 alone, where a /64 leaves room for it.
const V6: u128 = 1 << 63;

impl ClientAddr {
    /// Whoever is at this address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(u128::from(u32::from(address))),
            IpAddr::V6(address) => Self(u128::from(address) >> 64 << 64 | V6),
        }
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u32::try_from(self.0) {
            Ok(address) => write!(f, "client:{}", Ipv4Addr::from(address)),
            Err(_) => write!(f, "client:{}/64", Ipv6Addr::from(self.0 & !V6)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_customer_of_a_provider_is_one_client() {
        let client = |text: &str| ClientAddr::of(text.parse().unwrap());
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff::9"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        assert_eq!(client("::ffff:10.0.0.1"), client("10.0.0.1"));
        assert_ne!(client("::"), client("0.0.0.0"));
        assert_eq!(client("10.0.0.1").to_string(), "client:10.0.0.1");
        assert_eq!(client("2001:db8:1:2::1").to_string(), "client:2001:db8:1:2::/64");
    }
}
