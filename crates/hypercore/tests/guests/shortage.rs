//! What a node lacks costs no agent its life or its data.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::ffi::CStr;
use std::path::Path;
use std::time::Duration;

use domain::{NodeShortage, PodId, RunId};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};
use wire::v1::node::{DataDisk, DataPolicy, SandboxPhase};

use crate::machine::Residue;
use crate::node::{NodeProcess, PATIENCE, id};

/// Room for a guest's disks, and soon full.
const SIZE: &CStr = c"size=192m,mode=0700";

/// One more count in the agent's `/data`, on its disk before it is told.
async fn try_count(node: &NodeProcess, id: RunId) -> Option<u64> {
    let mut tunnel = node.client().tunnel(id, None).await.ok()?;
    let ask = b"POST /state HTTP/1.1\r\nhost: agent\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    tunnel.write_all(ask).await.ok()?;
    let mut said = String::new();
    tunnel.read_to_string(&mut said).await.ok()?;
    let (_, body) = said.split_once("\r\n\r\n")?;
    serde_json::from_str::<Value>(body).ok()?["count"].as_u64()
}

/// The same of an agent that answers.
async fn count(node: &NodeProcess, id: RunId) -> u64 {
    try_count(node, id).await.unwrap_or_else(|| panic!("no answer: {}", node.log()))
}

/// Counts until the guest is stopped for want of disk; the last number it told.
async fn count_until_it_waits(node: &NodeProcess, id: RunId) -> u64 {
    let (until, mut last) = (Instant::now() + PATIENCE, 0);
    loop {
        let sandbox = node.client().get(id).await.unwrap().unwrap();
        if waits_for_disk(sandbox.phase) {
            return last;
        }
        assert!(Instant::now() < until, "{sandbox:?}: {}", node.log());
        match timeout(Duration::from_secs(2), try_count(node, id)).await {
            Ok(Some(counted)) => last = counted,
            Ok(None) | Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

fn configure(node: &NodeProcess, from: &str, to: &str) {
    let path = node.dir.path().join("palatine.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from));
    std::fs::write(path, text.replace(from, to)).unwrap();
}

fn kill(pid: Option<u32>) {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::KILL).expect("it lives");
}

fn waits_for_disk(phase: SandboxPhase) -> bool {
    matches!(phase, SandboxPhase::Waiting { lacks: NodeShortage::Disk, .. })
}

#[tokio::test]
async fn fault_1_1_a_daemon_that_comes_back_to_too_little_disk_waits_and_the_data_is_there_again() {
    let before = Residue::of("pltn");
    let mut node = NodeProcess::new("pltn", 13, "backoff_longest_ms = 500\nhealth_failures = 3").await;
    node.create(id(1)).await;
    let ready = node.ready(id(1)).await;
    assert_eq!(count(&node, id(1)).await, 1);
    node.kill();
    kill(ready.pid);
    configure(&node, "disk_free_mib = 64", "disk_free_mib = 100000000");
    node.start().await;
    let waiting = node.until(id(1), |sandbox| waits_for_disk(sandbox.phase)).await;
    assert!(waiting.cause.is_some_and(|cause| cause.contains("must stay free")));
    // Six failed starts were once enough to fail it, and to erase its disks.
    let long = Instant::now() + Duration::from_secs(8);
    while Instant::now() < long {
        let phase = node.client().get(id(1)).await.unwrap().unwrap().phase;
        assert!(waits_for_disk(phase), "{phase:?}");
        sleep(Duration::from_millis(200)).await;
    }
    node.stop();
    configure(&node, "disk_free_mib = 100000000", "disk_free_mib = 64");
    node.start().await;
    node.ready(id(1)).await;
    assert_eq!(count(&node, id(1)).await, 2);

    // Nobody's word: its disks are left, whole; its owner's word erases them.
    let gone = node.client().delete(id(1), id(1).into(), Duration::from_secs(5), DataPolicy::Keep).await.unwrap();
    let kept = node.client().disks().await.unwrap().kept;
    assert_eq!((kept.len(), kept[0].pod), (1, id(1).into()));
    assert_eq!(gone.kept.and_then(|kept| kept.until), kept[0].retention.map(|kept| kept.until));
    assert!(node.dir.path().join("node/kept").join(&kept[0].name).join("data.ext4").exists());
    node.delete(id(1)).await;
    assert!(node.client().disks().await.unwrap().kept.is_empty());
    node.end(&before);
}

#[tokio::test]
async fn what_was_written_to_data_is_there_in_the_pods_next_run() {
    let before = Residue::of("pltu");
    let node = NodeProcess::new("pltu", 21, "").await;
    let pod = PodId::chosen("agent-123").unwrap();
    let mut spec = node.spec(pod);
    for (run, counted) in [(1, 1), (2, 2)] {
        node.client().create(id(run), &spec, None).await.unwrap();
        assert_eq!(node.ready(id(run)).await.pod, pod);
        assert_eq!(node.run(id(run), &["/usr/bin/agent-echo", "tell", "env", "POD_ID"]).await.trim(), "agent-123");
        assert_eq!(count(&node, id(run)).await, counted, "what the run before has counted is there");
        let gone = node.client().delete(id(run), pod, Duration::from_secs(5), DataPolicy::Keep).await.unwrap();
        assert!(gone.kept.is_some_and(|kept| kept.bytes > 0));
        spec.data = DataDisk::Kept;
    }
    let [kept] = node.client().disks().await.unwrap().kept.try_into().unwrap();
    let dir = node.dir.path().join("node/kept").join(&kept.name);
    assert!(dir.join("data.ext4").exists() && !dir.join("layer.ext4").exists());
    node.client().erase(pod).await.unwrap();
    assert!(node.client().disks().await.unwrap().kept.is_empty() && !dir.exists());
    assert!(node.client().create(id(3), &spec, None).await.is_err(), "nothing is kept of it any more");
    node.end(&before);
}

/// A disk of its own under the node's state, for as long as this lives.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn under(state: &'a Path) -> Self {
        mount("tmpfs", state, "tmpfs", MountFlags::empty(), SIZE).expect("mount a small disk");
        Self(state)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.0, UnmountFlags::DETACH);
    }
}

fn fill(path: &Path) {
    let chunk = [1_u8; 4096];
    let mut file = std::fs::File::create(path).unwrap();
    while std::io::Write::write_all(&mut file, &chunk).is_ok() {}
}

#[tokio::test]
async fn fault_1_6_a_full_host_disk_stops_a_guest_where_it_is_and_room_has_it_go_on() {
    let before = Residue::of("pltm");
    let mut node = NodeProcess::new("pltm", 14, "backoff_longest_ms = 500").await;
    node.stop();
    let state = node.dir.path().join("node");
    let disk = SmallDisk::under(&state);
    node.start().await;
    node.create(id(1)).await;
    let ready = node.ready(id(1)).await;
    assert_eq!(count(&node, id(1)).await, 1);
    fill(&state.join("ballast"));
    let told = count_until_it_waits(&node, id(1)).await;
    std::fs::remove_file(state.join("ballast")).unwrap();
    let again = node.ready(id(1)).await;
    assert_eq!((again.pid, again.restarts), (ready.pid, 0));
    let next = count(&node, id(1)).await;
    assert!(next > told, "{next} after {told}: nothing that was told is lost");

    // A second time, and it is stopped while it waits.
    fill(&state.join("ballast"));
    count_until_it_waits(&node, id(1)).await;
    node.delete(id(1)).await;
    assert!(node.client().list().await.unwrap().sandboxes.is_empty());
    node.stop();
    drop(disk);
    drop(node);
    assert_eq!(Residue::of("pltm"), before);
}
