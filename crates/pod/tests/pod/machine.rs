//! The machine: made of what the node would give it.

use std::fs::{File, read_to_string};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fixtures::{PATIENCE, assets, free_port};
use tempfile::TempDir;

use crate::compile::{compile_agent, run};

/// Disks of one agent.
pub(crate) struct Disks {
    dir: TempDir,
}

impl Disks {
    /// A base with the test's agent in it, and two empty disks.
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// The same, with these empty files in the base.
    pub(crate) fn with(files: &[&str]) -> Self {
        let disks = Self { dir: tempfile::tempdir().unwrap() };
        let root = disks.path("root");
        for folder in ["bin", "sbin", "etc", "dev", "proc", "sys", "data", "tmp"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in files {
            std::fs::write(root.join(file), "").unwrap();
        }
        compile_agent(&root.join("bin/agent"));
        run(Command::new("mkfs.erofs").arg(disks.path("base.erofs")).arg(&root));
        for name in ["layer", "data"] {
            let path = disks.path(&format!("{name}.ext4"));
            File::create(&path).unwrap().set_len(64 << 20).unwrap();
            run(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-m", "0"]).arg(&path));
        }
        disks
    }

    /// Fails unless both writable disks were left as clean as after `umount`.
    pub(crate) fn check_clean(&self) {
        for name in ["layer", "data"] {
            let output = run(Command::new("dumpe2fs").arg("-h").arg(self.path(&format!("{name}.ext4"))));
            assert!(output.contains("Filesystem state:         clean"), "{name}: {output}");
            assert!(!output.contains("needs_recovery"), "{name} needs its journal: {output}");
            run(Command::new("e2fsck").args(["-f", "-n"]).arg(self.path(&format!("{name}.ext4"))));
        }
    }

    /// Whether a writable disk holds these bytes anywhere.
    pub(crate) fn hold(&self, bytes: &str) -> bool {
        ["layer", "data"].iter().any(|name| {
            let disk = std::fs::read(self.path(&format!("{name}.ext4"))).unwrap();
            disk.windows(bytes.len()).any(|window| window == bytes.as_bytes())
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// A machine that runs; ended when dropped.
pub(crate) struct Machine {
    qemu: Child,
    console: PathBuf,
    /// Where `pod` is reached.
    pub(crate) pod: u16,
    /// Where the agent is reached.
    pub(crate) agent: u16,
}

impl Machine {
    /// Starts the machine, with a further word for its kernel.
    pub(crate) fn start(disks: &Disks, word: &str) -> Self {
        Self::start_with(disks, word, &["base", "layer", "data"])
    }

    /// The same, with these disks only.
    pub(crate) fn start_with(disks: &Disks, word: &str, serials: &[&str]) -> Self {
        let kernel = kernel();
        let (pod, agent) = (free_port(), free_port());
        let console = disks.path(&format!("console-{pod}"));
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-M", "microvm,pcie=on,rtc=on", "-accel", "tcg", "-cpu", "max", "-m", "192"]);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        command.arg("-kernel").arg(kernel.vmlinux).arg("-initrd").arg(kernel.initramfs);
        command.arg("-append").arg(format!(
            "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests tsc=reliable tsc_early_khz={} {word}",
            tsc_khz()
        ));
        command.arg("-serial").arg(format!("file:{}", console.display()));
        for (serial, file, access) in
            [("base", "base.erofs", ",readonly=on"), ("layer", "layer.ext4", ""), ("data", "data.ext4", "")]
        {
            if !serials.contains(&serial) {
                continue;
            }
            let path = disks.path(file);
            command.arg("-drive").arg(format!("if=none,id={serial},format=raw,file={}{access}", path.display()));
            command.arg("-device").arg(format!("virtio-blk-pci,drive={serial},serial={serial},disable-legacy=on"));
        }
        command.arg("-netdev").arg(format!(
            "user,id=net,net=10.200.0.0/30,host=10.200.0.1,dhcpstart=10.200.0.2,dns=10.200.0.3,restrict=on,\
             hostfwd=tcp:127.0.0.1:{pod}-10.200.0.2:49983,hostfwd=tcp:127.0.0.1:{agent}-10.200.0.2:8080"
        ));
        command.args(["-device", "virtio-net-pci,netdev=net,romfile=,disable-legacy=on"]);
        let qemu = command.stdin(Stdio::null()).spawn().expect("qemu-system-x86_64 is installed");
        Self { qemu, console, pod, agent }
    }

    /// What the guest wrote on its console.
    pub(crate) fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Fails if the machine is off.
    pub(crate) fn check_on(&mut self) {
        let status = self.qemu.try_wait().unwrap();
        assert!(status.is_none(), "the machine went off: {status:?}\n{}", self.console());
    }

    /// Waits until the machine is off by itself, and says how long that took.
    pub(crate) fn until_off(&mut self) -> Duration {
        let since = Instant::now();
        while self.qemu.try_wait().unwrap().is_none() {
            assert!(since.elapsed() < PATIENCE, "the machine stays on\n{}", self.console());
            std::thread::sleep(Duration::from_millis(5));
        }
        since.elapsed()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if std::thread::panicking() {
            eprintln!("the console:\n{}", self.console());
        }
    }
}

fn kernel() -> image::kernel::Kernel {
    let store = Path::new(env!("CARGO_TARGET_TMPDIR")).join("images");
    let config = image::Config { store, ..image::Config::default() };
    image::kernel::prepare(&config, &assets().join("pod"), &image::NoProgress).expect("a kernel for guests")
}

/// The emulated clock counts as the host's does; the guest cannot measure it.
#[expect(unsafe_code, reason = "reading the processor's counter")]
fn tsc_khz() -> u128 {
    let flags = read_to_string("/proc/cpuinfo").unwrap();
    assert!(flags.contains("constant_tsc"), "this machine's time stamp counter is not constant");
    let since = Instant::now();
    // SAFETY: every x86-64 processor has this instruction.
    let first = unsafe { core::arch::x86_64::_rdtsc() };
    std::thread::sleep(Duration::from_millis(100));
    // SAFETY: as above.
    let ticks = unsafe { core::arch::x86_64::_rdtsc() } - first;
    u128::from(ticks) * 1_000_000 / since.elapsed().as_nanos()
}
