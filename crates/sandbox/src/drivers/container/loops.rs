//! File systems in files of this host, mounted.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use crate::DriverFailure;

const CONTROL: &str = "/dev/loop-control";
/// How often a device that was free is had by another program first, at most.
const TRIES: usize = 64;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
/// The device lets its file go after the last mount.
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const NAME_BYTES: usize = 64;

/// `struct loop_config` of the kernel, its `struct loop_info64` within.
#[repr(C)]
struct LoopConfig {
    file: u32,
    block_bytes: u32,
    /// Device, inode, real device, offset, size limit.
    numbers: [u64; 5],
    /// Number, and kind and length of a key.
    more: [u32; 3],
    flags: u32,
    name: [u8; NAME_BYTES],
    cipher: [u8; NAME_BYTES],
    key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// On the first fault of the disk below nothing more is written.
const OPTIONS: &std::ffi::CStr = c"discard,noinit_itable,errors=remount-ro";

/// Mounts a file system that this host has made and no machine was ever given.
pub(super) fn attach(disk: &Path, at: &Path) -> Result<(), DriverFailure> {
    let file = OpenOptions::new().read(true).write(true).open(disk)?;
    let (device, _held) = device_of(&file, disk)?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    mount(&device, at, "ext4", flags, OPTIONS).map_err(|error| DriverFailure::Command {
        program: "mount",
        said: format!("{} on {}: {error}", disk.display(), at.display()),
    })
}

/// A device that is this file: it stays so while it is open, or mounted.
fn device_of(file: &File, path: &Path) -> io::Result<(String, File)> {
    let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
    for _ in 0..TRIES {
        let device = format!("/dev/loop{}", free(&control)?);
        let held = OpenOptions::new().read(true).write(true).open(&device)?;
        match configure(&held, file, path) {
            Ok(()) => return Ok((device, held)),
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "every loop device that is free is taken by another program"))
}

#[expect(unsafe_code, reason = "rustix has no call for the control of loop devices")]
fn free(control: &File) -> io::Result<i32> {
    // SAFETY: it takes nothing, and answers with a number.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    if number < 0 { Err(io::Error::last_os_error()) } else { Ok(number) }
}

#[expect(unsafe_code, reason = "rustix has no call for loop devices")]
fn configure(device: &File, file: &File, path: &Path) -> io::Result<()> {
    // For people: the kernel itself knows the file.
    let mut name = [0; NAME_BYTES];
    for (to, from) in name.iter_mut().take(NAME_BYTES - 1).zip(path.as_os_str().as_encoded_bytes()) {
        *to = *from;
    }
    let config = LoopConfig {
        file: u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?,
        block_bytes: 0,
        numbers: [0; 5],
        more: [0; 3],
        flags: LO_FLAGS_AUTOCLEAR,
        name,
        cipher: [0; NAME_BYTES],
        key: [0; 32],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads one structure, laid out as its own.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use needs::needs;
    use rustix::mount::{UnmountFlags, unmount};

    use super::*;
    use crate::disk;

    #[test]
    fn what_is_written_is_in_the_file_and_nothing_holds_it_when_it_is_unmounted() {
        needs!(root);
        assert_eq!(size_of::<LoopConfig>(), 304, "as the kernel's");
        let dir = tempfile::tempdir().unwrap();
        let disk = disk::template(dir.path(), 32).unwrap();
        let at = dir.path().join("at");
        fs::create_dir(&at).unwrap();
        for turn in 0..2 {
            attach(&disk, &at).unwrap();
            assert_eq!(at.join("kept").exists(), turn > 0);
            fs::write(at.join("kept"), "a word").unwrap();
            unmount(&at, UnmountFlags::empty()).unwrap();
            super::super::mounts::must_be_detached(std::slice::from_ref(&disk), super::super::mounts::BUSY).unwrap();
        }
        fs::write(&disk, "no file system").unwrap();
        let error = attach(&disk, &at).unwrap_err().to_string();
        assert!(error.contains(&disk.display().to_string()), "{error}");
    }
}
