//! From inside a guest: what answers, and what must not.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::machine::Residue;
use crate::node::{NodeProcess, PATIENCE, id};

/// A machine of the internet, in a namespace of the test's own behind a link.
pub(crate) struct Internet {
    name: &'static str,
    /// Its network is 11.22.`third`.0/24.
    third: u8,
}

impl Internet {
    /// The namespace is called so, and the link to it is `<name>0`.
    pub(crate) fn new(name: &'static str, third: u8) -> Self {
        needs::needs!(root, network);
        let internet = Self { name, third };
        let setup = format!(
            "ip netns add {name}\n\
             ip link add {name}0 type veth peer name web0 netns {name}\n\
             ip addr add 11.22.{third}.1/24 dev {name}0 && ip link set {name}0 up\n\
             ip -n {name} addr add {site}/24 dev web0 && ip -n {name} link set web0 up && ip -n {name} link set lo up",
            site = internet.site()
        );
        internet.remove();
        for line in setup.lines() {
            assert!(Command::new("sh").args(["-c", line]).status().expect("a shell").success(), "{line}");
        }
        internet
    }

    /// Its address.
    pub(crate) fn site(&self) -> String {
        format!("11.22.{}.44", self.third)
    }

    /// What a node says in `[network]` to reach it.
    pub(crate) fn uplink(&self) -> String {
        format!("uplinks = [\"{}0\"]", self.name)
    }

    /// Whether this machine forwards what comes from it.
    pub(crate) fn forwarding(&self) -> bool {
        let file = format!("/proc/sys/net/ipv4/conf/{}0/forwarding", self.name);
        std::fs::read_to_string(file).expect("its link").trim() == "1"
    }

    fn remove(&self) {
        for words in [["link", "del", &format!("{}0", self.name)], ["netns", "del", self.name]] {
            let _ = Command::new("ip").args(words).stderr(std::process::Stdio::null()).status();
        }
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A server on the host that answers to all.
fn listen(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(b"hello");
        }
    });
    port
}

#[tokio::test]
async fn a_guest_reaches_the_internet_and_nothing_else() {
    reaches_the_internet_and_nothing_else("plte", "plteweb", (4, 33), "").await;
}

#[tokio::test]
async fn a_container_reaches_the_internet_and_nothing_else() {
    reaches_the_internet_and_nothing_else("pltcn", "pltcnw", (21, 41), "runtimes = [\"container-runc\"]").await;
}

/// Of a node with the tenth `number` of addresses, and an internet with the `third` of its own.
async fn reaches_the_internet_and_nothing_else(
    name: &'static str,
    web: &'static str,
    (number, third): (u32, u8),
    more: &str,
) {
    let before = Residue::of(name);
    let internet = Internet::new(web, third);
    let mut node = NodeProcess::plan(name, number, more, &internet.uplink());
    node.start().await;
    let (range, site) = (format!("10.{}.0", 220 + number), internet.site());
    for bits in 1..=2 {
        node.create(id(bits)).await;
    }
    node.ready(id(1)).await;
    node.ready(id(2)).await;

    let (host, udp) = (listen("0.0.0.0"), UdpSocket::bind("0.0.0.0:0").expect("a port"));
    let mut closed: Vec<String> = Vec::new();
    let gateway = format!("11.22.{third}.1");
    let (ours, neighbours) = (format!("{range}.1"), format!("{range}.5"));
    for address in ["10.200.0.1", &ours, &neighbours, &gateway, "192.0.2.2", "127.0.0.1", "169.254.169.254"] {
        closed.extend(["tcp".to_owned(), format!("{address}:{host}"), "icmp".to_owned(), address.to_owned()]);
        closed.extend(["udp".to_owned(), format!("{address}:{}", udp.local_addr().expect("bound").port())]);
    }
    // The neighbour, by each name it could have; private, shared, special and IPv6 addresses.
    let [agent, pod] = [8_080, 49_983].map(|port| format!("{range}.6:{port}"));
    let (mapped, mail) = (format!("[::ffff:{gateway}]:80"), format!("{site}:25"));
    for address in [
        agent.as_str(),
        &pod,
        "192.168.0.1:80",
        "172.16.0.1:80",
        "100.64.0.1:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "[fe80::1]:80",
        "[fd00::2]:80",
        "[2606:4700::1111]:53",
        &mapped,
        &mail,
    ] {
        closed.extend(["tcp".to_owned(), address.to_owned()]);
    }
    let mut words = vec!["/usr/bin/agent-echo", "probe"];
    words.extend(closed.iter().map(String::as_str));
    let said = node.run(id(1), &words).await;
    assert!(said.lines().count() >= 30 && !said.contains("answered"), "{said}");
    assert!(
        udp.set_nonblocking(true).is_ok() && udp.recv(&mut [0; 9]).is_err(),
        "a datagram of the guest reached the host"
    );

    // A public address answers: an echo of the site's own kernel.
    let open = format!("{site}:81");
    let said = node.run(id(1), &["/usr/bin/agent-echo", "probe", "icmp", &site, "tcp", &open]).await;
    assert!(said.contains("refused"), "{said}");
    for bits in 1..=2 {
        node.delete(id(bits)).await;
    }
    assert!(internet.forwarding());
    node.stop();
    assert!(!internet.forwarding());
    drop(internet);
    assert_eq!(Residue::of(name), before);
}

/// The node's table, if it is there.
fn table(name: &str) -> Option<String> {
    let told = Command::new("nft").args(["-s", "list", "table", "inet", name]).output().expect("nft is installed");
    told.status.success().then(|| String::from_utf8_lossy(&told.stdout).into_owned())
}

#[tokio::test]
async fn fault_1_5_rules_that_an_operator_has_removed_come_back_and_the_guests_go_on() {
    let before = Residue::of("pltr");
    let internet = Internet::new("pltrweb", 36);
    let mut node = NodeProcess::plan("pltr", 15, "", &internet.uplink());
    node.start().await;
    node.create(id(1)).await;
    let ready = node.ready(id(1)).await;
    let laid = table("pltr").expect("a table");
    let removed = Command::new("nft").args(["delete", "table", "inet", "pltr"]).status();
    assert!(removed.expect("nft is installed").success());
    let until = Instant::now() + PATIENCE;
    // It is told after it is done.
    while table("pltr").as_ref() != Some(&laid) || !node.log().contains("they are set again") {
        assert!(Instant::now() < until, "not laid again, or not told: {}", node.log());
        sleep(Duration::from_millis(50)).await;
    }
    assert!(node.client().metrics().await.expect("metrics").contains("hypercore_rules_mended_total 1"));
    let said = node.run(id(1), &["/usr/bin/agent-echo", "probe", "tcp", "11.22.36.44:81"]).await;
    assert!(said.contains("refused"), "{said}");
    let after = node.ready(id(1)).await;
    assert_eq!((after.pid, after.restarts), (ready.pid, ready.restarts));
    node.delete(id(1)).await;
    node.stop();
    drop(internet);
    assert_eq!(Residue::of("pltr"), before);
}
