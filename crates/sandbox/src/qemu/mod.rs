//! The driver for QEMU's `microvm` machine.
//!
//! What the VMM is given is opened before and handed over as files: its disks, its
//! card, its two sockets. It runs as a user of its own, in the guest's network
//! namespace and in a cgroup of its own, without new privileges, behind QEMU's own
//! system call filter; of the host's files it can read the kernel and QEMU's
//! firmware, and write none.

mod arguments;
mod choice;
mod clock;
mod driver;
mod launch;
mod plan;
mod probe;
mod qmp;
mod work;

pub use driver::Qemu;
pub use probe::{Accelerator, Choice};

use std::path::PathBuf;
use std::time::Duration;

use crate::network;

/// The kernel that guests boot. The VMM opens both files again as its own user: the
/// files, though not the folders above them, must be readable by everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The kernel.
    pub vmlinux: PathBuf,
    /// Its initramfs, with `pod` as `/init`.
    pub initramfs: PathBuf,
    /// What it is called, for the probe's memory.
    pub version: String,
}

/// What the driver is told by its node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where disks, sockets and verdicts are kept.
    pub state: PathBuf,
    /// What guests boot.
    pub kernel: Kernel,
    /// Which accelerator is wanted.
    pub accelerator: Choice,
    /// How long the probe guest may take.
    pub probe_deadline: Duration,
    /// The user of slot 0; slot n has the n-th user after it.
    pub first_uid: u32,
    /// Size of a guest's writable layer.
    pub layer_mib: u64,
    /// Size of a guest's `/data`.
    pub data_mib: u64,
    /// Disk space that must stay free on the host.
    pub least_free_mib: u64,
    /// The guests' networks.
    pub network: network::Config,
}
