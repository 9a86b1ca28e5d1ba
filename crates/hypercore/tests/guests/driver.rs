//! The QEMU driver passes the suite, with real guests that run the real `pod`.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{RunId, VolumeId};
use sandbox::conformance::{self, Harness};
use sandbox::drivers::qemu::{AcceleratorChoice, Qemu, QemuSettings};
use sandbox::{GuestFacts, Runtime, VmmFacts, Volumes};

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
        let GuestFacts::Qemu(VmmFacts { process }) = facts;
        let pid = rustix::process::Pid::from_raw(i32::try_from(process.pid).expect("a pid")).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("the VMM runs");
    }

    async fn write(&self, id: RunId, text: &str) {
        let disk = std::fs::File::options().write(true).open(self.data(id)).expect("its disk");
        disk.write_all_at(text.as_bytes(), BOOT_BLOCK).expect("it is written");
    }

    async fn written(&self, id: RunId) -> String {
        let mut text = [0; 20];
        let read = std::fs::File::open(self.data(id)).and_then(|disk| disk.read_exact_at(&mut text, BOOT_BLOCK));
        read.map(|()| String::from_utf8_lossy(&text).into_owned()).unwrap_or_else(|error| error.to_string())
    }

    async fn make_volume(&self, id: VolumeId) -> bool {
        Volumes::of(self.state.path()).make(id, 64).expect("a volume");
        true
    }

    fn boot_deadline(&self) -> Duration {
        Duration::from_secs(30)
    }
}

#[tokio::test]
async fn the_qemu_driver_conforms_and_leaves_nothing() {
    let before = machine::Residue::of("pltq");
    let state = tempfile::tempdir().expect("a folder");
    let base = machine::base(state.path());
    conformance::run(&OnQemu { state, base }).await.unwrap_or_else(|broken| panic!("{broken}"));
    assert_eq!(machine::Residue::of("pltq"), before);
}
