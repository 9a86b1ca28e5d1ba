//! What one guest may take of the host's network.

use std::process::Command;

use futures_util::future::join_all;

use crate::machine::Residue;
use crate::network::Internet;
use crate::node::{NodeProcess, id};

/// Connections that begin at this address, as this machine remembers them.
fn remembered(source: &str) -> usize {
    let table = std::fs::read_to_string("/proc/net/nf_conntrack").expect("the table of connections");
    table.lines().filter(|line| line.split(' ').find(|word| word.starts_with("src=")) == Some(source)).count()
}

/// The same, in the guest's own namespace.
fn remembered_inside(namespace: &str, source: &str) -> usize {
    let words = ["netns", "exec", namespace, "cat", "/proc/net/nf_conntrack"];
    let table = Command::new("ip").args(words).output().expect("ip is installed").stdout;
    let table = String::from_utf8_lossy(&table).into_owned();
    table.lines().filter(|line| line.split(' ').find(|word| word.starts_with("src=")) == Some(source)).count()
}

/// A figure of the node's metrics.
async fn limited(node: &NodeProcess, limit: &str) -> u64 {
    let text = node.client().metrics().await.expect("metrics");
    let name = format!("hypercore_guests_limited_packets{{limit=\"{limit}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).and_then(|value| value.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn fault_1_7_one_guest_cannot_fill_the_hosts_connection_table() {
    let internet = Internet::new("pltkweb", 35);
    let before = Residue::of("pltk");
    let shares = "connections = 60\nconnections_per_second = 30\npackets_per_second = 100";
    let mut node = NodeProcess::plan("pltk", 10, "", &format!("{}\n{shares}", internet.uplink()));
    node.start().await;
    node.create(id(1)).await;
    node.ready(id(1)).await;
    let targets: Vec<String> = (0..250).map(|port| format!("{}:{}", internet.site(), 2_000 + port)).collect();
    let mut words = vec!["/usr/bin/agent-echo", "probe", "udp"];
    words.extend(targets.iter().map(String::as_str));

    // Sixty at once and thirty each second: twice that is more than the host remembers.
    for _ in 0..2 {
        let said = node.run(id(1), &words).await;
        assert_eq!(said.lines().count(), targets.len(), "{said}");
    }
    let (host, inside) =
        (remembered("src=10.230.0.2"), remembered_inside(&format!("pltk-{}", id(1)), "src=10.200.0.2"));
    assert!((1..=60).contains(&host), "{host} connections of the guest in the host's table");
    assert!(inside <= 60, "{inside} connections in the guest's own table");
    assert!(limited(&node, "connections").await > 0);
    assert!(limited(&node, "connections_per_second").await > 0);

    join_all((0..2).map(|_| node.run(id(1), &words))).await;
    assert!(limited(&node, "packets_per_second").await > 0);

    node.delete(id(1)).await;
    assert_eq!(remembered("src=10.230.0.2"), 0, "the next guest with this address inherits its connections");
    node.end(&before);
}
