//! The guest's disks, told apart by their serials.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use rustix::mount::{MountFlags, mount, mount_remount};
use tokio::task::yield_now;
use wire::v1::pod::VOLUME_SERIALS;

use super::error::BootError;
use super::mounts::NEW_ROOT;
use crate::step::{Context as _, StepError, make_dir};
use crate::timings::BootStopwatch;

const BASE: &str = "/mnt/base";
const LAYER: &str = "/mnt/layer";
/// Where the agent's own disk is, in the guest's final tree.
pub(super) const DATA: &str = "/data";

/// Programs may change their user (`sudo`): who may is the image's to say, and the tenant's.
pub(super) const WRITABLE: MountFlags = MountFlags::NODEV.union(MountFlags::NOATIME);

/// The rest of a disk stays as it is: zeroing it in the background would fill a
/// sparse file on the node. What is deleted gives its room back there.
pub(super) const EXT4: Option<&CStr> = Some(c"noinit_itable,discard");

/// Handles on the writable disks: after the root is switched, the layer has no
/// path any more.
#[derive(Debug)]
pub(super) struct Disks {
    layer: File,
    data: File,
}

impl Disks {
    /// Makes everything read-only, the overlay before the disk under it. Only
    /// works once nothing writes any more.
    ///
    /// # Errors
    /// The first one that is still written to; the others are done all the same.
    pub(super) fn remount_read_only(&self) -> Result<(), StepError> {
        let remount =
            |path: &str| mount_remount(path, MountFlags::RDONLY, "").context(format_args!("make {path} read-only"));
        let overlay = remount("/");
        let layer = remount(&format!("/proc/self/fd/{}", self.layer.as_raw_fd()));
        let data = remount(&format!("/proc/self/fd/{}", self.data.as_raw_fd()));
        overlay.and(layer).and(data)
    }
}

/// Mounts the three disks as one tree under [`NEW_ROOT`].
pub(super) async fn assemble(timings: &mut BootStopwatch) -> Result<Disks, BootError> {
    for directory in [BASE, LAYER, NEW_ROOT] {
        make_dir(directory)?;
    }
    let read_only = MountFlags::RDONLY | MountFlags::NODEV;
    timings.time("disk.base", || attach("base", BASE, "erofs", read_only, None))?;
    yield_now().await;
    timings.time("disk.layer", || attach("layer", LAYER, "ext4", WRITABLE, EXT4))?;
    let layer = File::open(LAYER).context("open the layer disk")?;
    yield_now().await;
    timings.time("disk.overlay", overlay)?;
    yield_now().await;
    let data = format!("{NEW_ROOT}{DATA}");
    make_dir(&data)?;
    timings.time("disk.data", || attach("data", &data, "ext4", WRITABLE, EXT4))?;
    let data = File::open(&data).context("open the data disk")?;
    yield_now().await;
    Ok(Disks { layer, data })
}

/// Lays the layer over the base.
fn overlay() -> Result<(), StepError> {
    make_dir("/mnt/layer/upper")?;
    make_dir("/mnt/layer/work")?;
    let layers = c"lowerdir=/mnt/base,upperdir=/mnt/layer/upper,workdir=/mnt/layer/work";
    mount("overlay", NEW_ROOT, "overlay", WRITABLE, layers).context("lay the layer over the base")
}

/// Mounts the disk with this serial.
fn attach(
    serial: &'static str,
    at: &str,
    kind: &str,
    flags: MountFlags,
    options: Option<&CStr>,
) -> Result<(), BootError> {
    let disk = disk(serial).ok_or(BootError::NoDisk(serial))?;
    Ok(mount(disk, at, kind, flags, options).context(format_args!("mount the disk {serial:?}"))?)
}

/// The device with this serial.
pub(super) fn disk(serial: &str) -> Option<PathBuf> {
    // Three disks, and the volumes: fewer than there are letters.
    let mut devices = ('a'..='z').take(3 + VOLUME_SERIALS.len()).map(|letter| format!("vd{letter}"));
    let named = devices.find(|device| {
        std::fs::read_to_string(format!("/sys/block/{device}/serial")).is_ok_and(|found| found.trim_end() == serial)
    });
    named.map(|device| PathBuf::from("/dev").join(device))
}
