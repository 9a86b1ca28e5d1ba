//! Containers on a real node: shut in, adopted, ended with nothing left, beside machines.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use client::NodeError;
use domain::{PodId, VolumeId};
use rustix::fs::inotify;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{Gid, LinkNameSpaceType, Uid, move_into_link_name_space, set_thread_res_gid, set_thread_res_uid};
use tokio::time::{Instant, sleep};
use wire::fault::Code;
use wire::v1::node::{DataPolicy, RuntimeName, SandboxPhase, SandboxSpec, SandboxVolume, VolumeSpec};

use crate::machine::{Residue, processes_of};
use crate::node::{CANARY, NodeProcess, PATIENCE, first_container_uid, id};

const RUNC: &str = "runtimes = [\"container-runc\"]";

fn field(pid: u32, name: &str) -> Vec<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}: {status}")).split_whitespace().map(str::to_owned).collect()
}

/// The processes of a container, on the node.
fn inside(node: &str, run: domain::RunId) -> Vec<u32> {
    let groups = [format!("pids/{node}/{run}"), format!("{node}/{run}")];
    let text = groups
        .iter()
        .find_map(|group| fs::read_to_string(Path::new("/sys/fs/cgroup").join(group).join("cgroup.procs")).ok());
    text.expect("a cgroup").lines().map(|line| line.parse().expect("a number")).collect()
}

fn shut_in(node: &str, run: domain::RunId, first: u32, pod: u32) {
    let namespace = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace");
    for kind in ["mnt", "pid", "ipc", "user", "net", "uts", "cgroup"] {
        assert_ne!(namespace(&pod.to_string(), kind), namespace("self", kind), "{kind}");
    }
    let first = first.to_string();
    let map = fs::read_to_string(format!("/proc/{pod}/uid_map")).expect("it lives");
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", &first, "65536"]);
    assert_eq!(field(pod, "NSpid").last().map(String::as_str), Some("1"));
    assert_eq!(field(pod, "Uid"), vec![first; 4]);
    let limits = fs::read_to_string(format!("/proc/{pod}/limits")).expect("it lives");
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("a limit");
        line.split_whitespace().take(2).map(|most| most.parse().expect("a number")).collect::<Vec<u64>>()
    };
    assert_eq!(limit("Max core file size"), [0, 0]);
    let files = limit("Max open files");
    assert!(files[0] == files[1] && files[1] <= 65_536, "{limits}");
    let processes = inside(node, run);
    assert!(processes.contains(&pod) && processes.len() > 1, "{processes:?}");
    for process in processes {
        assert_eq!((field(process, "NoNewPrivs"), field(process, "Seccomp")), (vec!["1".into()], vec!["2".into()]));
        if process != pod {
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(field(process, set), ["0000000000000000"], "{set}");
            }
        }
    }
    let mounts = fs::read_to_string(format!("/proc/{pod}/mountinfo")).expect("it lives");
    for mount in mounts.lines() {
        let (at, options) = (mount.split(' ').nth(4).expect("a place"), mount.split(' ').nth(5).expect("options"));
        let has = |option: &str| options.split(',').any(|it| it == option);
        let read_only = ["/sys", "/proc/sys", "/run/palatine/pod", "/etc/resolv.conf"].contains(&at);
        assert!(!read_only || has("ro"), "{mount}");
        assert!(
            has("nosuid") || at.starts_with("/dev/") || at.starts_with("/proc/") || at.starts_with("/sys/"),
            "{mount}"
        );
    }
}

/// Every file below a folder that holds these bytes.
fn holding(folder: &Path, bytes: &[u8], found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("a kind"));
        if kind.is_dir() {
            holding(&path, bytes, found);
        } else if kind.is_file() {
            let text = fs::read(&path).unwrap_or_default();
            found.extend(text.windows(bytes.len()).any(|part| part == bytes).then(|| path.display().to_string()));
        }
    }
}

#[tokio::test]
async fn containers_are_shut_in_and_outlive_the_daemon_and_containerd() {
    let before = Residue::of("pltco");
    let mut node = NodeProcess::new("pltco", 22, RUNC).await;
    let state = node.dir.path().to_owned();
    let mut guests = Vec::new();
    for bits in 1..=2 {
        node.create(id(bits)).await;
    }
    for bits in 1..=2 {
        let guest = node.ready(id(bits)).await;
        assert_eq!(guest.runtime, RuntimeName::ContainerRunc);
        let slot = u32::try_from(bits).unwrap() - 1;
        shut_in("pltco", id(bits), first_container_uid(22) + slot * 65_536, guest.pid.expect("it runs"));
        guests.push(guest);
    }
    assert_eq!(node.client().info().await.unwrap().runtimes, [RuntimeName::ContainerRunc]);
    // What serves them is neither in their groups nor in the daemon's.
    for pid in processes_of(&state.join("node/containerd/grpc.sock")) {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives");
        assert!(groups.lines().any(|line| line.ends_with(":/pltco.shims")), "{groups}");
    }
    let mut found = Vec::new();
    holding(&state, CANARY.as_bytes(), &mut found);
    assert!(found.is_empty(), "the secret lies in {found:?}");

    node.kill();
    node.start().await;
    for (bits, guest) in (1..).zip(&guests) {
        assert_eq!(&node.ready(id(bits)).await, guest);
    }
    for pid in processes_of(&state.join("node/containerd/config.toml")) {
        kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    }
    for (bits, guest) in (1..).zip(&guests) {
        assert_eq!(node.run(id(bits), &["/usr/bin/agent-echo", "tell", "env", "CANARY"]).await.trim(), CANARY);
        assert_eq!(&node.ready(id(bits)).await, guest);
    }
    // One dies, and is started again by the containerd that came after.
    kill_process(Pid::from_raw(guests[0].pid.unwrap().try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    let again = node.until(id(1), |sandbox| sandbox.restarts == 1 && sandbox.phase == SandboxPhase::Ready).await;
    assert_ne!(again.pid, guests[0].pid);
    for bits in 1..=2 {
        node.delete(id(bits)).await;
    }
    node.end(&before);
    assert_eq!(processes_of(&state), Vec::<String>::new());
}

/// A process that is in a container's users, as one of its agent's is, and holds what it gets of what the kernel counts for
/// each user.
struct Watcher(Child);

impl Watcher {
    /// The user of the image's agent.
    const AGENT: u32 = 1_000;
    const KIND: &str = "anon_inode:inotify";

    /// Has taken as many instances of inotify as it was given.
    #[expect(unsafe_code, reason = "what is taken before the program begins is held by it")]
    fn greedy(pod: u32) -> Self {
        let users = File::open(format!("/proc/{pod}/ns/user")).expect("it lives");
        let (user, group) = (Uid::from_raw(Self::AGENT), Gid::from_raw(Self::AGENT));
        let enter = move || {
            move_into_link_name_space(users.as_fd(), Some(LinkNameSpaceType::User))?;
            set_thread_res_gid(group, group, group)?;
            set_thread_res_uid(user, user, user)?;
            while let Ok(instance) = inotify::init(inotify::CreateFlags::empty()) {
                std::mem::forget(instance);
            }
            Ok(())
        };
        // By its own path: that user may not look into the folder of links that leads there.
        let path = std::env::var_os("PATH").expect("a path");
        let found = std::env::split_paths(&path).find_map(|dir| fs::canonicalize(dir.join("sleep")).ok());
        let mut command = Command::new(found.expect("sleep is installed"));
        command.arg("infinity");
        // SAFETY: system calls alone.
        Self(unsafe { command.pre_exec(enter) }.spawn().expect("it begins"))
    }

    fn holds(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", self.0.id())).expect("it lives").flatten();
        files.filter(|file| fs::read_link(file.path()).is_ok_and(|to| to == Path::new(Self::KIND))).count()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_container_that_takes_all_that_its_user_may_have_leaves_the_others_theirs() {
    let before = Residue::of("pltcu");
    let node = NodeProcess::new("pltcu", 33, "runtimes = [\"container-runc\", \"container-crun\"]").await;
    let runtimes = [RuntimeName::ContainerRunc, RuntimeName::ContainerRunc, RuntimeName::ContainerCrun];
    let mut pods = Vec::new();
    for (bits, runtime) in (1..).zip(runtimes) {
        let spec = SandboxSpec { runtime: Some(runtime), ..node.spec(id(bits).into()) };
        node.client().create(id(bits), &spec, None).await.unwrap();
        pods.push(node.ready(id(bits)).await.pid.expect("it runs"));
    }
    let mut greedy = Vec::new();
    for pod in &pods[..2] {
        let mut taken = 0;
        loop {
            let watcher = Watcher::greedy(*pod);
            let more = watcher.holds();
            greedy.push(watcher);
            if more == 0 {
                break;
            }
            taken += more;
        }
        assert!(taken > 0, "nothing is left for the container of {pod}");
    }
    assert!(Watcher::greedy(pods[2]).holds() > 0, "nothing is left for the last");
    drop(greedy);

    // Those users are this node's as long as it runs.
    let mut other = NodeProcess::plan("pltcv", 25, RUNC, "uplinks = [\"lo\"]");
    let last = first_container_uid(33) + 63 * 65_536;
    let own = format!("first_container_uid = {}", first_container_uid(25));
    other.configure(&own, &format!("first_container_uid = {last}"));
    let said = other.refused().await;
    assert!(said.contains(&format!("node.first_container_uid: the users from {last} on meet those from")), "{said}");
    for bits in 1..=3 {
        node.delete(id(bits)).await;
    }
    node.end(&before);
}

#[tokio::test]
async fn a_container_whose_shim_is_stuck_is_ended_all_the_same() {
    let before = Residue::of("pltcs");
    let node = NodeProcess::new("pltcs", 23, RUNC).await;
    node.create(id(1)).await;
    node.ready(id(1)).await;
    let state = node.dir.path().to_owned();
    let shims: Vec<_> = processes_of(&state.join("node/containerd/grpc.sock"));
    assert!(!shims.is_empty());
    for pid in shims {
        kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), Signal::STOP).unwrap();
    }
    node.delete(id(1)).await;
    assert_eq!(processes_of(&state.join("node/containerd/grpc.sock")), Vec::<String>::new());
    node.end(&before);
}

#[tokio::test]
async fn one_node_has_machines_and_containers_and_data_goes_from_those_to_these_alone() {
    let before = Residue::of("pltcm");
    let both = "runtimes = [\"qemu\", \"container-runc\"]";
    let mut node = NodeProcess::plan("pltcm", 24, both, "uplinks = [\"lo\"]");
    node.start().await;
    let info = node.client().info().await.unwrap();
    assert_eq!(info.runtimes, [RuntimeName::QemuTcg, RuntimeName::ContainerRunc]);
    let pod = PodId::chosen("agent-123").unwrap();
    for (bits, runtime) in [(1, RuntimeName::ContainerRunc), (2, RuntimeName::QemuTcg)] {
        node.runtime = Some(runtime);
        node.client().create(id(bits), &node.spec(pod), None).await.unwrap();
        assert_eq!(node.ready(id(bits)).await.runtime, runtime);
        node.client().delete(id(bits), pod, Duration::from_secs(5), DataPolicy::Keep).await.unwrap();
    }
    for (runtime, why) in
        [(RuntimeName::ContainerRunc, "written by a machine"), (RuntimeName::ContainerCrun, "not offer")]
    {
        node.runtime = Some(runtime);
        let refused = node.client().create(id(3), &node.spec(pod), None).await.unwrap_err();
        assert_eq!(refused.code(), Some(Code::InvalidRequest), "{refused}");
        assert!(matches!(&refused, NodeError::Refused(_)) && refused.to_string().contains(why), "{refused}");
    }
    let volume = VolumeId::from_bits(7);
    node.client().put_volume(volume, &VolumeSpec { size_mib: 64, exists: false }).await.unwrap();
    node.runtime = Some(RuntimeName::ContainerRunc);
    let other = PodId::chosen("agent-124").unwrap();
    let mount = SandboxVolume { id: volume, name: "work".parse().unwrap(), path: "/workspace".parse().unwrap() };
    let with_volume = SandboxSpec { volumes: vec![mount], ..node.spec(other) };
    let refused = node.client().create(id(4), &with_volume, None).await.unwrap_err();
    assert!(refused.to_string().contains("needs a machine"), "{refused}");
    assert_eq!(node.client().info().await.unwrap().sandboxes, 0);
    node.client().erase_volume(volume).await.unwrap();
    node.client().erase(pod).await.unwrap();
    let until = Instant::now() + PATIENCE;
    while node.client().info().await.unwrap().sandboxes > 0 {
        assert!(Instant::now() < until);
        sleep(Duration::from_millis(20)).await;
    }
    node.end(&before);
}
