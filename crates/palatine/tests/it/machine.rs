//! What of this machine a house may change while it runs, and must give back.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::house::program;

/// How long a condition may take to become true.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Everything of the machine that a house touches, as lines that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inventory(BTreeSet<String>);

impl Inventory {
    pub(crate) fn take() -> Self {
        let mut all = BTreeSet::new();
        let mut add =
            |kind: &str, lines: Vec<String>| all.extend(lines.into_iter().map(|line| format!("{kind}: {line}")));
        add("process", processes());
        add("link", links());
        add("namespace", names("/run/netns"));
        add("rules", output("nft", &["list", "ruleset"]));
        add("route", output("ip", &["route", "show", "table", "all"]));
        add("mount", mounts());
        add("cgroup", cgroups());
        add("sysctl", sysctls());
        Self(all)
    }

    /// What is there now and was not before, and the other way round.
    pub(crate) fn changes(&self, now: &Self) -> Vec<String> {
        let gone = self.0.difference(&now.0).map(|line| format!("- {line}"));
        let new = now.0.difference(&self.0).map(|line| format!("+ {line}"));
        gone.chain(new).collect()
    }

    /// Waits until the machine is again as it was.
    #[track_caller]
    pub(crate) fn comes_back(&self) {
        let mut changes = Vec::new();
        let limit = Instant::now() + PATIENCE;
        while Instant::now() < limit {
            changes = self.changes(&Self::take());
            if changes.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the machine is not as it was:\n{}", changes.join("\n"));
    }
}

/// Takes a detached house down that its test did not, because it was ended itself: a
/// pipe that is closed with the test tells it.
#[derive(Debug)]
pub(crate) struct Guard(Child);

impl Guard {
    /// Of the house whose state lies in `<dir>/state`.
    pub(crate) fn over(dir: &Path) -> Self {
        let script = "read -r _; \"$0\" down && rm -rf \"$1\"";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(program("palatine")).arg(dir).env("PALATINE_STATE", dir.join("state"));
        // What ends a test that takes too long ends its group.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn output(program: &str, arguments: &[&str]) -> Vec<String> {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Programs that belong to a house, by their names and ids.
fn processes() -> Vec<String> {
    let ours = ["qemu-system", "hypercore", "palatine", "node", "anvil"];
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let pids = all.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let named = pids.filter_map(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let name = status.lines().next()?.strip_prefix("Name:\t")?.to_owned();
        let dead = status.lines().any(|line| line.starts_with("State:\tZ"));
        // Only the guests of a node have names.
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let other = name.starts_with("qemu-system") && !words.contains("\0-name\0");
        (!dead && !other && ours.iter().any(|ours| name.starts_with(ours))).then(|| format!("{name} {pid}"))
    });
    named.collect()
}

/// Links by name alone: their counters and flags change by themselves.
fn links() -> Vec<String> {
    names("/sys/class/net")
}

fn names(dir: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn mounts() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().map(str::to_owned).collect()
}

fn cgroups() -> Vec<String> {
    // A node that was set up by hand, those of tests, and those of `palatine up`.
    let ours = r".*/\(palatine[0-9]*\|up[0-9a-z]\{7\}\)\(/.*\)?";
    output("find", &["/sys/fs/cgroup", "-type", "d", "-regex", ours])
}

fn sysctls() -> Vec<String> {
    let keys = ["net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding"];
    let read = |key: &&str| Some(format!("{key}={}", fs::read_to_string(format!("/proc/sys/{key}")).ok()?.trim()));
    keys.iter().filter_map(read).collect()
}
