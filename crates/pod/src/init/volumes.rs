//! The guest's volumes: checked before the root is switched, where the checker is; mounted
//! when the identity says where. Only guests look into a volume: the host's kernel never does.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::fs::fstatvfs;
use rustix::ioctl::{Setter, ioctl, opcode};
use rustix::mount::{MountFlags, mount, mount_remount};
use rustix::process::Pid;
use wire::v1::pod::{GuestVolume, VOLUME_SERIALS};

use super::disks::{EXT4, WRITABLE, disk};
use crate::process::{Exit, Reaper, User};
use crate::step::{Context as _, StepError, make_dir};
use crate::timings::BootStopwatch;

/// What checks a volume, in the initramfs, and where that has what it is made of.
const CHECKER: &str = "/sbin/e2fsck";
const CHECKER_FOLDERS: [&str; 4] = ["/sbin", "/lib", "/lib64", "/usr"];
/// What a check says is kept here, in memory, until it is read.
const SAID: &str = "/mnt/e2fsck.said";
/// How much of that is told.
const SAID_CHARS: usize = 160;
/// The highest code of a check after which a volume is whole: it was, or it was repaired.
const REPAIRED: i32 = 1 | 2;
/// `EXT4_IOC_RESIZE_FS`, which takes the new number of blocks.
const RESIZE: rustix::ioctl::Opcode = opcode::write::<u64>(b'f', 16);
const SECTOR: u64 = 512;
/// The one folder of an empty file system.
const LOST_AND_FOUND: &str = "lost+found";

/// A volume's disk, and what its check says against mounting it.
#[derive(Debug)]
struct VolumeDisk {
    device: PathBuf,
    checked: Result<(), String>,
}

/// The volumes of this guest, in the order of their serials.
#[derive(Debug)]
pub(super) struct VolumeDisks {
    disks: Vec<VolumeDisk>,
    /// Handles on those that are mounted, to make them read-only at the end.
    mounted: Mutex<Vec<File>>,
}

impl VolumeDisks {
    /// Finds the volumes and checks each, repairing what can be repaired without a loss.
    pub(super) async fn check(reaper: &Reaper, timings: &mut BootStopwatch) -> Self {
        let mut disks = Vec::new();
        for serial in VOLUME_SERIALS {
            let Some(device) = disk(serial) else { break };
            let since = std::time::Instant::now();
            let checked = check(&device, reaper).await;
            timings.note("disk.volumes.check", since.elapsed());
            disks.push(VolumeDisk { device, checked });
        }
        Self { disks, mounted: Mutex::default() }
    }

    /// Mounts each volume at its path.
    ///
    /// # Errors
    /// Which one cannot be mounted, and why, in a sentence for its owner.
    pub(super) fn mount(&self, volumes: &[GuestVolume], user: &User) -> Result<(), String> {
        for (at, volume) in volumes.iter().enumerate() {
            let refused = |why: &str| format!("the volume {} cannot be mounted at {}: {why}", volume.name, volume.path);
            let disk = self.disks.get(at).ok_or_else(|| refused("its disk is not attached"))?;
            disk.checked.as_ref().map_err(|why| refused(why))?;
            let mounted = mount_one(&disk.device, volume.path.as_str(), user);
            let mounted = mounted.map_err(|error| refused(&format!("{:#}", anyhow::Error::from(error))))?;
            self.lock().push(mounted);
        }
        Ok(())
    }

    /// Makes all that are mounted read-only, so that they are whole without a check.
    ///
    /// # Errors
    /// The first one that is still written to; the others are done all the same.
    pub(super) fn remount_read_only(&self) -> Result<(), StepError> {
        let remount = |volume: &File| {
            let path = format!("/proc/self/fd/{}", volume.as_raw_fd());
            mount_remount(&path, MountFlags::RDONLY, "").context("make a volume read-only")
        };
        self.lock().iter().map(remount).fold(Ok(()), Result::and)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<File>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Frees what the checker takes of memory. Before the root is switched, when no check runs.
pub(super) fn free_checker() -> Result<(), StepError> {
    for folder in CHECKER_FOLDERS {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).context(format_args!("free {folder}"));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Has a volume checked by a process of its own, which has ended when this returns.
async fn check(device: &Path, reaper: &Reaper) -> Result<(), String> {
    let exit = match start_check(device) {
        Ok(pid) => reaper.subscribe(pid).await,
        Err(error) => return Err(format!("its check could not be started ({error})")),
    };
    match exit {
        Ok(Exit::Code(code)) if code & !REPAIRED == 0 => Ok(()),
        Ok(exit) => Err(format!(
            "its file system is damaged, and is left as it is ({}: {})",
            exit.ended().status,
            last_words(&std::fs::read_to_string(SAID).unwrap_or_default())
        )),
        Err(_) => Err("its check was lost".to_owned()),
    }
}

fn start_check(device: &Path) -> io::Result<Pid> {
    let said = OpenOptions::new().write(true).create(true).truncate(true).open(SAID)?;
    let mut command = Command::new(CHECKER);
    command.arg("-p").arg(device).env_clear().stdin(Stdio::null());
    let child = command.stdout(said.try_clone()?).stderr(said).spawn()?;
    Ok(Pid::from_child(&child))
}

/// The end of what a check has said, in one line.
fn last_words(said: &str) -> String {
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let start = words.char_indices().rev().nth(SAID_CHARS - 1).map_or(0, |(at, _)| at);
    words[start..].to_owned()
}

fn mount_one(device: &Path, at: &str, user: &User) -> Result<File, StepError> {
    make_dir(at)?;
    mount(device, at, "ext4", WRITABLE, EXT4).context("mount its file system")?;
    let root = File::open(at).context("open its root")?;
    if let Err(error) = fill_disk(&root, device) {
        // Its owner has less room than it was grown to, and all of its files.
        tracing::warn!(path = at, %error, "a volume that was grown could not take up its new room");
    }
    hand_over(&root, at, user).context("give it to the agent's user")?;
    Ok(root)
}

/// Has a file system take up all of its disk, which may have grown.
#[expect(unsafe_code, reason = "an ioctl: the opcode takes exactly this number, and only reads it")]
fn fill_disk(root: &File, device: &Path) -> io::Result<()> {
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    let sectors = std::fs::read_to_string(format!("/sys/block/{name}/size"))?;
    let sectors: u64 = sectors.trim().parse().map_err(io::Error::other)?;
    let block = fstatvfs(root)?.f_bsize;
    let blocks = sectors.saturating_mul(SECTOR).checked_div(block).unwrap_or_default();
    // SAFETY: EXT4_IOC_RESIZE_FS reads a `__u64`, which this is.
    unsafe { ioctl(root.as_fd(), Setter::<RESIZE, u64>::new(blocks)) }?;
    Ok(())
}

/// Gives a volume that nobody has used yet to the agent's user. One that was used stays whose
/// it is.
fn hand_over(root: &File, at: &str, user: &User) -> io::Result<()> {
    let is_used = root.metadata()?.uid() != 0
        || std::fs::read_dir(at)?.any(|entry| entry.is_ok_and(|entry| entry.file_name() != LOST_AND_FOUND));
    if is_used {
        return Ok(());
    }
    fchown(root, Some(user.uid), Some(user.gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_check_says_last_is_one_short_line() {
        assert_eq!(last_words(""), "");
        assert_eq!(
            last_words("/dev/vdd: UNEXPECTED\n\tINCONSISTENCY; RUN fsck MANUALLY.\n"),
            "/dev/vdd: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY."
        );
        let long = format!("{}é{}", "x".repeat(500), "y".repeat(SAID_CHARS - 1));
        assert_eq!(last_words(&long).chars().count(), SAID_CHARS);
    }

    #[test]
    fn the_kernel_is_asked_by_its_own_number() {
        // `_IOW('f', 16, __u64)`, in the kernel's `fs/ext4/ext4.h`.
        assert_eq!(RESIZE, 0x4008_6610);
    }
}
