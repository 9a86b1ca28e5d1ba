//! One agent from its first to its last breath.

use std::time::Duration;

use client::LogSource;
use domain::MarkKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::machine::Residue;
use crate::node::{CANARY, NodeProcess, id};

#[tokio::test]
async fn an_agent_is_spawned_reached_asked_and_gone_without_a_trace() {
    let before = Residue::of("plta");
    let node = NodeProcess::new("plta", 0, "").await;
    node.create(id(1)).await;
    let ready = node.ready(id(1)).await;
    println!("ready after {:?} ms", ready.ready_after_ms);

    let mut tunnel = node.client().tunnel(id(1), None).await.unwrap();
    tunnel.write_all(b"GET /ready HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut said = String::new();
    tunnel.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 2"), "{said}");

    assert_eq!(node.run(id(1), &["/usr/bin/agent-echo", "tell", "cores"]).await.trim(), "1");
    assert_eq!(node.run(id(1), &["/usr/bin/agent-echo", "tell", "env", "CANARY"]).await.trim(), CANARY);
    assert!(!node.said(id(1), LogSource::Agent).await.is_empty(), "{}", node.log());
    the_canary_is_nowhere(&node, ready.pid.unwrap());
    the_vmm_is_confined(ready.pid.unwrap());

    node.delete(id(1)).await;
    assert_eq!(node.client().list().await.unwrap().sandboxes, []);
    let marks = node.client().marks(0, Duration::ZERO).await.unwrap().marks;
    let kinds: Vec<MarkKind> = marks.iter().map(|mark| mark.mark.kind).collect();
    assert_eq!(kinds, [MarkKind::Booting, MarkKind::Ready, MarkKind::Unready, MarkKind::Gone]);
    assert_eq!(std::fs::read_dir(node.dir.path().join("node/guests")).unwrap().count(), 0);
    node.end(&before);
}

/// A user of its own, no new privileges, a system call filter, no core dumps, a
/// network and a cgroup of its own.
fn the_vmm_is_confined(vmm: u32) {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{vmm}/{file}")).expect("it lives");
    let status = read("status");
    for line in [
        "Uid:\t1879148192\t1879148192",
        "Gid:\t1879148192\t1879148192",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "CapEff:\t0000000000000000",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert!(status.lines().any(|line| line.trim_end() == "Groups:"), "{status}");
    let limits = read("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("a namespace");
    assert_ne!(network(&vmm.to_string()), network("self"));
    let groups = read("cgroup");
    let limit = ["memory/", "."].iter().zip(["memory.limit_in_bytes", "memory.max"]).find_map(|(root, file)| {
        let group = groups.lines().find_map(|line| line.rsplit_once("/plta/").map(|(_, id)| id))?;
        std::fs::read_to_string(format!("/sys/fs/cgroup/{root}/plta/{group}/{file}")).ok()
    });
    assert_eq!(limit.as_deref().map(str::trim), Some(((128 + 192) * 1024 * 1024).to_string().as_str()), "{groups}");
}

/// In no file of the node, nor on the VMM's or the daemon's command line. The
/// guest's own disks hold it only if its agent puts it there.
fn the_canary_is_nowhere(node: &NodeProcess, vmm: u32) {
    let mut folders = vec![node.dir.path().to_owned()];
    for pid in [vmm, node.daemon_pid()] {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).expect("it lives");
        assert!(!holds(&line), "the command line of {pid}");
    }
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.is_file() {
                assert!(!holds(&std::fs::read(&path).expect("a file")), "{}", path.display());
            }
        }
    }
}

/// Looks into pages that are not empty, and across their borders.
fn holds(bytes: &[u8]) -> bool {
    const PAGE: usize = 4096;
    let full = |at: &usize| bytes[*at..(*at + PAGE).min(bytes.len())] != [0; PAGE][..PAGE.min(bytes.len() - *at)];
    (0..bytes.len()).step_by(PAGE).filter(full).any(|at| {
        let end = (at + PAGE + CANARY.len()).min(bytes.len());
        bytes[at.saturating_sub(CANARY.len())..end].windows(CANARY.len()).any(|word| word == CANARY.as_bytes())
    })
}
