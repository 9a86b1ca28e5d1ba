//! What the tests with real guests share.

use std::path::{Path, PathBuf};
use std::process::Command;

use domain::ImageDigest;
use fixtures::assets;
use sandbox::drivers::qemu::Kernel;
use sandbox::network::{self, Egress};

/// The kernel with the real `pod`, made once for all tests.
pub(crate) fn kernel() -> Kernel {
    let store = std::env::temp_dir().join("palatine-hypercore-tests");
    let config = image::Config { store, ..image::Config::default() };
    let made = image::kernel::prepare(&config, &assets().join("pod"), &image::NoProgress).expect("a kernel for guests");
    Kernel { vmlinux: made.vmlinux, initramfs: made.initramfs, version: made.version }
}

/// The reference agent, taken in once for all tests.
pub(crate) fn echo() -> (PathBuf, ImageDigest) {
    build(&assets().join("images/agent-echo"), "echo")
}

/// The same, whose agent is root.
pub(crate) fn echo_as_root() -> ImageDigest {
    let (from, to) = (assets().join("images/agent-echo"), tempfile::tempdir().expect("a folder"));
    std::fs::copy(from.join("agent-echo"), to.path().join("agent-echo")).expect("the agent");
    let recipe = std::fs::read_to_string(from.join("image.toml")).expect("a recipe");
    let user = "user = \"1000:1000\"";
    assert!(recipe.contains(user), "{recipe}");
    std::fs::write(to.path().join("image.toml"), recipe.replacen(user, "user = \"0:0\"", 1)).expect("a recipe");
    build(to.path(), "echo-root").1
}

fn build(recipe: &Path, name: &str) -> (PathBuf, ImageDigest) {
    let store = std::env::temp_dir().join("palatine-hypercore-tests");
    let config = image::Config { store: store.clone(), ..image::Config::default() };
    let images = image::ImageStore::open(&config).expect("an image store");
    let made = images.build(recipe, &image::BuildOptions::default(), name, &image::NoProgress);
    let made = made.expect("the reference agent's image");
    (store, made.digest)
}

/// Ends the VMMs of a node whose test has failed, and removes what they stood on.
pub(crate) fn sweep(name: &str) {
    for pid in processes(name) {
        let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    for space in names(Path::new("/run/netns")).iter().filter(|it| it.starts_with(&format!("{name}-"))) {
        let _ = Command::new("ip").args(["netns", "del", space]).status();
    }
    let script = format!("table inet {name} {{\n}}\ndelete table inet {name}\n");
    let _ = Command::new("sh").args(["-c", &format!("printf '{script}' | nft -f -")]).status();
    for group in ["memory", "cpu", "cpuacct", "pids", "blkio", "."] {
        let groups = Path::new("/sys/fs/cgroup").join(group);
        let _ = std::fs::remove_dir(groups.join(format!("{name}.shims")));
        let parent = groups.join(name);
        for child in names(&parent) {
            let _ = std::fs::remove_dir(parent.join(child));
        }
        let _ = std::fs::remove_dir(parent);
    }
}

/// A network of this test's own.
pub(crate) fn network(name: &str, range: &str) -> network::Config {
    network::Config {
        name: name.to_owned().try_into().expect("a name"),
        range: range.parse().expect("a range"),
        egress: Egress::Internet,
        uplinks: vec!["lo".to_owned()],
        ..network::Config::default()
    }
}

/// An image's files, which are nothing but folders.
pub(crate) fn root(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    for name in ["proc", "sys", "dev", "tmp", "run", "data", "etc"] {
        std::fs::create_dir_all(root.join(name)).expect("a folder");
    }
    root
}

/// The same as a disk.
pub(crate) fn base(dir: &Path) -> PathBuf {
    let (root, disk) = (root(dir), dir.join("base.erofs"));
    let made =
        Command::new("mkfs.erofs").arg("--quiet").arg(&disk).arg(&root).output().expect("mkfs.erofs is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    disk
}

/// What a node of this name has on the machine outside of its own folder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Residue(Vec<String>);

impl Residue {
    pub(crate) fn of(name: &str) -> Self {
        let forwarding = std::fs::read_to_string("/run/palatine-network.json").unwrap_or_default();
        let mut found = Vec::new();
        for dir in ["/run/netns", "/sys/class/net"] {
            found.extend(names(Path::new(dir)).into_iter().filter(|it| it.starts_with(name)));
        }
        for group in ["memory", "cpu", "cpuacct", "pids", "blkio", "devices", "freezer", "cpuset", "unified", "."] {
            found.extend(names(&Path::new("/sys/fs/cgroup").join(group)).into_iter().filter(|it| it.starts_with(name)));
        }
        let tables = Command::new("nft").args(["list", "tables"]).output().expect("nft is installed");
        let tables = String::from_utf8_lossy(&tables.stdout).into_owned();
        found.extend(tables.lines().filter(|line| line.contains(&format!(" {name}"))).map(str::to_owned));
        found.extend(mounts(name));
        found.extend(processes(name));
        found.extend(forwarding.contains(&format!("\"{name}\"")).then(|| "forwarding".to_owned()));
        found.sort();
        Self(found)
    }
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect()
}

fn mounts(name: &str) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter(|line| [format!("/{name}-"), format!("/{name}/")].iter().any(|place| line.contains(place)))
        .map(str::to_owned)
        .collect()
}

/// Programs of the host whose command line names a folder, such as containerd and its shims.
pub(crate) fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_string_lossy().into_owned();
    let line = |pid: &String| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let all = names(Path::new("/proc")).into_iter().filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()));
    all.filter(|pid| line(pid).contains(&folder)).collect()
}

/// VMMs whose network namespace or command line names the node.
fn processes(name: &str) -> Vec<String> {
    names(Path::new("/proc"))
        .into_iter()
        .filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|pid| {
            // One that has ended and that nobody buries: a container's, whose shim was killed, is
            // left to the machine's first process.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')) {
                return false;
            }
            let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            cgroup.contains(&format!("/{name}/"))
        })
        .collect()
}
