//! From inside a guest: what answers, and what must not.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::process::Command;

use crate::house::{House, id};
use crate::machine::Residue;

/// A machine of the internet, in a namespace of the test's own behind a link.
struct Internet;

const SITE: &str = "11.22.33.44";

impl Internet {
    fn new() -> Self {
        let setup = format!(
            "ip netns add plteweb\n\
             ip link add plteweb0 type veth peer name web0 netns plteweb\n\
             ip addr add 11.22.33.1/24 dev plteweb0 && ip link set plteweb0 up\n\
             ip -n plteweb addr add {SITE}/24 dev web0 && ip -n plteweb link set web0 up && ip -n plteweb link set lo up"
        );
        Self::remove();
        for line in setup.lines() {
            assert!(Command::new("sh").args(["-c", line]).status().expect("a shell").success(), "{line}");
        }
        Self
    }

    fn remove() {
        for words in [["link", "del", "plteweb0"], ["netns", "del", "plteweb"]] {
            let _ = Command::new("ip").args(words).stderr(std::process::Stdio::null()).status();
        }
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        Self::remove();
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
    let before = Residue::of("plte");
    let internet = Internet::new();
    let mut house = House::new("plte", 4, "").await;
    let config = house.dir.path().join("palatine.toml");
    let text = std::fs::read_to_string(&config).unwrap().replace("\"lo\"", "\"plteweb0\"");
    house.stop();
    std::fs::write(&config, text).unwrap();
    house.start().await;
    for bits in 1..=2 {
        house.create(id(bits)).await;
    }
    house.ready(id(1)).await;
    house.ready(id(2)).await;

    let (host, udp) = (listen("0.0.0.0"), UdpSocket::bind("0.0.0.0:0").unwrap());
    let mut closed: Vec<String> = Vec::new();
    for address in ["10.200.0.1", "10.224.0.1", "10.224.0.5", "11.22.33.1", "192.0.2.2", "127.0.0.1", "169.254.169.254"]
    {
        closed.extend(["tcp".to_owned(), format!("{address}:{host}"), "icmp".to_owned(), address.to_owned()]);
        closed.extend(["udp".to_owned(), format!("{address}:{}", udp.local_addr().unwrap().port())]);
    }
    // The neighbour, by each name it could have; private, shared, special and IPv6 addresses.
    for address in [
        "10.224.0.6:8080",
        "10.224.0.6:49983",
        "192.168.0.1:80",
        "172.16.0.1:80",
        "100.64.0.1:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "[fe80::1]:80",
        "[fd00::2]:80",
        "[2606:4700::1111]:53",
        "[::ffff:11.22.33.1]:80",
        "11.22.33.44:25",
    ] {
        closed.extend(["tcp".to_owned(), address.to_owned()]);
    }
    let mut words = vec!["/usr/bin/agent-echo", "probe"];
    words.extend(closed.iter().map(String::as_str));
    let said = house.run(id(1), &words).await;
    println!("{said}");
    assert!(said.lines().count() >= 30 && !said.contains("answered"), "{said}");
    assert!(
        udp.set_nonblocking(true).is_ok() && udp.recv(&mut [0; 9]).is_err(),
        "a datagram of the guest reached the host"
    );

    // A public address answers: an echo of the site's own kernel.
    let said = house.run(id(1), &["/usr/bin/agent-echo", "probe", "icmp", SITE, "tcp", "11.22.33.44:81"]).await;
    println!("{said}");
    assert!(said.contains("refused"), "{said}");
    for bits in 1..=2 {
        house.delete(id(bits)).await;
    }
    let forwarding = || std::fs::read_to_string("/proc/sys/net/ipv4/conf/plteweb0/forwarding").unwrap();
    assert_eq!(forwarding().trim(), "1");
    house.stop();
    assert_eq!(forwarding().trim(), "0");
    drop(internet);
    assert_eq!(Residue::of("plte"), before);
}
