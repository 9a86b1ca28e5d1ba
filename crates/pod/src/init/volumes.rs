//! The guest's volumes: checked before the root is switched, where the checker is; mounted
//! when the identity says where. Only guests look into a volume: the host's kernel never does.

use std::fs::{DirEntry, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, fchown, lchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::fs::fstatvfs;
use rustix::ioctl::{Setter, ioctl, opcode};
use rustix::mount::{MountFlags, mount, mount_remount};
use rustix::process::Pid;
use wire::content::FIRST_USER;
use wire::v1::pod::{GuestVolume, VOLUME_SERIALS};

use super::disks::{EXT4, WRITABLE, disk};
use crate::api::DiskAccess;
use crate::check::CheckProgress;
use crate::files::recover_import;
use crate::process::{Exit, Reaper, User};
use crate::step::{Context as _, StepError, make_dir};
use crate::timings::BootStopwatch;

/// What checks a volume, in the initramfs, and where that has what it is made of.
const CHECKER: &str = "/sbin/e2fsck";
const CHECKER_FOLDERS: [&str; 4] = ["/sbin", "/lib", "/lib64", "/usr"];
/// How much of what a check says is told.
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
    pub(super) async fn check(reaper: &Reaper, progress: &CheckProgress, timings: &mut BootStopwatch) -> Self {
        let mut disks = Vec::new();
        for serial in VOLUME_SERIALS {
            let Some(device) = disk(serial) else { break };
            let since = std::time::Instant::now();
            // What is only read is not repaired: it was left whole by whoever wrote it.
            let checked = if is_read_only(&device) {
                Ok(())
            } else {
                progress.begin();
                let checked = check(&device, reaper, progress).await;
                progress.end();
                checked
            };
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

    /// Mounts the one disk of a helper.
    ///
    /// # Errors
    /// Why it cannot be mounted, in a sentence for its owner.
    pub(super) fn mount_for_owner(&self, at: &str) -> Result<DiskAccess, String> {
        let disk = self.disks.first().ok_or("its disk is not attached")?;
        disk.checked.clone()?;
        let said = |error| format!("{:#}", anyhow::Error::from(error));
        if is_read_only(&disk.device) {
            mount_to_read(&disk.device, at).map_err(said)?;
            return Ok(DiskAccess::ReadOnly);
        }
        let mounted = mount_file_system(&disk.device, at).and_then(|root| {
            leave_to_first_user(&root, at).context("see whether it was used")?;
            Ok(root)
        });
        self.lock().push(mounted.map_err(said)?);
        Ok(DiskAccess::Written)
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
async fn check(device: &Path, reaper: &Reaper, progress: &CheckProgress) -> Result<(), String> {
    let (pid, said) = start_check(device).map_err(|error| format!("its check could not be started ({error})"))?;
    let (exit, said) = tokio::join!(reaper.subscribe(pid), progress.clone().hear(said));
    match exit {
        Ok(Exit::Code(code)) if code & !REPAIRED == 0 => Ok(()),
        Ok(exit) => Err(format!(
            "its file system is damaged, and is left as it is ({}: {})",
            exit.ended().status,
            last_words(&said.unwrap_or_default())
        )),
        Err(_) => Err("its check was lost".to_owned()),
    }
}

/// The checker, and what it says: beside all else how far it is, in lines of their own.
fn start_check(device: &Path) -> io::Result<(Pid, OwnedFd)> {
    let (from, to) = io::pipe()?;
    let mut command = Command::new(CHECKER);
    command.args(["-p", "-C", "1"]).arg(device).env_clear().stdin(Stdio::null());
    let child = command.stdout(to.try_clone()?).stderr(to).spawn()?;
    Ok((Pid::from_child(&child), from.into()))
}

/// The end of what a check has said, in one line.
fn last_words(said: &str) -> String {
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let start = words.char_indices().rev().nth(SAID_CHARS - 1).map_or(0, |(at, _)| at);
    words[start..].to_owned()
}

fn mount_one(device: &Path, at: &str, user: &User) -> Result<File, StepError> {
    let root = mount_file_system(device, at)?;
    hand_over(&root, at, user).context("give it to the agent's user")?;
    Ok(root)
}

/// Mounts a disk that takes no writes: its journal stays as it is too.
fn mount_to_read(device: &Path, at: &str) -> Result<(), StepError> {
    make_dir(at)?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV;
    mount(device, at, "ext4", flags, Some(c"noload")).context("mount its file system")
}

fn is_read_only(device: &Path) -> bool {
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    std::fs::read_to_string(format!("/sys/block/{name}/ro")).is_ok_and(|read_only| read_only.trim() == "1")
}

fn mount_file_system(device: &Path, at: &str) -> Result<File, StepError> {
    make_dir(at)?;
    mount(device, at, "ext4", WRITABLE, EXT4).context("mount its file system")?;
    let root = File::open(at).context("open its root")?;
    if let Err(error) = fill_disk(&root, device) {
        // Its owner has less room than it was grown to, and all of its files.
        tracing::warn!(path = at, %error, "a volume that was grown could not take up its new room");
    }
    if let Err(error) = recover_import(Path::new(at)) {
        tracing::error!(path = at, %error, "an archive that was being taken in is not finished; its folder stays");
    }
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

/// Gives a volume that no agent has used yet to the agent's user, with what its owner has put on
/// it. One that was used stays whose it is.
fn hand_over(root: &File, at: &str, user: &User) -> io::Result<()> {
    if root.metadata()?.uid() == FIRST_USER {
        hand_over_entries(at, user)?;
    } else if is_used(root, at)? {
        return Ok(());
    }
    // Last, so that what was cut off is done at the next mount.
    fchown(root, Some(user.uid), Some(user.gid))
}

/// Has what is put on a volume that no agent has used yet wait for the first one's user.
fn leave_to_first_user(root: &File, at: &str) -> io::Result<()> {
    if is_used(root, at)? { Ok(()) } else { fchown(root, Some(FIRST_USER), Some(FIRST_USER)) }
}

fn is_used(root: &File, at: &str) -> io::Result<bool> {
    let is_kept = |entry: io::Result<DirEntry>| entry.is_ok_and(|entry| entry.file_name() != LOST_AND_FOUND);
    Ok(root.metadata()?.uid() != 0 || std::fs::read_dir(at)?.any(is_kept))
}

/// Gives a user what is nobody's in a folder, links themselves and not what they lead to.
fn hand_over_entries(folder: &str, user: &User) -> io::Result<()> {
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let found = entry.metadata()?;
            let taken = |id: u32, own: u32| (id == FIRST_USER).then_some(own);
            let (uid, gid) = (taken(found.uid(), user.uid), taken(found.gid(), user.gid));
            if uid.or(gid).is_some() {
                lchown(entry.path(), uid, gid)?;
            }
            if found.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(())
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
    fn what_is_put_on_a_new_volume_is_the_first_users_and_what_was_used_stays_whose_it_is() {
        needs::needs!(root);
        let dir = tempfile::tempdir().unwrap();
        let (at, root) = (dir.path().to_str().unwrap(), File::open(dir.path()).unwrap());
        let owner = |name: &str| {
            let found = dir.path().join(name).symlink_metadata().unwrap();
            (found.uid(), found.gid())
        };
        let user = |uid| User {
            uid,
            gid: uid + 1,
            groups: vec![uid + 1],
            name: None,
            home: None,
            privileges: crate::process::Privileges::Machine,
        };
        std::fs::create_dir(dir.path().join(LOST_AND_FOUND)).unwrap();
        leave_to_first_user(&root, at).unwrap();
        assert_eq!((owner("."), owner(LOST_AND_FOUND)), ((FIRST_USER, FIRST_USER), (0, 0)));
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        std::fs::write(dir.path().join("folder/file"), "x").unwrap();
        std::fs::write(dir.path().join("given"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/hosts", dir.path().join("link")).unwrap();
        for name in ["folder", "folder/file", "link"] {
            lchown(dir.path().join(name), Some(FIRST_USER), Some(FIRST_USER)).unwrap();
        }
        lchown(dir.path().join("given"), Some(7), Some(8)).unwrap();
        leave_to_first_user(&root, at).unwrap();
        hand_over(&root, at, &user(1000)).unwrap();
        for name in [".", "folder", "folder/file", "link"] {
            assert_eq!(owner(name), (1000, 1001), "{name}");
        }
        assert_eq!((owner("given"), owner(LOST_AND_FOUND)), ((7, 8), (0, 0)));
        leave_to_first_user(&root, at).unwrap();
        hand_over(&root, at, &user(2000)).unwrap();
        assert_eq!(owner("."), (1000, 1001));
        assert_eq!(std::fs::metadata("/etc/hosts").unwrap().uid(), 0);
    }

    #[test]
    fn the_kernel_is_asked_by_its_own_number() {
        // `_IOW('f', 16, __u64)`, in the kernel's `fs/ext4/ext4.h`.
        assert_eq!(RESIZE, 0x4008_6610);
    }
}
