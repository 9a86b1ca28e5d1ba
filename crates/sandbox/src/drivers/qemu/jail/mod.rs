//! What a VMM is shut into.
//!
//! A guest that breaks out of its virtual machine is in a process of a user of its
//! own, without capabilities, in namespaces of its own:
//!
//! | namespace | holds |
//! |---|---|
//! | mount | a root with QEMU, its libraries and firmware and the guests' kernel, read-only; no `/proc`, `/sys`, `/tmp`, `/dev/shm` |
//! | process | this process alone, as number 1 |
//! | network | the guest's link (`crate::network`) |
//! | IPC | nothing |
//! | user | this user alone |
//!
//! Beside these stand an allow-list of system calls, QEMU's own list within it, Landlock
//! where the kernel has it, the limits of its cgroup, and the size of its largest disk
//! as that of the largest file it may write.

mod entry;
mod filter;
mod root;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use seccompiler::BpfProgram;

pub(super) use entry::{JailEntry, JailHandles, before_exec};
pub(super) use root::{INITRAMFS, VMLINUX};

use super::Kernel;
use super::probe::{Accelerator, KVM};
use crate::DriverFailure;

/// What all VMMs of a driver are shut into, made once.
pub(super) struct Jail {
    /// The mount namespace that each VMM has a copy of.
    mounts: File,
    /// Absent where the kernel does not have it.
    landlock: Option<OwnedFd>,
    filter: BpfProgram,
    /// The host's `/proc`, to say who the user in the new namespace is.
    proc: OwnedFd,
}

impl Jail {
    /// Makes it. `folder` becomes a mount point that nobody else sees.
    pub(super) fn prepare(
        program: &Path,
        kernel: &Kernel,
        accelerator: Accelerator,
        folder: &Path,
    ) -> Result<Self, DriverFailure> {
        require_user_namespaces()?;
        let device = match accelerator {
            Accelerator::Kvm => Some(Path::new(KVM)),
            Accelerator::Tcg => None,
        };
        let (mounts, landlock) = root::build(program, kernel, device, folder)?;
        let filter = filter::program(accelerator)?;
        let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { mounts, landlock, filter, proc })
    }
}

fn require_user_namespaces() -> Result<(), DriverFailure> {
    let most = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    if most.trim().parse::<u64>().is_ok_and(|most| most > 0) {
        return Ok(());
    }
    Err(DriverFailure::Missing(
        "this machine has no user namespaces (user.max_user_namespaces); VMMs could not be shut in".to_owned(),
    ))
}
