//! From config to a VMM that runs: the same way for a probe as for an agent.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::QemuSettings;
use super::arguments::{CommandLine, Disk};
use super::jail::Jail;
use super::launch::{RunningVmm, VmmLaunch};
use super::probe::Accelerator;
use crate::cgroup::{CgroupLimits, Cgroups, DiskRate, VMM_THREADS};
use crate::{DriverFailure, files};

/// What a guest's VMM takes beyond the guest's memory: QEMU itself and its threads. Measured;
/// the cgroup's limit is set with it.
const KVM_OVERHEAD_MIB: u64 = 64;
/// The same under emulation, without its cache of translated code.
const TCG_OVERHEAD_MIB: u64 = 128;

const MIB: u64 = 1024 * 1024;

/// What one VMM gets.
pub(super) struct VmConfig {
    pub(super) name: String,
    pub(super) cores: u32,
    pub(super) memory_mib: u64,
    pub(super) words: &'static str,
    pub(super) disks: Vec<(&'static str, bool, OwnedFd)>,
    pub(super) tap: Option<OwnedFd>,
    pub(super) namespace: Option<PathBuf>,
    pub(super) uid: u32,
}

/// How VMMs are started: the same way for a probe as for an agent.
pub(super) struct VmmLauncher<'a> {
    pub(super) settings: &'a QemuSettings,
    pub(super) program: &'a Path,
    pub(super) cgroups: &'a Cgroups,
    pub(super) jail: &'a Jail,
}

impl VmmLauncher<'_> {
    pub(super) fn start(
        &self,
        config: VmConfig,
        accelerator: Accelerator,
        tsc_khz: u64,
        groups: &[u32],
    ) -> Result<RunningVmm, DriverFailure> {
        let dir = guest_dir(&self.settings.state, &config.name);
        let (control, console) = (listener(&dir.join("control"))?, listener(&dir.join("console"))?);
        let disks: Vec<Disk> = config
            .disks
            .iter()
            .map(|(serial, read_only, file)| Disk { serial, fd: file.as_raw_fd(), read_only: *read_only })
            .collect();
        let command_line = CommandLine {
            name: &config.name,
            accelerator,
            cores: config.cores,
            memory_mib: config.memory_mib,
            translation_cache_mib: self.settings.translation_cache_mib,
            tsc_khz,
            words: config.words,
            disks: &disks,
            tap: config.tap.as_ref().map(AsRawFd::as_raw_fd),
            control: control.as_raw_fd(),
            console: console.as_raw_fd(),
        };
        let limits = CgroupLimits {
            cores: config.cores,
            memory_mib: config.memory_mib + overhead_mib(accelerator, self.settings),
            threads: VMM_THREADS,
            disk: DiskRate::of(&self.settings.state, self.settings.disk_mib_per_second, config.cores)?,
        };
        let launch = VmmLaunch {
            program: self.program,
            arguments: &command_line.arguments(),
            uid: config.uid,
            groups,
            namespace: config.namespace.as_deref(),
            jail: self.jail,
            file_bytes: largest_disk(&config.disks)?.max(self.settings.layer_mib.max(self.settings.data_mib) * MIB),
            cgroup: self.cgroups.create(&config.name, limits).map_err(DriverFailure::Cgroup)?,
            files: config
                .disks
                .into_iter()
                .map(|(_, _, file)| file)
                .chain(config.tap)
                .chain([control, console])
                .collect(),
        };
        launch.start().map_err(DriverFailure::Process)
    }
}

/// Bytes of the largest disk that is written to. A disk keeps the size that it was made
/// with, whatever the settings say today.
fn largest_disk(disks: &[(&str, bool, OwnedFd)]) -> io::Result<u64> {
    disks.iter().filter(|(_, read_only, _)| !read_only).try_fold(0, |largest, (_, _, disk)| {
        let bytes = u64::try_from(rustix::fs::fstat(disk)?.st_size).unwrap_or(0);
        Ok(largest.max(bytes))
    })
}

/// Where a guest has its disks and sockets.
pub(super) fn guest_dir(state: &Path, name: &str) -> PathBuf {
    state.join("guests").join(name)
}

fn listener(path: &Path) -> io::Result<OwnedFd> {
    files::remove(path)?;
    Ok(UnixListener::bind(path)?.into())
}

/// Memory of the host that a guest takes beyond its own.
pub(super) const fn overhead_mib(accelerator: Accelerator, settings: &QemuSettings) -> u64 {
    match accelerator {
        Accelerator::Kvm => KVM_OVERHEAD_MIB,
        Accelerator::Tcg => TCG_OVERHEAD_MIB + settings.translation_cache_mib,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::drivers::qemu::{AcceleratorChoice, Kernel};

    #[test]
    fn an_emulated_guest_is_promised_its_cache_of_translated_code_beside_its_memory() {
        let settings = |translation_cache_mib| QemuSettings {
            state: "/nowhere".into(),
            kernel: Kernel { vmlinux: "/v".into(), initramfs: "/i".into(), version: "1".into() },
            accelerator: AcceleratorChoice::Tcg,
            probe_deadline: Duration::from_secs(5),
            first_uid: 1,
            translation_cache_mib,
            layer_mib: 16,
            data_mib: 16,
            disk_mib_per_second: 0,
            least_free_mib: 0,
            network: crate::network::Config::default(),
        };
        let promised = |cache| [Accelerator::Tcg, Accelerator::Kvm].map(|on| overhead_mib(on, &settings(cache)));
        assert_eq!((promised(64), promised(256)), ([192, 64], [384, 64]));
    }

    #[test]
    fn fault_1_8_a_disk_of_earlier_settings_may_be_written_to_its_end() {
        let disk = |bytes: u64| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(bytes).unwrap();
            OwnedFd::from(file)
        };
        let disks = [("base", true, disk(900)), ("layer", false, disk(300)), ("data", false, disk(500))];
        assert_eq!(largest_disk(&disks).unwrap(), 500);
        assert_eq!(largest_disk(&[]).unwrap(), 0);
    }
}
