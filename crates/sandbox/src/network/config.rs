//! The `[network]` section.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use domain::{OutOfBounds, check_bounds};
use serde::{Deserialize, Serialize};
use wire::v1::pod::{GATEWAY_ADDRESS, PREFIX_LENGTH};

/// What guests may reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// Public addresses of the internet, over IPv4.
    #[default]
    Internet,
    /// Nothing.
    None,
}

/// How guests are connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What our links (`<name>-<slot>`), namespaces (`<name>-<id>`), nftables table
    /// and cgroups are called. A machine-wide lock: a second node of the same name on
    /// one machine does not start. 1 to 9 of a-z and 0-9. Default `palatine`.
    pub name: NetworkName,
    /// `internet`: public addresses over IPv4. `none`: nothing. The host, other
    /// guests, private, link-local and all other special-purpose addresses, and
    /// IPv6, are closed in both. Default `internet`.
    pub egress: Egress,
    /// Name servers of the guests. Reachable on port 53 even where their address is
    /// private, but never on the host itself. Default `["1.1.1.1", "9.9.9.9"]`.
    pub resolvers: Vec<Ipv4Addr>,
    /// Private services that guests may reach all the same over TCP, such as one's own
    /// models: an address or a network, with the port: `10.0.0.5:8000`, `192.168.7.0/24:443`.
    /// The host's own addresses only where they are named singly. What lies behind another
    /// interface than the internet needs that in `uplinks`. Default `[]`.
    pub reachable: Vec<PrivateTarget>,
    /// Whether guests may send mail (TCP port 25). Default `false`.
    pub smtp: bool,
    /// The private range from which each guest's uplink takes four addresses, with a
    /// prefix of 16 to 28. Must not be in use around this machine, nor meet that of
    /// another node on it. Default `10.201.0.0/16`.
    pub range: AddressRange,
    /// Interfaces that lead to the internet; forwarding is switched on for these and
    /// for our own links, for nothing else, and switched back when the last guest is
    /// gone. Empty: those with a default route. Default `[]`.
    pub uplinks: Vec<String>,
    /// Connections of one guest, at most, that the host remembers at the same time: TCP,
    /// UDP and all others. A further one is dropped until an older one is forgotten.
    /// Default 4096.
    pub connections: u32,
    /// New connections of one guest per second, at most; twice as many at once.
    /// Default 256.
    pub connections_per_second: u32,
    /// Packets that one guest may send per second, at most, and at once. Default 50000.
    pub packets_per_second: u32,
    /// Megabits per second that one guest may send to the internet, and as many that it
    /// may receive; 0: as many as there are. Default 0.
    pub mbit_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: NetworkName("palatine".to_owned()),
            egress: Egress::Internet,
            resolvers: vec![Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(9, 9, 9, 9)],
            reachable: Vec::new(),
            smtp: false,
            range: AddressRange { base: Ipv4Addr::new(10, 201, 0, 0), prefix: 16 },
            uplinks: Vec::new(),
            connections: 4_096,
            connections_per_second: 256,
            packets_per_second: 50_000,
            mbit_per_second: 0,
        }
    }
}

/// Why a `[network]` section is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A name that cannot be part of an interface's.
    #[error("network.name: {0:?} is not 1 to 9 of a-z and 0-9, a letter first")]
    Name(String),
    /// A range of another shape.
    #[error("network.range: {0:?} is not a private IPv4 network such as 10.201.0.0/16, with a prefix of 16 to 28")]
    Range(String),
    /// A range that holds the guests' own link.
    #[error("network.range: {0} holds {GATEWAY_ADDRESS}, the guests' own link")]
    Overlap(AddressRange),
    /// A name server that cannot be one.
    #[error("network.resolvers: {0} is not the address of a name server")]
    Resolver(Ipv4Addr),
    /// Too many name servers.
    #[error("network.resolvers: at most {max} are used", max = Config::MAX_RESOLVERS)]
    Resolvers,
    /// A private service of another shape.
    #[error(
        "network.reachable: {0:?} is not an IPv4 address or network with a port, such as 10.0.0.5:8000 or \
         192.168.7.0/24:443"
    )]
    Target(String),
    /// One over IPv6.
    #[error("network.reachable: {0:?} is reached over IPv6, which guests do not have")]
    TargetV6(String),
    /// One that is public, or that nobody may reach.
    #[error(
        "network.reachable: {0} is not private (10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, 192.168.0.0/16): public \
         addresses are reached anyway, and loopback, link-local and multicast ones never"
    )]
    NotPrivate(PrivateTarget),
    /// One among the guests' own links.
    #[error("network.reachable: {target} meets {range}, where guests' own links are; name what is meant more narrowly")]
    TargetOfGuests {
        /// Which.
        target: PrivateTarget,
        /// What it meets.
        range: AddressRange,
    },
    /// Too many of them.
    #[error("network.reachable: at most {max} can be named", max = Config::MAX_TARGETS)]
    Targets,
    /// Some, where nothing is reached.
    #[error("network.reachable: with egress = \"none\" guests reach nothing; leave it empty, or set \"internet\"")]
    TargetsWithoutEgress,
    /// A number out of its bounds.
    #[error(transparent)]
    Bounds(#[from] OutOfBounds),
    /// A name no interface can have.
    #[error("network.uplinks: {0:?} is not the name of an interface")]
    Uplink(String),
}

impl Config {
    /// Name servers at most: what a guest's resolver looks at.
    pub const MAX_RESOLVERS: usize = 3;
    /// Private services that can be named at most.
    pub const MAX_TARGETS: usize = 64;
    /// The largest rate that is shaped.
    pub const MAX_MBIT: u64 = 400_000;
    /// The largest limit: more is none.
    pub const MAX_LIMIT: u64 = 100_000_000;

    /// Checks the section.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.range.holds(GATEWAY_ADDRESS) {
            return Err(ConfigError::Overlap(self.range));
        }
        if self.resolvers.len() > Self::MAX_RESOLVERS {
            return Err(ConfigError::Resolvers);
        }
        let unfit = |a: &&Ipv4Addr| a.is_loopback() || a.is_unspecified() || a.is_multicast() || a.is_link_local();
        if let Some(address) = self.resolvers.iter().find(unfit) {
            return Err(ConfigError::Resolver(*address));
        }
        self.check_targets()?;
        check_bounds(
            "network",
            [
                ("connections", self.connections.into(), 1..=Self::MAX_LIMIT),
                ("connections_per_second", self.connections_per_second.into(), 1..=Self::MAX_LIMIT),
                ("packets_per_second", self.packets_per_second.into(), 1..=Self::MAX_LIMIT),
                ("mbit_per_second", self.mbit_per_second.into(), 0..=Self::MAX_MBIT),
            ],
        )?;
        let shaped = |name: &str| {
            (1..=15).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@'))
        };
        match self.uplinks.iter().find(|name| !shaped(name)) {
            Some(name) => Err(ConfigError::Uplink(name.clone())),
            None => Ok(()),
        }
    }
}

impl Config {
    fn check_targets(&self) -> Result<(), ConfigError> {
        if self.reachable.len() > Self::MAX_TARGETS {
            return Err(ConfigError::Targets);
        }
        if self.egress == Egress::None && !self.reachable.is_empty() {
            return Err(ConfigError::TargetsWithoutEgress);
        }
        let link = AddressRange { base: GUESTS_LINK, prefix: PREFIX_LENGTH };
        for target in &self.reachable {
            if let Some(range) = [self.range, link].into_iter().find(|range| target.meets(*range)) {
                return Err(ConfigError::TargetOfGuests { target: *target, range });
            }
        }
        Ok(())
    }
}

/// The network of every guest's own link.
const GUESTS_LINK: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 0);

/// The private networks in which a service may be named.
const PRIVATE: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// A private service that guests may reach: an address or a network, and a TCP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PrivateTarget {
    base: Ipv4Addr,
    prefix: u8,
    port: u16,
}

impl PrivateTarget {
    /// Whether it is one address: then it may be the host's own.
    pub(super) const fn is_single(self) -> bool {
        self.prefix == 32
    }

    /// Its port.
    pub(super) const fn port(self) -> u16 {
        self.port
    }

    /// Its address or network, as `nft` reads it.
    pub(super) fn network(self) -> String {
        if self.is_single() { self.base.to_string() } else { format!("{}/{}", self.base, self.prefix) }
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    fn meets(self, range: AddressRange) -> bool {
        range.meets(self.base, self.mask())
    }

    fn is_private(self) -> bool {
        PRIVATE.iter().any(|(base, prefix)| {
            AddressRange { base: *base, prefix: *prefix }.holds(self.base) && self.prefix >= *prefix
        })
    }
}

impl FromStr for PrivateTarget {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let refuse = || ConfigError::Target(text.to_owned());
        if text.matches(':').count() > 1 {
            return Err(ConfigError::TargetV6(text.to_owned()));
        }
        let (network, port) = text.split_once(':').ok_or_else(refuse)?;
        let (base, prefix) = network.split_once('/').unwrap_or((network, "32"));
        let base: Ipv4Addr = base.parse().map_err(|_| refuse())?;
        let prefix: u8 = prefix.parse().ok().filter(|prefix| (1..=32).contains(prefix)).ok_or_else(refuse)?;
        let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or_else(refuse)?;
        let target = Self { base, prefix, port };
        if base.to_bits() & !target.mask() != 0 {
            return Err(refuse());
        }
        if target.is_private() { Ok(target) } else { Err(ConfigError::NotPrivate(target)) }
    }
}

impl TryFrom<String> for PrivateTarget {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<PrivateTarget> for String {
    fn from(target: PrivateTarget) -> Self {
        target.to_string()
    }
}

impl fmt::Display for PrivateTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.network(), self.port)
    }
}

/// What our things on the host are called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkName(String);

impl NetworkName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NetworkName {
    type Error = ConfigError;

    fn try_from(name: String) -> Result<Self, ConfigError> {
        let shaped = (1..=9).contains(&name.len())
            && name.as_bytes()[0].is_ascii_lowercase()
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if shaped { Ok(Self(name)) } else { Err(ConfigError::Name(name)) }
    }
}

impl From<NetworkName> for String {
    fn from(name: NetworkName) -> Self {
        name.0
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A private network, cut into pieces of four addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    base: Ipv4Addr,
    prefix: u8,
}

impl AddressRange {
    /// Addresses of one piece: network, host's end, guest's end, broadcast.
    const PIECE: u32 = 4;

    /// How many pieces it has.
    #[must_use]
    pub fn slots(self) -> u16 {
        u16::try_from((1_u32 << (32 - self.prefix)) / Self::PIECE).unwrap_or(u16::MAX)
    }

    /// The host's and the namespace's end of a piece.
    #[must_use]
    pub fn ends(self, slot: u16) -> (Ipv4Addr, Ipv4Addr) {
        let first = self.base.to_bits() + u32::from(slot) * Self::PIECE;
        (Ipv4Addr::from_bits(first + 1), Ipv4Addr::from_bits(first + 2))
    }

    /// Whether it shares an address with this network.
    pub(super) fn meets(self, network: Ipv4Addr, mask: u32) -> bool {
        let common = mask & (u32::MAX << (32 - self.prefix));
        (network.to_bits() ^ self.base.to_bits()) & common == 0
    }

    /// Whether it shares an address with another range.
    pub(super) fn overlaps(self, other: Self) -> bool {
        self.meets(other.base, u32::MAX << (32 - other.prefix))
    }

    fn holds(self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX << (32 - self.prefix);
        address.to_bits() & mask == self.base.to_bits()
    }
}

impl FromStr for AddressRange {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let refuse = || ConfigError::Range(text.to_owned());
        let (base, prefix) = text.split_once('/').ok_or_else(refuse)?;
        let base: Ipv4Addr = base.parse().map_err(|_| refuse())?;
        let prefix: u8 = prefix.parse().map_err(|_| refuse())?;
        let aligned = (16..=28).contains(&prefix) && base.to_bits() & !(u32::MAX << (32 - prefix)) == 0;
        let shared = base.octets()[0] == 100 && base.octets()[1] & 0xc0 == 64;
        if aligned && (base.is_private() || shared) { Ok(Self { base, prefix }) } else { Err(refuse()) }
    }
}

impl TryFrom<String> for AddressRange {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass() {
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn ranges_that_are_public_or_crooked_are_refused() {
        for text in ["8.8.0.0/16", "10.201.0.1/16", "10.0.0.0/8", "10.201.0.0/29", "10.201.0.0", "x/16"] {
            assert_eq!(text.parse::<AddressRange>(), Err(ConfigError::Range(text.to_owned())));
        }
        let config = Config { range: "10.200.0.0/16".parse().unwrap(), ..Config::default() };
        assert!(matches!(config.check(), Err(ConfigError::Overlap(_))));
    }

    #[test]
    fn a_private_service_is_named_by_address_or_network_and_port_and_nothing_else_is_one() {
        for text in ["10.0.0.5:8000", "192.168.7.0/24:443", "100.64.1.1:80", "172.16.0.0/12:11434"] {
            assert_eq!(text.parse::<PrivateTarget>().unwrap().to_string(), text);
        }
        for text in [
            "10.0.0.5",
            "10.0.0.5:0",
            "10.0.0.5:65536",
            "10.0.0.5/24:80",
            "10.0.0.0/0:80",
            "model:80",
            ":80",
            "10.0.0.0/33:80",
        ] {
            assert_eq!(text.parse::<PrivateTarget>(), Err(ConfigError::Target(text.to_owned())));
        }
        for text in ["[fd00::1]:80", "fd00::/8:80"] {
            assert_eq!(text.parse::<PrivateTarget>(), Err(ConfigError::TargetV6(text.to_owned())));
        }
        for text in
            ["8.8.8.8:53", "127.0.0.1:80", "169.254.169.254:80", "224.0.0.1:80", "10.0.0.0/7:80", "0.0.0.0/1:80"]
        {
            assert!(matches!(text.parse::<PrivateTarget>(), Err(ConfigError::NotPrivate(_))), "{text}");
        }
    }

    #[test]
    fn what_is_reachable_holds_no_guests_link_and_is_nothing_without_egress() {
        let config = |targets: &[&str]| Config {
            reachable: targets.iter().map(|target| target.parse().unwrap()).collect(),
            ..Config::default()
        };
        assert_eq!(config(&["10.0.0.5:8000", "10.202.0.0/16:443"]).check(), Ok(()));
        for target in ["10.201.3.4:80", "10.0.0.0/8:80", "10.200.0.1:49983", "10.201.0.0/16:8080"] {
            assert!(matches!(config(&[target]).check(), Err(ConfigError::TargetOfGuests { .. })), "{target}");
        }
        assert_eq!(config(&["10.0.0.5:80"; 65]).check(), Err(ConfigError::Targets));
        let closed = Config { egress: Egress::None, ..config(&["10.0.0.5:80"]) };
        assert_eq!(closed.check(), Err(ConfigError::TargetsWithoutEgress));
    }

    #[test]
    fn a_limit_of_nothing_is_refused_by_its_key() {
        let config = Config { connections_per_second: 0, ..Config::default() };
        let said = config.check().unwrap_err().to_string();
        assert_eq!(said, "[network] connections_per_second must be from 1 to 100000000, not 0");
    }

    #[test]
    fn every_slot_has_four_addresses_of_its_own() {
        let range: AddressRange = "10.201.0.0/16".parse().unwrap();
        assert_eq!(range.slots(), 16_384);
        assert_eq!(range.ends(0), ("10.201.0.1".parse().unwrap(), "10.201.0.2".parse().unwrap()));
        assert_eq!(range.ends(16_383).1, "10.201.255.254".parse::<Ipv4Addr>().unwrap());
    }

    #[test]
    fn a_name_fits_into_that_of_an_interface() {
        for name in ["", "1a", "A", "a-b", "abcdefghij"] {
            assert!(NetworkName::try_from(name.to_owned()).is_err(), "{name}");
        }
        assert!(format!("{}-{}", "abcdefghi", u16::MAX).len() <= 15);
    }
}
