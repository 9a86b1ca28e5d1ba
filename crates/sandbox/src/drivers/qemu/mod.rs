//! The driver for QEMU's `microvm` machine.
//!
//! What the VMM is given is opened before and handed over as files: its disks, its
//! card, its two sockets. It runs as a user of its own, in a cgroup of its own, shut
//! into namespaces and lists of what it may do (`jail`).

mod accelerator;
mod arguments;
mod builder;
mod clock;
mod driver;
pub(crate) mod facts;
mod helper;
mod jail;
mod launch;
mod launcher;
mod ops;
mod probe;
mod qmp;
mod startup;

pub use driver::Qemu;
pub use facts::VmmFacts;
pub use probe::{Accelerator, AcceleratorChoice};
#[cfg(feature = "fuzz")]
pub(crate) use qmp::Qmp;

use std::path::PathBuf;
use std::time::Duration;

use crate::network;

/// The kernel that guests boot. The VMM opens both files as its own user: the files,
/// though not the folders above them, must be readable by everybody.
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
pub struct QemuSettings {
    /// Where disks, sockets and verdicts are kept.
    pub state: PathBuf,
    /// What guests boot.
    pub kernel: Kernel,
    /// Which accelerator is wanted.
    pub accelerator: AcceleratorChoice,
    /// How long the probe guest may take.
    pub probe_deadline: Duration,
    /// The user of slot 0; slot n has the n-th user after it.
    pub first_uid: u32,
    /// Size of a guest's writable layer.
    pub layer_mib: u64,
    /// Size of a guest's `/data`.
    pub data_mib: u64,
    /// What the VMM of an emulated guest keeps of translated code, at most; part of what a
    /// guest is promised beyond its own memory.
    pub translation_cache_mib: u64,
    /// MiB per second that each of a guest's cores may read from the disk of `state`,
    /// and as many that it may write; 0 is no limit.
    pub disk_mib_per_second: u64,
    /// Disk space that must stay free on the host.
    pub least_free_mib: u64,
    /// The guests' networks.
    pub network: network::Config,
}
