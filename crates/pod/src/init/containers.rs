//! What containers of the tenant's own, such as Docker's, need of the machine: control groups, and modules that the
//! kernel has loaded when something asks for them. A guest does without where its image or its kernel has it so.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};
use rustix::system::uname;

use super::mounts::QUIET;
use crate::step::{Context as _, StepError, make_dir};

/// The modules in the initramfs, below the kernel's version.
const OFFERED: &str = "/offered";
/// What the kernel has load a module.
const LOADER: &str = "/sbin/modprobe";
/// Where that looks.
const MODULES: &str = "/lib/modules";
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// The initramfs' modules, which have no path any more after the root is switched.
#[derive(Debug)]
pub(super) struct OfferedModules(Option<File>);

impl OfferedModules {
    /// What the initramfs has of them: nothing, where its kernel has none.
    pub(super) fn open() -> Self {
        Self(File::open(OFFERED).ok())
    }

    /// Shows them to the image's own loader; without one they only take memory, and are freed.
    fn offer(&self) -> Result<(), StepError> {
        let Some(folder) = &self.0 else { return Ok(()) };
        let kernel = uname();
        let version = kernel.release().to_string_lossy();
        let from = format!("/proc/self/fd/{}/{version}", folder.as_raw_fd());
        if !Path::new(LOADER).exists() {
            return std::fs::remove_dir_all(from).context("free the modules that nothing loads");
        }
        let at = format!("{MODULES}/{version}");
        make_dir(&at)?;
        mount_bind(&from, &at).context(format_args!("show the modules at {at}"))?;
        let read_only = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount_remount(&at, read_only, "").context(format_args!("make {at} read-only"))
    }
}

/// Readies the machine for containers. What an image or a kernel has otherwise costs them alone, and not the boot.
pub(super) fn ready(modules: &OfferedModules) {
    let groups = || mount("cgroup", CONTROL_GROUPS, "cgroup2", QUIET, None).context("mount the control groups");
    for done in [groups(), modules.offer()] {
        if let Err(error) = done {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::warn!(error, "containers of the agent's own may not work");
        }
    }
}
