//! The QEMU driver where no guest comes up: what it makes of a VMM that fails, of one that
//! cannot be asked, and of what it cannot remove. `palatine-hypercore` tries it on guests.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use domain::{NodeShortage, PodId, RunId, UnixMillis};
use palatine_sandbox::drivers::qemu::{AcceleratorChoice, Kernel, Qemu, QemuSettings};
use palatine_sandbox::network::{self, Egress};
use palatine_sandbox::{
    ContainerFacts, DiskRetention, DriverFailure, GuestFacts, GuestSpec, Runtime, RuntimeError, Slot, VmmFacts, process,
};
use wire::v1::node::{DataDisk, KeptCause, Retention, RuntimeName};

const RETENTION: Retention = Retention { since: UnixMillis(1), until: UnixMillis(2), cause: KeptCause::Found };

/// A node of this name whose kernel is none.
async fn driver(state: &Path, name: &str, number: u32) -> Qemu {
    for file in ["vmlinux", "initramfs", "base"] {
        fs::write(state.join(file), "").unwrap();
    }
    let network = network::Config {
        name: name.to_owned().try_into().unwrap(),
        range: format!("10.223.{number}.0/24").parse().unwrap(),
        egress: Egress::None,
        ..network::Config::default()
    };
    let (vmlinux, initramfs) = (state.join("vmlinux"), state.join("initramfs"));
    let settings = QemuSettings {
        state: state.to_owned(),
        kernel: Kernel { vmlinux, initramfs, version: "none".to_owned() },
        accelerator: AcceleratorChoice::Tcg,
        probe_deadline: Duration::from_secs(5),
        first_uid: 1_878_000_000 + number * 1_000,
        layer_mib: 64,
        data_mib: 16,
        translation_cache_mib: 64,
        disk_mib_per_second: 0,
        least_free_mib: 1,
        network,
    };
    Qemu::start(settings).await.unwrap()
}

fn spec(state: &Path) -> GuestSpec {
    let slot = Slot { run: RunId::from_bits(0x0d0f_0001), number: 1 };
    let (pod, data) = (PodId::chosen("agent-123").unwrap(), DataDisk::KeptOrEmpty);
    let (base, state_dir, volumes) = (state.join("base"), "/data".to_owned(), Vec::new());
    GuestSpec { slot, pod, data, cores: 1, memory_mib: 64, runtime: None, base, volumes, state_dir, ran: false }
}

#[tokio::test]
async fn fault_1_1_a_vmm_that_ends_at_once_is_the_nodes_trouble_and_leaves_nothing() {
    needs::needs!(root, network, tun, cgroups);
    let state = tempfile::tempdir().unwrap();
    let (driver, spec) = (driver(state.path(), "plsa", 1).await, spec(state.path()));
    for _ in 0..2 {
        let error = driver.create(&spec).await.unwrap_err();
        assert_eq!(error.wait_reason(), NodeShortage::Vmm, "{error:?}");
        let RuntimeError::Failed { source: DriverFailure::Vmm(words), .. } = error else { panic!("{error:?}") };
        assert!(words.contains("and said: ") && words.contains("vmlinux"), "{words}");
        assert!(driver.observed_runs().await.unwrap().values().all(|remains| !remains.runs));
    }
    let disks = state.path().join("guests").join(spec.slot.run.to_string());
    assert!(disks.join("data.ext4").exists(), "its data is kept");
    driver.stop(spec.slot, DiskRetention::Erase).await.unwrap();
    driver.close().await.unwrap();
}

#[tokio::test]
async fn kept_data_is_given_back_by_a_run_that_never_ran_and_an_empty_disk_is_not_kept() {
    needs::needs!(root, network, tun, cgroups);
    let state = tempfile::tempdir().unwrap();
    let (driver, spec) = (driver(state.path(), "plsg", 7).await, spec(state.path()));
    let kept = state.path().join("kept/agent-123");
    // Its first run: nothing is kept, and what it made is as empty as it was made.
    driver.create(&spec).await.unwrap_err();
    driver.stop(spec.slot, DiskRetention::KeepAll(RETENTION)).await.unwrap();
    assert!(!kept.exists() && driver.kept(None).await.unwrap().is_empty());
    fs::create_dir_all(&kept).unwrap();
    fs::write(kept.join("data.ext4"), "what the agent wrote").unwrap();
    let here = state.path().join("guests").join(spec.slot.run.to_string()).join("data.ext4");
    for end in [DiskRetention::KeepData(RETENTION), DiskRetention::KeepAll(RETENTION)] {
        assert!(driver.kept_data(spec.pod).await.unwrap().is_some());
        driver.create(&GuestSpec { data: DataDisk::Kept, ..spec.clone() }).await.unwrap_err();
        assert_eq!(fs::read_to_string(&here).unwrap(), "what the agent wrote");
        assert_eq!(driver.kept_data(spec.pod).await.unwrap(), None);
        driver.stop(spec.slot, end).await.unwrap();
        let [found] = driver.kept(Some(spec.pod)).await.unwrap().try_into().unwrap();
        assert_eq!((found.name.as_str(), found.retention), ("agent-123", Some(RETENTION)));
        assert!(!kept.join("layer.ext4").exists(), "nothing was written to it");
    }
    driver.close().await.unwrap();
}

#[tokio::test]
async fn a_container_is_neither_ended_nor_given_up_by_a_node_that_offers_machines_alone() {
    needs::needs!(root, network, tun, cgroups);
    let state = tempfile::tempdir().unwrap();
    let (driver, spec) = (driver(state.path(), "plsj", 10).await, spec(state.path()));
    let data = state.path().join("containers").join(spec.slot.run.to_string()).join("data.host.ext4");
    fs::create_dir_all(data.parent().unwrap()).unwrap();
    fs::write(&data, "what the agent wrote").unwrap();
    let process = process::facts(std::process::id()).unwrap();
    let facts = GuestFacts::Container(ContainerFacts { runtime: RuntimeName::ContainerRunc, process });
    let mut refused = vec![driver.adopt(&spec, &facts).await.unwrap_err(), driver.create(&spec).await.unwrap_err()];
    for end in [DiskRetention::Attached, DiskRetention::KeepData(RETENTION), DiskRetention::Erase] {
        refused.push(driver.stop(spec.slot, end).await.unwrap_err());
    }
    for error in refused {
        assert_eq!(error.wait_reason(), NodeShortage::Vmm, "{error:?}");
        let RuntimeError::Failed { source: DriverFailure::Missing(why), .. } = error else { panic!("{error:?}") };
        assert!(why.contains("name it again"), "{why}");
    }
    assert_eq!(fs::read_to_string(&data).unwrap(), "what the agent wrote");
    assert!(!state.path().join("guests").join(spec.slot.run.to_string()).exists());
    driver.close().await.unwrap();
}

#[tokio::test]
async fn data_that_cannot_be_had_is_waited_for() {
    needs::needs!(root, network, tun, cgroups);
    let state = tempfile::tempdir().unwrap();
    let (driver, spec) = (driver(state.path(), "plsh", 8).await, spec(state.path()));
    let kept = state.path().join("kept/agent-123/data.ext4");
    // What lies there is no disk; then there is nothing, where there must be something.
    fs::create_dir_all(kept.parent().unwrap()).unwrap();
    fs::write(&kept, "").unwrap();
    for spec in [spec.clone(), GuestSpec { data: DataDisk::Kept, ..spec.clone() }] {
        let error = driver.create(&spec).await.unwrap_err();
        assert_eq!(error.wait_reason(), NodeShortage::Disk, "{error:?}");
        let RuntimeError::Failed { source: DriverFailure::Missing(why), .. } = error else { panic!("{error:?}") };
        assert!(why.contains("backup"), "{why}");
        let _ = fs::remove_file(&kept);
    }
    driver.stop(spec.slot, DiskRetention::KeepData(RETENTION)).await.unwrap();
    assert!(driver.kept(None).await.unwrap().is_empty());
    driver.close().await.unwrap();
}

#[tokio::test]
async fn fault_1_3_a_disk_that_another_vmm_writes_to_is_neither_used_nor_let_go() {
    needs::needs!(root, network, tun, cgroups);
    let state = tempfile::tempdir().unwrap();
    let (driver, spec) = (driver(state.path(), "plsd", 4).await, spec(state.path()));
    let dir = state.path().join("guests").join(spec.slot.run.to_string());
    fs::create_dir(&dir).unwrap();
    let disk = fs::File::create(dir.join("data.ext4")).unwrap();
    disk.set_len(16 << 20).unwrap();
    rustix::fs::flock(&disk, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = driver.create(&spec).await.unwrap_err();
    assert!(
        matches!(&error, RuntimeError::Failed { source: DriverFailure::Taken(why), .. } if why.contains("data.ext4")),
        "{error:?}"
    );
    let error = driver.stop(spec.slot, DiskRetention::Erase).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Failed { source: DriverFailure::Taken(_), .. }), "{error:?}");
    assert!(dir.join("data.ext4").exists());
    drop(disk);
    driver.stop(spec.slot, DiskRetention::Erase).await.unwrap();
    assert!(!dir.exists());
    driver.close().await.unwrap();
}

#[tokio::test]
async fn fault_1_3_a_vmm_that_runs_under_another_nodes_name_is_not_taken_for_gone() {
    needs::needs!(root, network, cgroups);
    let state = tempfile::tempdir().unwrap();
    let (driver, spec) = (driver(state.path(), "plse", 5).await, spec(state.path()));
    let mut vmm = stand_in("plt-another", spec.slot.run);
    let facts = GuestFacts::Qemu(VmmFacts { process: process::facts(vmm.id()).unwrap() });
    let error = driver.adopt(&spec, &facts).await.unwrap_err();
    assert_eq!(error.wait_reason(), NodeShortage::Vmm, "{error:?}");
    assert!(vmm.try_wait().unwrap().is_none(), "it was ended");
    vmm.kill().unwrap();
    vmm.wait().unwrap();
    driver.close().await.unwrap();
    for hierarchy in ["memory", "."] {
        let group = PathBuf::from("/sys/fs/cgroup").join(hierarchy).join("plt-another");
        let _ = fs::remove_dir(group.join(spec.slot.run.to_string()));
        let _ = fs::remove_dir(group);
    }
}

#[tokio::test]
async fn fault_1_1_a_disk_that_is_lost_is_missed_and_not_made_anew() {
    needs::needs!(root, network, tun, cgroups);
    let state = tempfile::tempdir().unwrap();
    let driver = driver(state.path(), "plsf", 6).await;
    let spec = GuestSpec { ran: true, ..spec(state.path()) };
    let disk = state.path().join("guests").join(spec.slot.run.to_string()).join("layer.ext4");
    for lost in ["gone", "empty"] {
        let error = driver.create(&spec).await.unwrap_err();
        assert_eq!(error.wait_reason(), NodeShortage::Disk, "{error:?}");
        let RuntimeError::Failed { source: DriverFailure::Missing(why), .. } = error else { panic!("{error:?}") };
        assert!(why.contains(lost) && why.contains("layer.ext4") && why.contains("backup"), "{why}");
        fs::write(&disk, "").unwrap();
    }
    driver.stop(spec.slot, DiskRetention::Erase).await.unwrap();
    driver.close().await.unwrap();
}

/// A process in the group of a sandbox, in each hierarchy that this machine has.
fn stand_in(name: &str, id: RunId) -> Child {
    let child = Command::new("sleep").arg("600").spawn().unwrap();
    for hierarchy in ["memory", "."] {
        let root = PathBuf::from("/sys/fs/cgroup").join(hierarchy);
        if root.join("cgroup.procs").exists() {
            let group = root.join(name).join(id.to_string());
            fs::create_dir_all(&group).unwrap();
            fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
    }
    child
}

#[tokio::test]
async fn fault_1_2_a_vmm_that_cannot_be_asked_is_not_taken_for_gone() {
    needs::needs!(root, network, cgroups);
    let state = tempfile::tempdir().unwrap();
    let (driver, spec) = (driver(state.path(), "plsb", 2).await, spec(state.path()));
    let mut vmm = stand_in("plsb", spec.slot.run);
    let facts = GuestFacts::Qemu(VmmFacts { process: process::facts(vmm.id()).unwrap() });
    let dir = state.path().join("guests").join(spec.slot.run.to_string());
    fs::create_dir(&dir).unwrap();
    // Nobody listens, and then somebody who says nothing.
    for listener in [None, Some(())] {
        let _listener = listener.map(|()| UnixListener::bind(dir.join("control")).unwrap());
        let error = driver.adopt(&spec, &facts).await.unwrap_err();
        assert_eq!(error.wait_reason(), NodeShortage::Vmm, "{error:?}");
    }
    assert!(vmm.try_wait().unwrap().is_none(), "it was ended");
    vmm.kill().unwrap();
    vmm.wait().unwrap();
    assert!(driver.adopt(&spec, &facts).await.unwrap().is_none());
    driver.stop(spec.slot, DiskRetention::Erase).await.unwrap();
    driver.close().await.unwrap();
}

#[tokio::test]
async fn fault_1_6_what_cannot_be_removed_keeps_no_node_from_starting() {
    needs::needs!(root, network, cgroups);
    let state = tempfile::tempdir().unwrap();
    let driver = driver(state.path(), "plsc", 3).await;
    let guests = state.path().join("guests");
    // No folder, so that it cannot be emptied; and one that can, after it.
    let (stays, goes) = (guests.join(RunId::from_bits(1).to_string()), guests.join(RunId::from_bits(2).to_string()));
    fs::write(&stays, "").unwrap();
    fs::create_dir(&goes).unwrap();
    assert_eq!(driver.sweep(&BTreeMap::new(), &RETENTION).await.unwrap(), 1);
    assert!(stays.exists() && !goes.exists());
    driver.close().await.unwrap();
}
