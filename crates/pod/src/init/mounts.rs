//! Mounts that every guest has, and the move from the initramfs onto the disks.

use std::os::unix::fs::symlink;

use rustix::fs::Mode;
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::process::{chdir, chroot};

use crate::step::{Context as _, StepError, make_dir};

/// Where the guest's tree is put together.
pub(super) const NEW_ROOT: &str = "/mnt/root";

/// What holds no program and no device.
pub(super) const QUIET: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
/// World-writable, with the sticky bit.
const SHARED: Mode = Mode::from_raw_mode(0o1777);

/// Devices, processes and the kernel's settings. Processes of others are
/// invisible: the agent sees neither `pod` nor its memory.
pub(super) fn kernel_file_systems() -> Result<(), StepError> {
    let devices = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("dev", "/dev", "devtmpfs", devices, c"mode=0755").context("mount /dev")?;
    mount("proc", "/proc", "proc", QUIET, c"hidepid=2").context("mount /proc")?;
    mount("sys", "/sys", "sysfs", QUIET | MountFlags::RDONLY, None).context("mount /sys")
}

/// Moves the kernel's file systems onto the disks and makes those the root. What
/// the initramfs still holds is this program and the modules on offer; the others are freed as they load.
pub(super) fn switch_root() -> Result<(), StepError> {
    for (from, to) in [("/dev", "/mnt/root/dev"), ("/proc", "/mnt/root/proc"), ("/sys", "/mnt/root/sys")] {
        make_dir(to)?;
        mount_move(from, to).context(format_args!("move {from}"))?;
    }
    std::fs::remove_file("/init").context("free /init")?;
    chdir(NEW_ROOT).context("enter the new root")?;
    mount_move(".", "/").context("move the new root")?;
    chroot(".").context("change to the new root")?;
    chdir("/").context("enter the root")?;
    temporary_file_systems()
}

/// What lives in memory: terminals, shared memory, `/run`.
fn temporary_file_systems() -> Result<(), StepError> {
    make_dir("/dev/pts")?;
    let terminals = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("devpts", "/dev/pts", "devpts", terminals, c"mode=0620,ptmxmode=0666,gid=5").context("mount /dev/pts")?;
    make_dir("/dev/shm")?;
    let shared = MountFlags::NOSUID | MountFlags::NODEV;
    mount("shm", "/dev/shm", "tmpfs", shared, c"mode=1777").context("mount /dev/shm")?;
    link_streams()?;
    make_dir("/run")?;
    mount("run", "/run", "tmpfs", shared, c"mode=0755").context("mount /run")?;
    make_dir("/tmp")?;
    rustix::fs::chmod("/tmp", SHARED).context("make /tmp writable for all")
}

/// What shells and scripts expect in `/dev` of the process that looks: its open files, and the
/// first three by their names.
const STREAMS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

fn link_streams() -> Result<(), StepError> {
    let link = |(to, at)| symlink(to, at).context(format_args!("link {at} to {to}"));
    STREAMS.into_iter().try_for_each(link)
}

/// Shows the directory `from` at `to`, too.
///
/// # Errors
/// What the kernel says.
pub(super) fn bind(from: &str, to: &str) -> Result<(), StepError> {
    make_dir(to)?;
    mount_bind(from, to).context(format_args!("bind {from} to {to}"))
}
