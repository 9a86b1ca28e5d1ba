//! What a guest reaches, tried from inside one: nothing but the world.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use fixtures::{Holder, SMALL, Stack};

/// A machine out in the world, with a public address: a namespace of our own,
/// routed to by this machine alone.
const WORLD: &str = "11.22.33.2";
const WORLD_GATEWAY: &str = "11.22.33.1";
const WORLD_PORT: u16 = 8099;
/// The same machine's private address behind the same route.
const PRIVATE: [&str; 6] =
    ["10.77.0.2", "172.16.77.2", "192.168.77.2", "100.64.77.2", "169.254.169.254", "198.18.77.2"];

struct InternetHost {
    server: Child,
}

impl InternetHost {
    fn start() -> Self {
        let far: String = PRIVATE.iter().map(|address| format!("addr add {address}/32 dev far\n")).collect();
        batch(&[], "netns add palatine-test-world\nlink add near type veth peer name far netns palatine-test-world\n");
        batch(&[], &format!("addr add {WORLD_GATEWAY}/30 dev near\nlink set near up\n"));
        let inside = format!(
            "addr add {WORLD}/30 dev far\n{far}link set lo up\nlink set far up\nroute add default via {WORLD_GATEWAY}\n"
        );
        batch(&["-n", "palatine-test-world"], &inside);
        let routes: String = PRIVATE.iter().map(|address| format!("route add {address}/32 via {WORLD}\n")).collect();
        batch(&[], &routes);
        let script = format!(
            "require('net').createServer(s => s.end('hello')).listen({WORLD_PORT}, '::', () => console.log('up'))"
        );
        let mut command = Command::new("ip");
        command.args(["netns", "exec", "palatine-test-world", "node", "-e", &script]).stdout(Stdio::piped());
        let mut server = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "up");
        Self { server }
    }
}

impl Drop for InternetHost {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
        Command::new("ip").args(["link", "del", "near"]).status().ok();
        Command::new("ip").args(["netns", "del", "palatine-test-world"]).status().ok();
    }
}

fn batch(before: &[&str], lines: &str) {
    use std::io::Write;
    let mut command = Command::new("ip");
    let mut child = command.args(before).args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "ip -batch: {lines}");
}

/// What `agent-echo probe tcp` says of each target, tried from inside the guest.
fn probe(stack: &Stack, holder: &Holder, id: &str, targets: &[String]) -> Vec<(String, String)> {
    let mut command = stack.exec_echo(holder, id, &["probe", "tcp"]);
    let output = command.args(targets).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = text.lines().filter_map(|line| line.strip_prefix("tcp ")?.rsplit_once(' '));
    let said: Vec<_> = said.map(|(to, how)| (to.to_owned(), how.to_owned())).collect();
    assert_eq!(said.len(), targets.len(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    said
}

fn addresses(family: &str) -> Vec<String> {
    let output = Command::new("ip").args([family, "-o", "addr"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let address = |line: &str| Some(line.split_whitespace().nth(3)?.split('/').next()?.to_owned());
    text.lines().filter_map(address).collect()
}

#[tokio::test]
async fn a_guest_reaches_the_world_and_neither_host_nor_neighbour_nor_private_nor_link_local_addresses() {
    needs::needs!(root, network, tun, cgroups);
    let internet = InternetHost::start();
    let mut stack = Stack::start("[network]\nuplinks = [\"near\"]\n").await;
    let (one, other) = (stack.holder(SMALL), stack.holder(SMALL));
    let id = stack.agent(&one).await.id;
    stack.agent(&other).await;

    // What a guest could reach on the host, if it were let: listeners on all its addresses.
    let v4 = TcpListener::bind("0.0.0.0:0").unwrap();
    let v6 = TcpListener::bind("[::]:0").unwrap();
    let (port4, port6) = (v4.local_addr().unwrap().port(), v6.local_addr().unwrap().port());

    let open = probe(&stack, &one, &id, &[format!("{WORLD}:{WORLD_PORT}")]);
    assert_eq!(open[0].1, "answered", "without a way out the rest of this test would prove nothing: {open:?}");

    for targets in [private_targets(port4), private_targets_v6(port6)] {
        for (target, how) in probe(&stack, &one, &id, &targets) {
            assert_ne!(how, "answered", "{target}");
        }
    }
    stack.end();
    drop(internet);
}

#[tokio::test]
async fn a_guest_reaches_the_private_services_that_its_operator_names_and_nothing_beside_them() {
    needs::needs!(root, network, tun, cgroups);
    const OWN: &str = "10.78.0.1";
    let internet = InternetHost::start();
    batch(&[], &format!("addr add {OWN}/32 dev near\n"));
    let named = TcpListener::bind(format!("{OWN}:0")).unwrap();
    let unnamed = TcpListener::bind(format!("{OWN}:0")).unwrap();
    let [named, unnamed] = [&named, &unnamed].map(|listener| listener.local_addr().unwrap().to_string());
    let [single, in_network, neither, .., other] = PRIVATE;
    let reachable = [format!("{single}:{WORLD_PORT}"), format!("172.16.77.0/24:{WORLD_PORT}"), named.clone()];
    let mut stack = Stack::start(&format!("[network]\nuplinks = [\"near\"]\nreachable = {reachable:?}\n")).await;
    let holder = stack.holder(SMALL);
    let id = stack.agent(&holder).await.id;
    let open = [format!("{single}:{WORLD_PORT}"), format!("{in_network}:{WORLD_PORT}"), named];
    for (target, how) in probe(&stack, &holder, &id, &open) {
        assert_eq!(how, "answered", "{target}");
    }
    let mut closed = private_targets(named_port(&unnamed));
    closed.retain(|target| !open.contains(target));
    closed.extend([unnamed, format!("{single}:{}", WORLD_PORT + 1)]);
    closed.extend([neither, other].map(|address| format!("{address}:{WORLD_PORT}")));
    for (target, how) in probe(&stack, &holder, &id, &closed) {
        assert_ne!(how, "answered", "{target}");
    }
    stack.end();
    drop(internet);
}

fn named_port(address: &str) -> u16 {
    address.parse::<std::net::SocketAddr>().unwrap().port()
}

/// What no guest may reach over IPv4: the host at this port, the neighbour, private, link-local
/// and metadata addresses.
fn private_targets(port: u16) -> Vec<String> {
    let own: Vec<String> = addresses("-4").into_iter().filter(|address| !address.starts_with("127.")).collect();
    assert!(own.len() >= 2, "the host's side of the guests' links has addresses: {own:?}");
    let mut targets: Vec<String> = own.iter().map(|address| format!("{address}:{port}")).collect();
    targets.push(format!("10.200.0.1:{port}"));
    // Both guests serve on 8080, and hypercore talks to pod on 49983; the neighbour's way in is its own link's address.
    for address in &own {
        let mut octets: Vec<u8> = address.split('.').map(|octet| octet.parse().unwrap()).collect();
        octets[3] ^= 3;
        let peer = octets.iter().map(u8::to_string).collect::<Vec<_>>().join(".");
        targets.extend([format!("{peer}:8080"), format!("{peer}:49983")]);
    }
    targets.retain(|target| !target.starts_with(WORLD));
    targets.extend(PRIVATE.iter().map(|address| format!("{address}:{WORLD_PORT}")));
    targets.extend(["169.254.169.254:80".to_owned(), "224.0.0.1:80".to_owned(), "255.255.255.255:80".to_owned()]);
    targets
}

/// The same over IPv6.
fn private_targets_v6(port: u16) -> Vec<String> {
    let known = [
        "[fd00:ec2::254]:80",
        "[ff02::1%2]:80",
        "[2001:db8::1]:80",
        "[::ffff:10.200.0.1]:8080",
        "[64:ff9b::a9fe:a9fe]:80",
    ];
    let own = addresses("-6").into_iter().filter(|address| address != "::1").map(|address| {
        if address.starts_with("fe80") { format!("[{address}%2]:{port}") } else { format!("[{address}]:{port}") }
    });
    own.chain(known.map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_guest_without_egress_reaches_nothing_and_still_answers() {
    needs::needs!(root, network, tun, cgroups);
    let internet = InternetHost::start();
    let mut stack = Stack::start("[network]\negress = \"none\"\n").await;
    let holder = stack.holder(SMALL);
    let agent = stack.agent(&holder).await;
    let said = probe(&stack, &holder, &agent.id, &[format!("{WORLD}:{WORLD_PORT}")]);
    assert_ne!(said[0].1, "answered");
    let answer = stack.request(reqwest::Method::GET, &agent, "/health").send().await.unwrap();
    assert!(answer.status().is_success());
    stack.end();
    drop(internet);
}
