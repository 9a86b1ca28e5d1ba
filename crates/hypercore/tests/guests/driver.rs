//! Each driver passes the suite, with real guests that run the real `pod`.

use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{RunId, VolumeId};
use sandbox::conformance::{self, Harness};
use sandbox::drivers::container::{Container, ContainerSettings, OciRuntime};
use sandbox::drivers::qemu::{AcceleratorChoice, Qemu, QemuSettings};
use sandbox::{ContainerFacts, GuestFacts, NodeMachine, ProcessFacts, Runtime, VmmFacts, Volumes};

use crate::machine;

struct OnQemu {
    state: tempfile::TempDir,
    base: PathBuf,
}

/// Where no file system of Linux has anything: the place of a boot loader.
const BOOT_BLOCK: u64 = 0;

impl OnQemu {
    fn data(&self, id: RunId) -> PathBuf {
        self.state.path().join("guests").join(id.to_string()).join("data.ext4")
    }
}

fn settings(state: &Path) -> QemuSettings {
    QemuSettings {
        state: state.to_owned(),
        kernel: machine::kernel(),
        accelerator: AcceleratorChoice::Auto,
        probe_deadline: Duration::from_secs(5),
        first_uid: 1_879_100_000,
        layer_mib: 256,
        data_mib: 64,
        translation_cache_mib: 64,
        disk_mib_per_second: 0,
        least_free_mib: 100,
        network: machine::network("pltq", "10.211.0.0/16"),
    }
}

#[async_trait]
impl Harness for OnQemu {
    async fn driver(&self) -> Arc<dyn Runtime> {
        Arc::new(Qemu::start(settings(self.state.path())).await.expect("the driver starts"))
    }

    fn base(&self) -> PathBuf {
        self.base.clone()
    }

    async fn crash(&self, _id: RunId, facts: &GuestFacts) {
        let GuestFacts::Qemu(VmmFacts { process }) = facts else { panic!("{facts:?} are of no VMM") };
        kill(process);
    }

    async fn write(&self, id: RunId, text: &str) {
        write(&self.data(id), text);
    }

    async fn written(&self, id: RunId) -> String {
        written(&self.data(id))
    }

    async fn make_volume(&self, id: VolumeId) -> bool {
        Volumes::of(self.state.path()).make(id, 64).expect("a volume");
        true
    }

    fn boot_deadline(&self) -> Duration {
        Duration::from_secs(30)
    }
}

fn kill(process: &ProcessFacts) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(process.pid).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("the guest runs");
}

fn write(disk: &Path, text: &str) {
    let disk = std::fs::File::options().write(true).open(disk).expect("its disk");
    disk.write_all_at(text.as_bytes(), BOOT_BLOCK).expect("it is written");
}

fn written(disk: &Path) -> String {
    let mut text = [0; 20];
    let read = std::fs::File::open(disk).and_then(|disk| disk.read_exact_at(&mut text, BOOT_BLOCK));
    read.map(|()| String::from_utf8_lossy(&text).into_owned()).unwrap_or_else(|error| error.to_string())
}

struct InContainers {
    state: tempfile::TempDir,
    base: PathBuf,
    name: &'static str,
    range: &'static str,
    runtime: OciRuntime,
}

impl InContainers {
    fn new(name: &'static str, range: &'static str, runtime: OciRuntime) -> Self {
        let state = tempfile::tempdir().expect("a folder");
        let base = machine::root(state.path());
        // What would have a masked file of the host's kernel be this one.
        std::os::unix::fs::symlink("/proc/sys/kernel/core_pattern", base.join("dev/null")).expect("a link");
        Self { state, base, name, range, runtime }
    }

    /// Its users, beside those of the others.
    fn uids(&self) -> RangeInclusive<u32> {
        let slots = machine::network(self.name, self.range).range.slots();
        ContainerSettings::uids(crate::node::first_container_uid(self.number()), slots)
    }

    fn first_uid(&self) -> u32 {
        1_879_200_000 + self.number() * 1_000
    }

    /// Of the nodes of these tests.
    fn number(&self) -> u32 {
        40 + self.runtime as u32
    }

    fn data(&self, id: RunId) -> PathBuf {
        self.state.path().join("containers").join(id.to_string()).join("data.host.ext4")
    }
}

#[async_trait]
impl Harness for InContainers {
    async fn driver(&self) -> Arc<dyn Runtime> {
        let network = machine::network(self.name, self.range);
        let machine = NodeMachine::claim(self.state.path(), &network, self.first_uid(), Some(self.uids()))
            .await
            .expect("the machine");
        let settings = ContainerSettings {
            runtimes: vec![self.runtime],
            runsc: None,
            pod: fixtures::assets().join("pod"),
            first_uid: *self.uids().start(),
            layer_mib: 256,
            data_mib: 64,
            disk_mib_per_second: 0,
            least_free_mib: 100,
        };
        Arc::new(Container::on(Arc::new(machine), settings).await.expect("the driver starts"))
    }

    fn base(&self) -> PathBuf {
        self.base.clone()
    }

    async fn crash(&self, _id: RunId, facts: &GuestFacts) {
        let GuestFacts::Container(ContainerFacts { process, .. }) = facts else {
            panic!("{facts:?} are of no container")
        };
        kill(process);
    }

    async fn write(&self, id: RunId, text: &str) {
        write(&self.data(id), text);
    }

    async fn written(&self, id: RunId) -> String {
        written(&self.data(id))
    }

    fn boot_deadline(&self) -> Duration {
        Duration::from_secs(30)
    }
}

/// Prints what the driver is held to: the same list for each, but for who has no volumes.
#[expect(clippy::print_stdout, reason = "the list is for whoever wants to see it")]
async fn held_to_the_list(harness: &dyn Harness, has_volumes: bool) {
    let kept = conformance::run(harness).await.unwrap_or_else(|broken| panic!("{broken}"));
    kept.iter().for_each(|rule| println!("{rule}"));
    assert_eq!(kept, conformance::cases(has_volumes));
}

async fn conforms(harness: InContainers) {
    let before = machine::Residue::of(harness.name);
    let kernels = || std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("a setting");
    let setting = kernels();
    held_to_the_list(&harness, false).await;
    assert_eq!(machine::Residue::of(harness.name), before);
    assert_eq!(kernels(), setting, "the image has changed a setting of the host");
    assert_eq!(machine::processes_of(harness.state.path()), Vec::<String>::new());
    let left = harness.state.path().join("containerd");
    assert!(!left.exists() && !Path::new("/run/palatine-containers").join(harness.name).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_container_driver_conforms_with_runc_and_leaves_nothing() {
    conforms(InContainers::new("pltcr", "10.212.0.0/24", OciRuntime::Runc)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_container_driver_conforms_with_crun_and_leaves_nothing() {
    conforms(InContainers::new("pltcc", "10.213.0.0/24", OciRuntime::Crun)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_container_driver_conforms_with_gvisor_and_leaves_nothing() {
    needs::needs!(gvisor);
    conforms(InContainers::new("pltcg", "10.214.0.0/24", OciRuntime::Gvisor)).await;
}

#[tokio::test]
async fn the_qemu_driver_conforms_and_leaves_nothing() {
    let before = machine::Residue::of("pltq");
    let state = tempfile::tempdir().expect("a folder");
    let base = machine::base(state.path());
    held_to_the_list(&OnQemu { state, base }, true).await;
    assert_eq!(machine::Residue::of("pltq"), before);
}
