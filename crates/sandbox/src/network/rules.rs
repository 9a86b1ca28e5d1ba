//! The rules, as text for `nft -f -`. Pure.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use wire::pod::{GATEWAY_ADDRESS, GUEST_ADDRESS};

use super::Config;

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

/// The table in a guest's namespace.
pub(super) fn guest(config: &Config) -> String {
    let closed = closed_set();
    let resolvers = resolvers(config, "tap0");
    let smtp = if config.smtp { "" } else { "    iifname \"tap0\" tcp dport 25 drop\n" };
    format!(
        "table inet palatine {{
{closed}  chain arrive {{
    type filter hook prerouting priority raw; policy accept
    iifname \"lo\" accept
    meta nfproto ipv6 drop
    iifname \"tap0\" ip saddr != {GUEST_ADDRESS} drop
    iifname \"tap0\" ip daddr {GATEWAY_ADDRESS} accept
{resolvers}    iifname \"tap0\" ip daddr @closed drop
  }}
  chain input {{
    type filter hook input priority filter; policy drop
    iifname \"lo\" accept
    iifname \"tap0\" ct state established,related accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop
{smtp}    iifname \"tap0\" oifname \"up0\" accept
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
"
    )
}

/// The table on the host; replaces the one of before in one transaction.
/// `guarded` are the uplinks for which forwarding is on only because of us.
pub(super) fn host(config: &Config, guarded: &[String]) -> String {
    let (name, range, closed) = (&config.name, config.range, closed_set());
    let ours = format!("\"{name}-*\"");
    let resolvers = resolvers(config, &format!("{name}-*"));
    let mut strangers = String::new();
    for uplink in guarded {
        // Forwarding for us makes the machine no router for others.
        let _ = writeln!(strangers, "    iifname \"{uplink}\" drop");
    }
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
    fib daddr type local drop
{resolvers}    ip daddr @closed drop
  }}
  chain input {{
    type filter hook input priority -10; policy accept
    iifname {ours} drop
  }}
  chain forward {{
    type filter hook forward priority -10; policy accept
    iifname {ours} oifname {ours} drop
    iifname {ours} accept
    oifname {ours} ct state established,related accept
    oifname {ours} drop
{strangers}  }}
  chain output {{
    type filter hook output priority -10; policy accept
    oifname {ours} ct state related accept
    oifname {ours} drop
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
    fn mail_is_closed_unless_opened() {
        let open = Config { smtp: true, ..Config::default() };
        assert!(guest(&Config::default()).contains("dport 25 drop"));
        assert!(!guest(&open).contains("dport 25"));
    }

    #[test]
    fn only_uplinks_we_opened_are_guarded() {
        let rules = host(&Config::default(), &["eth7".to_owned()]);
        assert!(rules.contains("iifname \"eth7\" drop"));
        assert!(!host(&Config::default(), &[]).contains("eth"));
    }
}
