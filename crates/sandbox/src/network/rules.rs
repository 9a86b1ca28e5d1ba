//! The rules, as text for `nft -f -`. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use wire::v1::pod::{GATEWAY_ADDRESS, GUEST_ADDRESS};

use super::{Config, PrivateTarget};

/// Interfaces, and the nodes whose guests' packets go through each.
pub(super) type GuardedUplinks = BTreeMap<String, BTreeSet<String>>;

/// The table of all nodes. No node can be called so.
pub(super) const UPLINKS: &str = "node_uplinks";

/// Every IPv4 block that is not the public internet: the special-purpose registry
/// (RFC 6890 and its updates), multicast and the reserved rest; and the one public
/// address behind which a cloud keeps its machines' metadata.
pub(super) const CLOSED: [&str; 18] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
];

/// What the table in a guest's namespace is called.
pub(super) const TABLE: &str = "palatine";
/// What was dropped because of `packets_per_second`, `connections_per_second` and
/// `connections`.
pub(super) const COUNTERS: [&str; 3] = ["over_packets", "over_rate", "over_connections"];

/// The table in a guest's namespace.
pub(super) fn guest(config: &Config) -> String {
    let closed = closed_set();
    let resolvers = resolvers(config, "tap0");
    let reachable = reachable(
        config,
        |_| true,
        |network, port| format!("    iifname \"tap0\" ip daddr {network} tcp dport {port} accept\n"),
    );
    let limits = Limits::of(config);
    let smtp = if config.smtp { "" } else { "    iifname \"tap0\" tcp dport 25 drop\n" };
    format!(
        "table inet {TABLE} {{
{counters}{closed}  chain arrive {{
    type filter hook prerouting priority raw; policy accept
    iifname \"lo\" accept
    meta nfproto ipv6 drop
    iifname \"tap0\" {packets}
    iifname \"tap0\" ip saddr != {GUEST_ADDRESS} drop
    iifname \"tap0\" ip daddr {GATEWAY_ADDRESS} accept
{resolvers}{reachable}    iifname \"tap0\" ip daddr @closed drop
  }}
  chain input {{
    type filter hook input priority filter; policy drop
    iifname \"lo\" accept
    iifname \"tap0\" ct state established,related accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop
{smtp}    iifname \"tap0\" oifname \"up0\" ct status & confirmed == 0 {rate}
    iifname \"tap0\" oifname \"up0\" ct status & confirmed == 0 {connections}
    iifname \"tap0\" oifname \"up0\" accept
    iifname \"up0\" oifname \"tap0\" ct state established,related accept
  }}
  chain output {{
    type filter hook output priority filter; policy drop
    oifname \"lo\" accept
    meta nfproto ipv6 drop
    ct state established,related accept
    oifname \"tap0\" ip daddr {GUEST_ADDRESS} meta skuid 0 accept
  }}
  chain leave {{
    type nat hook postrouting priority srcnat; policy accept
    oifname \"up0\" masquerade
  }}
}}
",
        counters = limits.counters,
        packets = limits.packets,
        rate = limits.rate,
        connections = limits.connections,
    )
}

/// A guest's share of the host. A packet whose connection is not confirmed is the one
/// that would have it remembered: what is dropped here takes no place in any table.
struct Limits {
    counters: String,
    packets: String,
    rate: String,
    connections: String,
}

impl Limits {
    fn of(config: &Config) -> Self {
        let (packets, rate, most) = (config.packets_per_second, config.connections_per_second, config.connections);
        let burst = rate.saturating_mul(2);
        let counter = |name: &str| format!("counter name \"{name}\" drop");
        Self {
            counters: COUNTERS.iter().map(|name| format!("  counter {name} {{\n  }}\n")).collect(),
            packets: format!("limit rate over {packets}/second burst {packets} packets {}", counter(COUNTERS[0])),
            rate: format!("limit rate over {rate}/second burst {burst} packets {}", counter(COUNTERS[1])),
            connections: format!("ct count over {most} {}", counter(COUNTERS[2])),
        }
    }
}

/// The table on the host; replaces the one of before in one transaction.
pub(super) fn host(config: &Config) -> String {
    let (name, range, closed) = (&config.name, config.range, closed_set());
    let ours = format!("\"{name}-*\"");
    let resolvers = resolvers(config, &format!("{name}-*"));
    let towards = |network: &str, port| format!("    ip daddr {network} tcp dport {port} accept\n");
    // An address that is named singly may be the host's own; of a network only others' are meant.
    let singly = reachable(config, PrivateTarget::is_single, towards);
    let widely = reachable(config, |target| !target.is_single(), towards);
    let input = reachable(config, PrivateTarget::is_single, |address, port| {
        format!("    iifname {ours} ip daddr {address} tcp dport {port} accept\n")
    });
    let output = reachable(config, PrivateTarget::is_single, |address, port| {
        format!("    oifname {ours} ip saddr {address} tcp sport {port} ct state established accept\n")
    });
    format!(
        "table inet {name} {{
}}
delete table inet {name}
table inet {name} {{
{closed}  chain arrive {{
    type filter hook prerouting priority raw; policy accept
    iifname != {ours} accept
    meta nfproto ipv6 drop
    ip saddr != {range} drop
{singly}    fib daddr type local drop
{resolvers}{widely}    ip daddr @closed drop
  }}
  chain input {{
    type filter hook input priority -10; policy accept
{input}    iifname {ours} drop
  }}
  chain forward {{
    type filter hook forward priority -10; policy accept
    iifname {ours} oifname {ours} drop
    iifname {ours} accept
    oifname {ours} ct state established,related accept
    oifname {ours} drop
  }}
  chain output {{
    type filter hook output priority -10; policy accept
    oifname {ours} ct state related accept
{output}    oifname {ours} drop
  }}
  chain leave {{
    type nat hook postrouting priority srcnat; policy accept
    ip saddr {range} oifname != {ours} masquerade
  }}
}}
"
    )
}

/// Removes the table on the host.
pub(super) fn no_host(config: &Config) -> String {
    let name = &config.name;
    format!("table inet {name} {{\n}}\ndelete table inet {name}\n")
}

/// The table that all nodes of a machine share: what forwards only because of them is
/// no router for others. Absent where there is nothing to guard.
pub(super) fn uplinks(guarded: &GuardedUplinks) -> String {
    let mut table = format!("table inet {UPLINKS} {{\n}}\ndelete table inet {UPLINKS}\n");
    if guarded.is_empty() {
        return table;
    }
    let _ = write!(
        table,
        "table inet {UPLINKS} {{\n  chain forward {{\n    type filter hook forward priority -9; policy accept\n"
    );
    for (uplink, nodes) in guarded {
        for node in nodes {
            let _ = writeln!(table, "    iifname \"{uplink}\" oifname \"{node}-*\" accept");
        }
        let _ = writeln!(table, "    iifname \"{uplink}\" drop");
    }
    table.push_str("  }\n}\n");
    table
}

fn closed_set() -> String {
    let blocks = CLOSED.join(", ");
    format!("  set closed {{\n    type ipv4_addr\n    flags interval\n    elements = {{ {blocks} }}\n  }}\n")
}

fn resolvers(config: &Config, link: &str) -> String {
    if config.resolvers.is_empty() {
        return String::new();
    }
    let addresses: Vec<String> = config.resolvers.iter().map(Ipv4Addr::to_string).collect();
    let addresses = addresses.join(", ");
    format!("    iifname \"{link}\" ip daddr {{ {addresses} }} meta l4proto {{ tcp, udp }} th dport 53 accept\n")
}

/// A rule for each private service of these that guests may reach.
fn reachable(config: &Config, of: impl Fn(PrivateTarget) -> bool, rule: impl Fn(&str, u16) -> String) -> String {
    let targets = config.reachable.iter().copied().filter(|target| of(*target));
    targets.map(|target| rule(&target.network(), target.port())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closed_blocks_hold_every_special_address_and_spare_the_public_ones() {
        let closed = |address: Ipv4Addr| {
            CLOSED.iter().any(|block| {
                let (base, prefix) = block.split_once('/').unwrap();
                let mask = u32::MAX << (32 - prefix.parse::<u32>().unwrap());
                address.to_bits() & mask == base.parse::<Ipv4Addr>().unwrap().to_bits()
            })
        };
        for special in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "100.127.0.1",
            "224.0.0.251",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "0.0.0.0",
            "192.0.0.192",
            "198.19.0.1",
            "168.63.129.16",
        ] {
            let address: Ipv4Addr = special.parse().unwrap();
            assert!(closed(address), "{special}");
        }
        for public in ["1.1.1.1", "9.9.9.9", "100.63.255.255", "100.128.0.1", "172.32.0.1", "223.255.255.255"] {
            assert!(!closed(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn a_private_service_is_open_before_the_rest_is_closed_and_the_hosts_own_only_where_it_is_named_singly() {
        let targets = ["10.0.0.5:8000", "192.168.7.0/24:443"].map(|target| target.parse().unwrap());
        let config = Config { reachable: targets.into(), ..Config::default() };
        let places = |rules: &str, order: &[&str]| {
            let found: Vec<usize> =
                order.iter().map(|rule| rules.find(rule).unwrap_or_else(|| panic!("{rule} in {rules}"))).collect();
            assert!(found.is_sorted(), "{rules}");
        };
        places(
            &guest(&config),
            &[
                "ip saddr != 10.200.0.2 drop",
                "ip daddr 10.0.0.5 tcp dport 8000 accept",
                "ip daddr 192.168.7.0/24 tcp dport 443 accept",
                "ip daddr @closed drop",
            ],
        );
        places(
            &host(&config),
            &[
                "ip saddr != 10.201.0.0/16 drop",
                "ip daddr 10.0.0.5 tcp dport 8000 accept",
                "fib daddr type local drop",
                "ip daddr 192.168.7.0/24 tcp dport 443 accept",
                "ip daddr @closed drop",
                "iifname \"palatine-*\" ip daddr 10.0.0.5 tcp dport 8000 accept",
                "iifname \"palatine-*\" drop",
                "oifname \"palatine-*\" ip saddr 10.0.0.5 tcp sport 8000 ct state established accept",
            ],
        );
        assert_eq!(host(&config).matches("192.168.7.0/24").count(), 1, "a network opens nothing of the host");
        assert!(!host(&Config::default()).contains("tcp dport"));
    }

    #[test]
    fn mail_is_closed_unless_opened() {
        let open = Config { smtp: true, ..Config::default() };
        assert!(guest(&Config::default()).contains("dport 25 drop"));
        assert!(!guest(&open).contains("dport 25"));
    }

    #[test]
    fn fault_1_7_a_new_connection_meets_both_limits_before_it_is_let_through() {
        let rules =
            guest(&Config { connections: 7, connections_per_second: 5, packets_per_second: 9, ..Config::default() });
        let order = [
            "limit rate over 9/second burst 9 packets counter name \"over_packets\" drop",
            "ip daddr 10.200.0.1 accept",
            "limit rate over 5/second burst 10 packets counter name \"over_rate\" drop",
            "ct count over 7 counter name \"over_connections\" drop",
            "oifname \"up0\" accept",
        ];
        let found: Vec<usize> = order.iter().map(|rule| rules.find(rule).unwrap_or_else(|| panic!("{rule}"))).collect();
        assert!(found.is_sorted(), "{rules}");
    }

    #[test]
    fn fault_1_3_what_comes_back_to_any_nodes_guests_passes_and_nothing_else() {
        let guarded = GuardedUplinks::from([("eth7".to_owned(), ["a".to_owned(), "b".to_owned()].into())]);
        let rules = uplinks(&guarded);
        let order = ["oifname \"a-*\" accept", "oifname \"b-*\" accept", "iifname \"eth7\" drop"];
        let found: Vec<usize> = order.iter().map(|rule| rules.find(rule).unwrap()).collect();
        assert!(found.is_sorted(), "{rules}");
        assert!(!uplinks(&GuardedUplinks::new()).contains("chain"));
    }
}
