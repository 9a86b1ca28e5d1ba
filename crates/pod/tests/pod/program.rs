//! The agent of these tests: a small HTTP server and a handful of commands,
//! with nothing but the standard library, compiled by the test itself.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let argument = args.get(2).map(String::as_str).unwrap_or_default();
    match args.get(1).map(String::as_str) {
        Some("serve") => serve(argument),
        Some("cat") => drop(io::copy(&mut io::stdin(), &mut io::stdout())),
        Some("exit") => std::process::exit(argument.parse().unwrap()),
        Some("see") => see(),
        Some("flood") => (0..argument.parse::<u64>().unwrap()).for_each(|n| println!("line {n} {}", "x".repeat(80))),
        Some("sleep") => std::thread::sleep(Duration::from_secs(argument.parse().unwrap())),
        Some("leave") => leave(),
        Some("lend") => lend(),
        Some("rage") => rage(),
        Some("write") => fs::write(argument, "written").unwrap(),
        Some("keep") => fs::write("/data/kept", argument).unwrap(),
        _ => std::process::exit(99),
    }
}

/// Serves forever, at all addresses unless one is named; `/die` ends it with code 7.
fn serve(at: &str) {
    println!("serving on {at}");
    eprintln!("this goes to stderr");
    let address = if at.contains(':') { at.to_owned() } else { format!("0.0.0.0:{at}") };
    let listener = TcpListener::bind(address).unwrap();
    for stream in listener.incoming().flatten() {
        let _ = answer(stream);
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut head = [0; 2048];
    let count = stream.read(&mut head)?;
    let text = String::from_utf8_lossy(&head[..count]);
    let path = text.split(' ').nth(1).unwrap_or_default();
    if path == "/die" {
        std::process::exit(7);
    }
    let body: String = match path {
        "/env" => std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect(),
        _ => "ok\n".to_owned(),
    };
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// What a process of the agent's can see and reach.
fn see() {
    for (name, value) in std::env::vars() {
        println!("env.{name}={value}");
    }
    let show = |name: &str, path: &str| match fs::read(path) {
        Ok(bytes) => println!("{name}={}", String::from_utf8_lossy(&bytes).trim().replace('\n', "|")),
        Err(error) => println!("{name}=error {error}"),
    };
    show("hostname", "/proc/sys/kernel/hostname");
    show("resolv", "/etc/resolv.conf");
    show("hosts", "/etc/hosts");
    show("if_inet6", "/proc/net/if_inet6");
    show("init_environ", "/proc/1/environ");
    show("init_status", "/proc/1/status");
    show("init_mem", "/proc/1/mem");
    show("oom", "/proc/self/oom_score_adj");
    show("limits", "/proc/self/limits");
    show("cmdline", "/proc/cmdline");
    show("kept", "/data/kept");
    show("controllers", "/sys/fs/cgroup/cgroup.controllers");
    println!("modules={}", modules().join(" "));
    for line in fs::read_to_string("/proc/self/status").unwrap().lines() {
        if let Some((name, value)) = line.split_once(':') {
            println!("status.{name}={}", value.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    let numbers = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    println!("pids={}", numbers.filter(|name| name.bytes().all(|b| b.is_ascii_digit())).count());
    println!("now_ms={}", SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis());
    println!("write_root={:?}", fs::write("/written", "x").is_ok());
    println!("write_data={:?}", fs::write("/data/written", "x").is_ok());
    let pod = TcpStream::connect_timeout(&"10.200.0.2:49983".parse().unwrap(), Duration::from_secs(2));
    let answer = pod.and_then(|mut stream| {
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: pod\r\n\r\n")?;
        stream.read(&mut [0; 64])
    });
    println!("pod_from_inside={}", if matches!(answer, Ok(1..)) { "open" } else { "shut" });
    for name in ["fd", "stdin", "stdout", "stderr"] {
        let open = fs::File::open(format!("/dev/{name}"));
        println!("dev_{name}={}", open.map_or_else(|error| format!("error {error}"), |_| "open".to_owned()));
    }
    println!("cwd={}", std::env::current_dir().unwrap().display());
}

/// The modules that a loader would find.
fn modules() -> Vec<String> {
    let kernels = fs::read_dir("/lib/modules").into_iter().flatten().flatten();
    let files = kernels.flat_map(|kernel| fs::read_dir(kernel.path().join("kernel")).into_iter().flatten().flatten());
    files.filter_map(|file| file.file_name().into_string().ok()).collect()
}

/// As root: leaves this program for all to run as root.
fn lend() {
    fs::copy(std::env::current_exe().unwrap(), "/bin/lent").unwrap();
    fs::set_permissions("/bin/lent", fs::Permissions::from_mode(0o4755)).unwrap();
    println!("lent");
}

/// As root: sends PID 1 every signal there is, and ends everybody else.
fn rage() {
    (1..=64).for_each(|signal| kill(1, signal));
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(0);
        if pid > 1 && u32::try_from(pid) != Ok(std::process::id()) {
            kill(pid, 9);
        }
    }
    println!("raged");
}

/// The guest has no such program, and the standard library no such call.
fn kill(pid: i32, signal: i32) {
    unsafe extern "C" {
        #[link_name = "kill"]
        fn send(pid: i32, signal: i32) -> i32;
    }
    // SAFETY: it takes two numbers, whatever they are.
    unsafe { send(pid, signal) };
}

/// Leaves a child behind that holds the output open.
fn leave() {
    let child = std::process::Command::new(std::env::current_exe().unwrap()).args(["sleep", "3600"]).spawn().unwrap();
    println!("left {}", child.id());
}
