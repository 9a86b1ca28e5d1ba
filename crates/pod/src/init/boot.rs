//! The steps from the kernel's hand-over to a machine that is reachable and has
//! its disks.
//!
//! The cheapest order, measured under emulation: only what the network needs
//! comes before the link is up and the port listens. The disks are put together
//! while the node delivers the identity, by the same single thread: no process of
//! this program's is started before the root is switched but the check of volumes,
//! which has ended by then, and no thread is left with another root than the rest.

use std::net::TcpListener;

use tokio::task::yield_now;

use super::containers::{self, OfferedModules};
use super::disks::Disks;
use super::error::BootError;
use super::modules::Modules;
use super::volumes::{VolumeDisks, free_checker};
use super::{disks, mounts, network};
use crate::check::CheckProgress;
use crate::process::Reaper;
use crate::step::Context as _;
use crate::timings::BootStopwatch;

/// A machine that can be reached, and has no disks yet.
#[derive(Debug)]
pub(super) struct NetworkedBoot {
    /// Listens on the guest's link, and there alone.
    pub(super) listener: TcpListener,
    /// What the disks need.
    pub(super) modules: Modules,
}

/// What the kernel's command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BootMode {
    /// Be a guest.
    Guest,
    /// Say that this machine boots, and power off.
    Probe,
    /// Answer for the files of one disk.
    Helper,
}

impl BootMode {
    fn parse(command_line: &str) -> Self {
        let mut words = command_line.split_ascii_whitespace();
        let named = words.find_map(|word| match word {
            wire::v1::pod::PROBE => Some(Self::Probe),
            wire::v1::pod::HELPER => Some(Self::Helper),
            _ => None,
        });
        named.unwrap_or(Self::Guest)
    }
}

/// Mounts the kernel's own file systems and learns what is wanted.
///
/// # Errors
/// The step that failed.
pub(super) fn mount_kernel_file_systems(timings: &mut BootStopwatch) -> Result<BootMode, BootError> {
    timings.time("mounts", mounts::kernel_file_systems)?;
    let command_line = std::fs::read_to_string("/proc/cmdline").context("read /proc/cmdline")?;
    Ok(BootMode::parse(&command_line))
}

/// Makes the machine reachable.
///
/// # Errors
/// The step that failed; the machine is of no use then.
pub(super) fn bring_up_network(timings: &mut BootStopwatch) -> Result<NetworkedBoot, BootError> {
    let mut modules = Modules::read()?;
    while !network::link_exists() && modules.load_next(timings)? {}
    let listener = timings.time("network", network::up)?;
    Ok(NetworkedBoot { listener, modules })
}

/// Mounts the disks as one tree and moves onto it. Lets others run between its
/// steps: whoever connects meanwhile is heard.
///
/// # Errors
/// The step that failed; the machine is of no use then.
pub(super) async fn mount_disks(
    mut modules: Modules,
    reaper: &Reaper,
    progress: &CheckProgress,
    timings: &mut BootStopwatch,
) -> Result<(Disks, VolumeDisks), BootError> {
    while modules.load_next_async(timings)? {
        yield_now().await;
    }
    timings.note("modules", modules.spent());
    let disks = disks::assemble(timings).await?;
    let volumes = VolumeDisks::check(reaper, progress, timings).await;
    free_checker()?;
    let offered = OfferedModules::open();
    timings.time("switch_root", mounts::switch_root)?;
    timings.time("containers", || containers::ready(&offered));
    timings.milestone("disks");
    Ok((disks, volumes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_word_makes_a_probe_or_a_helper() {
        assert_eq!(BootMode::parse("console=ttyS0 palatine.probe quiet\n"), BootMode::Probe);
        assert_eq!(BootMode::parse("console=ttyS0 palatine.probed x=palatine.probe\n"), BootMode::Guest);
        assert_eq!(BootMode::parse("console=ttyS0 palatine.helper"), BootMode::Helper);
        assert_eq!(BootMode::parse("console=ttyS0 palatine.helpers"), BootMode::Guest);
    }
}
