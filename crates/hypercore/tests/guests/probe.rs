//! A `/dev/kvm` that opens is not believed.

use std::process::Command;

use wire::v1::node::RuntimeName;

use crate::machine::Residue;
use crate::node::{NodeProcess, id};

#[tokio::test]
async fn the_choice_of_accelerator_is_a_verdict_with_a_reason_and_remembered() {
    let before = Residue::of("pltd");
    let mut node = NodeProcess::new("pltd", 3, "probe_deadline_ms = 3000").await;
    let config = node.dir.path().join("palatine.toml");
    let text = std::fs::read_to_string(&config).unwrap().replace("accelerator = \"tcg\"", "accelerator = \"auto\"");
    node.stop();
    std::fs::write(&config, text).unwrap();
    node.start().await;
    let first = node.client().info().await.unwrap();
    assert!(!first.runtime_reason.is_empty());
    println!("{}: {}", first.runtime.as_str(), first.runtime_reason);
    node.stop();
    let verdict = node.dir.path().join("node/accelerator.json");
    let written = std::fs::metadata(&verdict).unwrap().modified().unwrap();
    node.start().await;
    assert_eq!(node.client().info().await.unwrap().runtime_reason, first.runtime_reason);
    assert_eq!(std::fs::metadata(&verdict).unwrap().modified().unwrap(), written);
    node.end(&before);
    let left = Command::new("ip").args(["netns", "list"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&left.stdout).contains("pltd"));
}

#[tokio::test]
async fn on_kvm_that_works_a_guest_runs_on_kvm() {
    needs::needs!(kvm, root, network, tun, cgroups);
    let before = Residue::of("pltv");
    let mut node = NodeProcess::new("pltv", 12, "").await;
    let config = node.dir.path().join("palatine.toml");
    let text = std::fs::read_to_string(&config).unwrap().replace("accelerator = \"tcg\"", "accelerator = \"kvm\"");
    node.stop();
    std::fs::write(&config, text).unwrap();
    node.start().await;
    assert_eq!(node.client().info().await.unwrap().runtime, RuntimeName::QemuKvm);
    node.create(id(61)).await;
    node.ready(id(61)).await;
    node.delete(id(61)).await;
    node.end(&before);
}

/// On a machine whose KVM is a trap this takes the whole deadline; on one whose KVM
/// works it proves that. A verdict either way, and the node serves.
#[tokio::test]
async fn a_device_that_is_open_to_guests_is_tried_with_a_guest() {
    let before = Residue::of("pltf");
    let node = tempfile::NamedTempFile::new().unwrap();
    std::fs::remove_file(node.path()).unwrap();
    let path = node.path().display().to_string();
    // The device with the rights it has on a distribution, for the daemon alone.
    let entry =
        format!("test -c /dev/kvm && mknod -m 666 {path} c 10 232 && mount --bind {path} /dev/kvm; exec \"$0\" \"$@\"");
    let mut node = NodeProcess::new("pltf", 5, "probe_deadline_ms = 2500").await;
    let config = node.dir.path().join("palatine.toml");
    let text = std::fs::read_to_string(&config).unwrap().replace("accelerator = \"tcg\"", "accelerator = \"auto\"");
    node.stop();
    std::fs::write(&config, text).unwrap();
    node.start_by(&["unshare", "--mount", "--propagation", "slave", "sh", "-c", &entry]).await;
    let info = node.client().info().await.unwrap();
    println!("{}: {}", info.runtime.as_str(), info.runtime_reason);
    match info.runtime {
        RuntimeName::QemuKvm => assert!(info.runtime_reason.contains("probe guest answered")),
        RuntimeName::QemuTcg => assert!(info.runtime_reason.contains("kvm") || info.runtime_reason.contains("KVM")),
        RuntimeName::ContainerGvisor | RuntimeName::ContainerRunc | RuntimeName::ContainerCrun => {
            panic!("nobody asked for a container")
        }
    }
    node.end(&before);
}
