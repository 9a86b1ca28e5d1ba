//! The choice of the accelerator, and the probe guest's life.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::confine::Confinement;
use super::plan::{Hardware, Plan, guest_dir};
use super::probe::{self, Accelerator, Choice, KVM, Memory, Silence, Verdict};
use super::{Settings, clock};
use crate::cgroup::Cgroups;
use crate::{Failure, files};

/// Memory of the probe guest.
const PROBE_MEMORY_MIB: u64 = 128;
/// The probe guest's name where others have their agent's id.
pub(super) const PROBE_NAME: &str = "probe";
/// How long a VMM that hung up may take to end.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Chooses the accelerator, and the groups a VMM needs for it.
pub(super) async fn choose(
    settings: &Settings,
    program: &Path,
    cgroups: &Cgroups,
) -> Result<(Verdict, Vec<u32>), Failure> {
    let groups = probe::kvm_groups();
    let memory = Memory::new(&settings.state, program, &settings.kernel, settings.accelerator)?;
    if let Some(verdict) = memory.recall() {
        let groups = groups_for(verdict.accelerator, groups);
        return Ok((verdict, groups));
    }
    let tsc = spawn_blocking(clock::tsc_khz);
    let found = match (settings.accelerator, &groups) {
        (Choice::Tcg, _) => Err("node.accelerator asks for it".to_owned()),
        (Choice::Auto | Choice::Kvm, Err(why)) => Err(why.clone()),
        (Choice::Auto | Choice::Kvm, Ok(groups)) => {
            let confinement = confine(settings, program, Accelerator::Kvm).await?;
            let plan = Plan { settings, program, cgroups, confinement: &confinement };
            try_kvm(&plan, groups).await?
        }
    };
    let tsc_khz = tsc.await.map_err(io::Error::other)?;
    let (accelerator, reason) = match (found, settings.accelerator) {
        (Ok(took), _) => (Accelerator::Kvm, format!("KVM: a probe guest answered after {} ms", took.as_millis())),
        (Err(why), Choice::Kvm) => {
            return Err(Failure::Missing(format!("node.accelerator asks for KVM, but {why}")));
        }
        (Err(why), Choice::Auto | Choice::Tcg) => (Accelerator::Tcg, format!("emulation: {why}")),
    };
    Ok((memory.keep(accelerator, reason, tsc_khz), groups_for(accelerator, groups)))
}

/// What VMMs with this accelerator are shut into.
pub(super) async fn confine(
    settings: &Settings,
    program: &Path,
    accelerator: Accelerator,
) -> Result<Confinement, Failure> {
    let (kernel, program) = (settings.kernel.clone(), program.to_owned());
    let folder = settings.state.join("root");
    let made = spawn_blocking(move || Confinement::prepare(&program, &kernel, accelerator, &folder));
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
async fn try_kvm(plan: &Plan<'_>, groups: &[u32]) -> Result<Result<Duration, String>, Failure> {
    remove_probe(plan.settings, plan.cgroups)?;
    let dir = guest_dir(&plan.settings.state, PROBE_NAME);
    files::private_dir(&dir)?;
    let hardware = Hardware {
        name: PROBE_NAME.to_owned(),
        cores: 1,
        memory_mib: PROBE_MEMORY_MIB,
        words: wire::pod::PROBE,
        disks: Vec::new(),
        tap: None,
        namespace: None,
        uid: plan.settings.first_uid + u32::from(plan.settings.network.range.slots()),
    };
    let mut exit = plan.start(hardware, Accelerator::Kvm, 0, groups)?.watch()?;
    let found = probe::listen(&dir.join("console"), plan.settings.probe_deadline).await;
    let found = match found {
        Ok(took) => Ok(took),
        Err(Silence::Deadline) => Err(format!(
            "{KVM} opens, but a probe guest on it gave no answer within {:?}",
            plan.settings.probe_deadline
        )),
        Err(Silence::End) => {
            let words = timeout(LAST_WORDS, exit.wait()).await;
            Err(format!("a probe guest on {KVM} gave no answer: {}", words.unwrap_or_default()))
        }
    };
    let (settings, cgroups) = (plan.settings.clone(), plan.cgroups.clone());
    spawn_blocking(move || remove_probe(&settings, &cgroups)).await.map_err(io::Error::other)??;
    Ok(found)
}

/// Removes what is left of a probe guest.
pub(super) fn remove_probe(settings: &Settings, cgroups: &Cgroups) -> Result<(), Failure> {
    cgroups.kill(PROBE_NAME)?;
    cgroups.remove(PROBE_NAME)?;
    Ok(files::remove_dir(&guest_dir(&settings.state, PROBE_NAME))?)
}
