//! The choice of the accelerator, and the probe guest's life.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::jail::Jail;
use super::launcher::{VmConfig, VmmLauncher, guest_dir};
use super::probe::{self, Accelerator, AcceleratorChoice, NoAnswer, ProbeCache, ProbeFailure, ProbeResult};
use super::{QemuSettings, clock};
use crate::cgroup::Cgroups;
use crate::{DriverFailure, files, process};

/// Memory of the probe guest.
const PROBE_MEMORY_MIB: u64 = 128;
/// The probe guest's name where others have their agent's id.
pub(super) const PROBE_NAME: &str = "probe";
/// How long a VMM that hung up may take to end.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Chooses the accelerator, and the groups a VMM needs for it.
pub(super) async fn choose(
    settings: &QemuSettings,
    program: &Path,
    cgroups: &Cgroups,
) -> Result<(ProbeResult, Vec<u32>), DriverFailure> {
    let groups = probe::kvm_groups();
    let memory = ProbeCache::new(&settings.state, program, &settings.kernel, settings.accelerator)?;
    if let Some(verdict) = memory.recall() {
        let groups = groups_for(verdict.accelerator, groups);
        return Ok((verdict, groups));
    }
    let tsc = spawn_blocking(clock::tsc_khz);
    let found = match (settings.accelerator, &groups) {
        (AcceleratorChoice::Tcg, _) => Err(ProbeFailure::lasting("node.accelerator asks for it".to_owned())),
        (AcceleratorChoice::Auto | AcceleratorChoice::Kvm, Err(why)) => Err(ProbeFailure::lasting(why.clone())),
        (AcceleratorChoice::Auto | AcceleratorChoice::Kvm, Ok(groups)) => {
            let jail = prepare_jail(settings, program, Accelerator::Kvm).await?;
            let launcher = VmmLauncher { settings, program, cgroups, jail: &jail };
            try_kvm(&launcher, groups).await?
        }
    };
    let tsc_khz = tsc.await.map_err(io::Error::other)?;
    let verdict = decide(found, settings.accelerator, &memory, tsc_khz)?;
    let groups = groups_for(verdict.accelerator, groups);
    Ok((verdict, groups))
}

/// Makes a verdict of what was found, and keeps it where it is one about the machine.
fn decide(
    found: Result<Duration, ProbeFailure>,
    choice: AcceleratorChoice,
    memory: &ProbeCache,
    tsc_khz: u64,
) -> Result<ProbeResult, DriverFailure> {
    let (accelerator, reason, lasts) = match (found, choice) {
        (Ok(took), _) => (Accelerator::Kvm, format!("KVM: a probe guest answered after {} ms", took.as_millis()), true),
        (Err(failure), AcceleratorChoice::Kvm) => {
            return Err(DriverFailure::Missing(format!("node.accelerator asks for KVM, but {}", failure.why)));
        }
        (Err(ProbeFailure { why, lasts: true }), AcceleratorChoice::Auto | AcceleratorChoice::Tcg) => {
            (Accelerator::Tcg, format!("emulation: {why}"), true)
        }
        (Err(ProbeFailure { why, lasts: false }), AcceleratorChoice::Auto | AcceleratorChoice::Tcg) => {
            tracing::warn!(why, "KVM could not be tried: guests are emulated, and it is tried again at the next start");
            (Accelerator::Tcg, format!("emulation, until the next start: {why}"), false)
        }
    };
    let verdict = memory.verdict(accelerator, reason, tsc_khz);
    if lasts {
        memory.keep(&verdict);
    }
    Ok(verdict)
}

/// What VMMs with this accelerator are shut into.
pub(super) async fn prepare_jail(
    settings: &QemuSettings,
    program: &Path,
    accelerator: Accelerator,
) -> Result<Jail, DriverFailure> {
    let (kernel, program) = (settings.kernel.clone(), program.to_owned());
    let folder = settings.state.join("root");
    let made = spawn_blocking(move || Jail::prepare(&program, &kernel, accelerator, &folder));
    made.await.map_err(io::Error::other)?
}

/// The groups that a VMM needs for its accelerator, and no others.
fn groups_for(accelerator: Accelerator, groups: Result<Vec<u32>, String>) -> Vec<u32> {
    match accelerator {
        Accelerator::Kvm => groups.unwrap_or_default(),
        Accelerator::Tcg => Vec::new(),
    }
}

/// Boots a guest on KVM against the clock. The inner result is the verdict.
async fn try_kvm(launcher: &VmmLauncher<'_>, groups: &[u32]) -> Result<Result<Duration, ProbeFailure>, DriverFailure> {
    remove_probe(launcher.settings, launcher.cgroups)?;
    let dir = guest_dir(&launcher.settings.state, PROBE_NAME);
    files::private_dir(&dir)?;
    let config = VmConfig {
        name: PROBE_NAME.to_owned(),
        cores: 1,
        memory_mib: PROBE_MEMORY_MIB,
        words: wire::v1::pod::PROBE,
        disks: Vec::new(),
        tap: None,
        namespace: None,
        uid: launcher.settings.first_uid + u32::from(launcher.settings.network.range.slots()),
    };
    let started = launcher.start(config, Accelerator::Kvm, 0, groups)?;
    let pid = started.pid;
    let mut exit = started.watch()?;
    let deadline = launcher.settings.probe_deadline;
    let found = match probe::listen(&dir.join("console"), deadline).await {
        Ok(took) => Ok(took),
        Err(NoAnswer::Deadline) => {
            // Where that cannot be read, it may have waited all the time.
            Err(ProbeFailure::of_deadline(deadline, process::waited_for_processor(pid).unwrap_or(deadline)))
        }
        Err(NoAnswer::End) => Err(ProbeFailure::of_end(&timeout(LAST_WORDS, exit.wait()).await.unwrap_or_default())),
    };
    let (settings, cgroups) = (launcher.settings.clone(), launcher.cgroups.clone());
    spawn_blocking(move || remove_probe(&settings, &cgroups)).await.map_err(io::Error::other)??;
    Ok(found)
}

/// Removes what is left of a probe guest.
pub(super) fn remove_probe(settings: &QemuSettings, cgroups: &Cgroups) -> Result<(), DriverFailure> {
    cgroups.kill(PROBE_NAME)?;
    cgroups.remove(PROBE_NAME)?;
    Ok(files::remove_dir(&guest_dir(&settings.state, PROBE_NAME))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::qemu::Kernel;

    fn memory(dir: &Path) -> ProbeCache {
        let kernel = Kernel { vmlinux: "/v".into(), initramfs: "/i".into(), version: "1".into() };
        ProbeCache::new(dir, Path::new("/bin/sh"), &kernel, AcceleratorChoice::Auto).unwrap()
    }

    #[test]
    fn fault_1_5_a_probe_that_failed_for_a_passing_want_is_made_again_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let memory = memory(dir.path());
        let said = "the VMM ended (exit status: 1) and said: ioctl(KVM_CREATE_VM) failed: 12 Cannot allocate memory";
        let verdict = decide(Err(ProbeFailure::of_end(said)), AcceleratorChoice::Auto, &memory, 1).unwrap();
        assert_eq!(verdict.accelerator, Accelerator::Tcg);
        assert!(verdict.reason.contains("Cannot allocate memory"), "{}", verdict.reason);
        assert_eq!(memory.recall(), None);
        let refused = decide(Err(ProbeFailure::of_end(said)), AcceleratorChoice::Kvm, &memory, 1).unwrap_err();
        assert!(refused.to_string().contains("Cannot allocate memory"), "{refused}");
    }

    #[test]
    fn fault_1_5_a_verdict_about_the_machine_is_remembered() {
        let said = "the VMM ended (exit status: 1) and said: ioctl(KVM_CREATE_VM) failed: 25 Inappropriate ioctl";
        let deadline = Duration::from_secs(5);
        for failure in [
            ProbeFailure::of_end(said),
            ProbeFailure::of_deadline(deadline, Duration::ZERO),
            ProbeFailure::lasting("there is no /dev/kvm".to_owned()),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let memory = memory(dir.path());
            let verdict = decide(Err(failure), AcceleratorChoice::Auto, &memory, 1).unwrap();
            assert_eq!(memory.recall(), Some(verdict));
        }
    }
}
