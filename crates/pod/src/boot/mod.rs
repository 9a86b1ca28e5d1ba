//! From the kernel's hand-over to a guest that is reachable and has its disks.
//!
//! The cheapest order, measured under emulation: only what the network needs
//! comes before the link is up and the port listens, so that the node's first
//! connection waits in the kernel's queue while the disks are put together.

mod disks;
mod error;
mod modules;
mod mounts;
mod net;
mod steps;

use std::net::TcpListener;

pub(crate) use disks::{DATA, Disks};
pub(crate) use error::{BootError, Context};
pub(crate) use mounts::{bind, make_dir};
pub(crate) use steps::Steps;

/// What boot hands over.
#[derive(Debug)]
pub(crate) struct Booted {
    /// Listens on the guest's link, and there alone.
    pub(crate) listener: TcpListener,
    /// The writable disks, for the end.
    pub(crate) disks: Disks,
    /// How long each step took.
    pub(crate) steps: Steps,
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

/// Makes the guest reachable, then puts its disks together and moves onto them.
///
/// # Errors
/// The step that failed; the guest is of no use then.
pub(crate) fn complete(mut steps: Steps) -> Result<Booted, BootError> {
    let mut modules = modules::Queue::read()?;
    modules.load_until(net::link_exists, &mut steps)?;
    let listener = steps.time("network", net::up)?;
    modules.load_rest(&mut steps)?;
    let disks = disks::assemble(&mut steps)?;
    steps.time("switch_root", mounts::switch_root)?;
    Ok(Booted { listener, disks, steps })
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
