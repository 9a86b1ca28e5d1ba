//! Containers whose kernel is gVisor's: what its own processes take counts for the container too.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use domain::RunId;
use tokio::time::{sleep, timeout};
use wire::v1::node::{RuntimeName, SandboxPhase};

use crate::machine::{Residue, processes_of};
use crate::node::{NodeProcess, first_container_uid, id};

const NODE: &str = "pltx";
/// How long what a command says may take, whose guest may end before.
const ANSWER: Duration = Duration::from_secs(60);
/// Between two looks at what it has.
const LOOK: Duration = Duration::from_millis(5);
/// The user of the node who is root in the first container.
const ROOT: u32 = first_container_uid(32);
/// What the guests of [`NodeProcess`] have, and what is promised to `pod` and gVisor beside it.
const LIMIT: u64 = (128 + 16 + 128) * 1024 * 1024;

/// A file of the container's cgroup, by its name in version 1 or in version 2.
fn limit(run: RunId, first: (&str, &str), second: &str) -> String {
    limit_now(run, first, second).expect("a cgroup")
}

/// The same, unless the container has ended.
fn limit_now(run: RunId, (controller, first): (&str, &str), second: &str) -> Option<String> {
    let root = Path::new("/sys/fs/cgroup");
    let group = format!("{NODE}/{run}");
    let files = [root.join(controller).join(&group).join(first), root.join(&group).join(second)];
    files.iter().find_map(|file| fs::read_to_string(file).ok())
}

/// What a container has of memory at most, looked at until it, or whoever looks, ends.
async fn highest(run: RunId, most: &mut u64) {
    loop {
        let now = limit_now(run, ("memory", "memory.max_usage_in_bytes"), "memory.peak");
        *most = now.and_then(|text| text.trim().parse().ok()).unwrap_or(0).max(*most);
        sleep(LOOK).await;
    }
}

fn cpu_time(run: RunId) -> Duration {
    let text = limit(run, ("cpuacct", "cpuacct.usage"), "cpu.stat");
    match text.strip_prefix("usage_usec ") {
        Some(rest) => Duration::from_micros(rest.lines().next().unwrap().parse().unwrap()),
        None => Duration::from_nanos(text.trim().parse().unwrap()),
    }
}

#[tokio::test]
async fn a_guest_in_gvisor_has_its_tiers_memory_and_cores_and_no_more_of_the_node() {
    needs::needs!(gvisor);
    let before = Residue::of(NODE);
    let more = "runtimes = [\"container-gvisor\"]\nbackoff_first_ms = 100";
    let mut node = NodeProcess::plan("pltx", 32, more, "uplinks = [\"lo\"]");
    node.start().await;
    node.create(id(1)).await;
    let guest = node.ready(id(1)).await;
    assert_eq!(guest.runtime, RuntimeName::ContainerGvisor);

    // Its kernel, and who opens files for that, are plain users, and under its limits.
    let limited = limit(id(1), ("pids", "cgroup.procs"), "cgroup.procs");
    let limited: Vec<&str> = limited.lines().collect();
    let kernel: Vec<String> = processes_of(&node.dir.path().join("node/containerd/runtime"))
        .into_iter()
        .filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| !name.starts_with("containerd")))
        .collect();
    assert!(kernel.len() >= 2 && kernel.contains(&guest.pid.unwrap().to_string()), "{kernel:?}");
    for pid in &kernel {
        assert!(limited.contains(&pid.as_str()), "{pid} of {kernel:?} is not limited: {limited:?}");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
        let user = status.lines().find_map(|line| line.strip_prefix("Uid:\t")?.split('\t').next()).expect("a user");
        assert!((ROOT..ROOT + 65_536).contains(&user.parse().unwrap()), "{status}");
    }

    let (since, used) = (Instant::now(), cpu_time(id(1)));
    node.run(id(1), &["/usr/bin/agent-echo", "hog", "cores", "2", "3"]).await;
    let (took, used) = (since.elapsed(), cpu_time(id(1)) - used);
    assert!(used <= took.mul_f64(1.2) && used >= took.mul_f64(0.3), "{used:?} of one core in {took:?}");

    // Twice what it may have ends it, or is refused to it, within what was promised.
    let mut most = 0;
    tokio::select! {
        said = timeout(ANSWER, node.try_run(id(1), &["/usr/bin/agent-echo", "hog", "memory", "512"])) => {
            assert!(said.is_ok(), "a command outlives its guest");
        }
        () = highest(id(1), &mut most) => {}
    }
    assert!(most > 0 && most <= LIMIT, "{most} of {LIMIT}");
    let again = node.until(id(1), |sandbox| sandbox.phase == SandboxPhase::Ready).await;
    assert!(again.restarts <= 1, "{again:?}");
    assert_eq!(node.run(id(1), &["/usr/bin/agent-echo", "tell", "user"]).await.trim(), "1000");
    node.delete(id(1)).await;
    node.end(&before);
}
