//! What this machine has of what tests need, found out by trying it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use landlock::{ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetStatus};
use needs::Need;

/// How long the firmware of a guest on KVM may take to its end. It takes a tenth of a second on KVM that works, and
/// some seconds where another hypervisor plays KVM.
const FIRMWARE: Duration = Duration::from_secs(2);
/// The firmware's last words when there is nothing to boot.
const LAST_WORDS: &str = "No bootable device";

/// Tries everything that can be needed and writes down what was seen.
pub(crate) fn probe(into: &Path) -> Result<()> {
    let mut facts = String::new();
    for need in Need::ALL {
        let (has, seen) = match try_it(need) {
            Ok(seen) => ("yes", seen),
            Err(error) => ("no", format!("{error:#}")),
        };
        let line = format!("{}\t{has}\t{}\n", need.name(), seen.replace(['\t', '\n'], " "));
        eprint!("{line}");
        facts += &line;
    }
    fs::write(into, facts).with_context(|| format!("write {}", into.display()))
}

fn try_it(need: Need) -> Result<String> {
    match need {
        Need::Root => root(),
        Need::Network => network(),
        Need::Tun => open("/dev/net/tun"),
        Need::Cgroups => cgroups(),
        Need::Kvm => kvm(),
        Need::Landlock => landlock(),
        Need::Gvisor => gvisor(),
    }
}

fn root() -> Result<String> {
    let user = rustix::process::geteuid();
    anyhow::ensure!(user.is_root(), "the user is {}", user.as_raw());
    Ok("the user is 0".to_owned())
}

fn open(path: &str) -> Result<String> {
    fs::OpenOptions::new().read(true).write(true).open(path).with_context(|| format!("open {path}"))?;
    Ok(format!("{path} opens"))
}

/// In a namespace of its own, which is gone with the shell.
fn network() -> Result<String> {
    let script = "ip link add probe0 type veth peer name probe1 && nft add table inet probe";
    let output = Command::new("unshare").args(["--net", "sh", "-c", script]).output().context("run unshare")?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok("a namespace, a veth pair and a table were made".to_owned())
}

/// Version 1's memory controller where it is mounted, else the unified tree.
fn cgroups() -> Result<String> {
    let places = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"];
    let place = places.iter().find(|place| Path::new(place).is_dir()).context("no control groups are mounted")?;
    let dir = Path::new(place).join(format!("needs-probe-{}", std::process::id()));
    fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
    fs::remove_dir(&dir).with_context(|| format!("remove {}", dir.display()))?;
    Ok(format!("a group was made in {place}"))
}

/// Built by `./dev` where there is Go.
fn gvisor() -> Result<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let runsc = std::env::split_paths(&path).map(|dir| dir.join("runsc")).find(|file| file.is_file());
    let output = Command::new(runsc.context("there is no runsc: ./dev builds it where there is Go")?)
        .arg("--version")
        .output()?;
    anyhow::ensure!(output.status.success(), "runsc --version: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// A thread of its own gives up its rights, and is gone.
fn landlock() -> Result<String> {
    let restricted = std::thread::spawn(|| -> Result<_> {
        let rules = Ruleset::default().handle_access(AccessFs::from_all(ABI::V1))?.create()?;
        Ok(rules.restrict_self()?.ruleset)
    });
    let status = restricted.join().map_err(|_| anyhow::anyhow!("the thread that tried it is gone"))??;
    anyhow::ensure!(status != RulesetStatus::NotEnforced, "the kernel enforces no rules");
    Ok("a thread was shut off from files".to_owned())
}

/// A device that opens proves nothing: a guest must get somewhere on it.
fn kvm() -> Result<String> {
    open("/dev/kvm")?;
    let log = std::env::temp_dir().join(format!("needs-probe-{}.log", std::process::id()));
    let verdict = firmware(&log);
    fs::remove_file(&log).ok();
    verdict
}

fn firmware(log: &Path) -> Result<String> {
    let chardev = format!("file,id=said,path={}", log.display());
    let mut guest = Command::new("qemu-system-x86_64")
        .args(["-M", "q35", "-accel", "kvm", "-m", "64", "-display", "none", "-nodefaults", "-no-reboot"])
        .args(["-chardev", &chardev, "-device", "isa-debugcon,iobase=0x402,chardev=said"])
        .stderr(Stdio::null())
        .spawn()
        .context("run qemu-system-x86_64")?;
    let since = Instant::now();
    let mut done = false;
    while !done && since.elapsed() < FIRMWARE && guest.try_wait()?.is_none() {
        std::thread::sleep(Duration::from_millis(10));
        done = fs::read(log).is_ok_and(|said| String::from_utf8_lossy(&said).contains(LAST_WORDS));
    }
    let took = since.elapsed().as_millis();
    guest.kill().ok();
    guest.wait()?;
    anyhow::ensure!(done, "/dev/kvm opens, but a guest's firmware did not come to its end in {took} ms");
    Ok(format!("a guest's firmware came to its end in {took} ms"))
}
