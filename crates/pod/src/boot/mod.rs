//! From the kernel's hand-over to a guest that is reachable and has its disks.
//!
//! The cheapest order, measured under emulation: only what the network needs
//! comes before the link is up and the port listens. The disks are put together
//! while the node delivers the identity, by the same single thread: no process of
//! this program's is started before the root is switched, and no thread is left
//! with another root than the rest.

mod disks;
mod error;
mod modules;
mod mounts;
mod net;
mod steps;

use std::net::TcpListener;

use tokio::task::yield_now;

pub(crate) use disks::{DATA, Disks};
pub(crate) use error::{BootError, Context};
pub(crate) use modules::Modules;
pub(crate) use mounts::{bind, make_dir};
pub(crate) use steps::Steps;

/// A guest that can be reached, and has no disks yet.
#[derive(Debug)]
pub(crate) struct Reachable {
    /// Listens on the guest's link, and there alone.
    pub(crate) listener: TcpListener,
    /// What the disks need.
    pub(crate) modules: Modules,
}

/// What the kernel's command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    /// Be a guest.
    Guest,
    /// Say that this machine boots, and go.
    Probe,
}

impl Errand {
    fn of(command_line: &str) -> Self {
        if command_line.split_ascii_whitespace().any(|word| word == wire::pod::PROBE) {
            Self::Probe
        } else {
            Self::Guest
        }
    }
}

/// Mounts the kernel's own file systems and learns what is wanted.
///
/// # Errors
/// The step that failed.
pub(crate) fn begin(steps: &mut Steps) -> Result<Errand, BootError> {
    steps.time("mounts", mounts::kernel_file_systems)?;
    let command_line = std::fs::read_to_string("/proc/cmdline").context("read /proc/cmdline")?;
    Ok(Errand::of(&command_line))
}

/// Makes the guest reachable.
///
/// # Errors
/// The step that failed; the guest is of no use then.
pub(crate) fn reach(steps: &mut Steps) -> Result<Reachable, BootError> {
    let mut modules = Modules::read()?;
    while !net::link_exists() && modules.load_next(steps)? {}
    let listener = steps.time("network", net::up)?;
    Ok(Reachable { listener, modules })
}

/// Puts the disks together and moves onto them. Lets others run between its
/// steps: whoever connects meanwhile is heard.
///
/// # Errors
/// The step that failed; the guest is of no use then.
pub(crate) async fn furnish(mut modules: Modules, steps: &mut Steps) -> Result<Disks, BootError> {
    while modules.load_next_ahead(steps)? {
        yield_now().await;
    }
    steps.note("modules", modules.spent());
    let disks = disks::assemble(steps).await?;
    steps.time("switch_root", mounts::switch_root)?;
    steps.reached("furnished");
    Ok(disks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_word_makes_a_probe() {
        assert_eq!(Errand::of("console=ttyS0 palatine.probe quiet\n"), Errand::Probe);
        assert_eq!(Errand::of("console=ttyS0 palatine.probed x=palatine.probe\n"), Errand::Guest);
    }
}
