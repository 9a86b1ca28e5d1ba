//! What a container sees as its root and its data, put together by the host.
//!
//! ```text
//! /run/palatine-containers/<node>/<id>/   the container's root may pass, and nobody else
//!   base      the image's files, read-only, their users shifted
//!   layer     its writable layer: a file system in a file
//!   root      the layer over the base
//!   data      its /data: a file system in a file, its users shifted
//!   pod, hosts, hostname, resolv.conf
//! ```
//!
//! Users are shifted by the mount (`mount_setattr`), so that one copy of an image serves all slots,
//! and `/data` has the numbers that it has in a machine, whichever slot its next run gets.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind, mount_remount, move_mount, open_tree,
    unmount,
};

use super::loops::attach;
use super::namespaces::Namespaces;
use crate::{DriverFailure, files};

/// Where all nodes have them. The paths must be passed by users who may enter no state folder.
const PLACE: &str = "/run/palatine-containers";
/// How long something may keep a mount busy that has ended.
pub(super) const BUSY: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);
/// In the order in which they can be taken down.
const POINTS: [&str; 6] = ["root", "data", "base", "disk", "pod", "layer"];
/// What is written there, and mounted over files of the container.
const TEXTS: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// `struct mount_attr` of the kernel.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// The mounts of one container.
#[derive(Clone, Debug)]
pub(super) struct Mounts(PathBuf);

/// What they are made of.
pub(super) struct Parts<'a> {
    /// The folder of the image's files.
    pub(super) base: &'a Path,
    pub(super) layer: &'a Path,
    pub(super) data: &'a Path,
    pub(super) pod: &'a Path,
    /// The user of the host who is root in it.
    pub(super) first_uid: u32,
    /// Whose users those of the image's and the data's files become.
    pub(super) namespaces: &'a Namespaces,
    /// Names and contents of [`TEXTS`].
    pub(super) texts: [(&'static str, String); 3],
}

impl Mounts {
    pub(super) fn of(node: &str, id: &str) -> Self {
        Self(Path::new(PLACE).join(node).join(id))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn place(&self) -> &Path {
        &self.0
    }

    /// What the container's first process prints. It lies on the layer, beside what the container
    /// sees of that, and so has the layer's bound.
    pub(super) fn console(&self) -> PathBuf {
        self.0.join("layer/console")
    }

    pub(super) fn up(&self, parts: &Parts<'_>) -> Result<(), DriverFailure> {
        self.down()?;
        self.folders(parts.first_uid)?;
        let users = parts.namespaces.users();
        let read_only = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
        shift(parts.base, &self.path("base"), read_only, users)?;
        durable::failpoint("container mounts", "base");
        self.layer(parts)?;
        durable::failpoint("container mounts", "layer");
        attach(parts.data, &self.path("disk"))?;
        durable::failpoint("container mounts", "disk");
        shift(&self.path("disk"), &self.path("data"), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, users)?;
        unmount(self.path("disk"), UnmountFlags::empty())?;
        let pod = self.path("pod");
        File::create(&pod)?;
        mount_bind(parts.pod, &pod)?;
        mount_remount(&pod, MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, "")?;
        for (name, text) in &parts.texts {
            fs::write(self.path(name), text)?;
            fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o644))?;
        }
        Ok(())
    }

    fn folders(&self, first_uid: u32) -> io::Result<()> {
        let passable = |path: &Path| {
            DirBuilder::new().recursive(true).mode(0o711).create(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o711))
        };
        passable(Path::new(PLACE))?;
        passable(durable::parent(&self.0))?;
        files::private_dir(&self.0)?;
        chown(&self.0, Some(0), Some(first_uid))?;
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o710))?;
        for name in ["root", "data", "base", "disk", "layer"] {
            files::private_dir(&self.path(name))?;
        }
        Ok(())
    }

    /// The layer's files have their users as the container's root has its own on the host: of one
    /// run, which keeps its slot.
    fn layer(&self, parts: &Parts<'_>) -> Result<(), DriverFailure> {
        let (layer, root) = (self.path("layer"), self.path("root"));
        attach(parts.layer, &layer)?;
        fs::set_permissions(&layer, fs::Permissions::from_mode(0o700))?;
        let (upper, work) = (layer.join("upper"), layer.join("work"));
        files::private_dir(&work)?;
        if !upper.exists() {
            files::private_dir(&upper)?;
            fs::set_permissions(&upper, fs::Permissions::from_mode(0o755))?;
            chown(&upper, Some(parts.first_uid), Some(parts.first_uid))?;
        }
        File::create(self.console())?;
        let lower = self.path("base");
        let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        let options = std::ffi::CString::new(options).map_err(io::Error::from)?;
        mount("overlay", &root, "overlay", MountFlags::NODEV | MountFlags::NOSUID, options.as_c_str())?;
        Ok(())
    }

    /// Takes down whatever is there of it.
    pub(super) fn down(&self) -> Result<(), DriverFailure> {
        for name in POINTS {
            let path = self.path(name);
            unmount_all(&path)?;
            let removed = if name == "pod" { fs::remove_file(&path) } else { fs::remove_dir(&path) };
            forgive(removed)?;
        }
        for name in TEXTS {
            files::remove(&self.path(name))?;
        }
        forgive(fs::remove_dir(&self.0))?;
        // They stay while a neighbour is in them.
        let _ = fs::remove_dir(durable::parent(&self.0));
        let _ = fs::remove_dir(PLACE);
        Ok(())
    }
}

fn forgive(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Unmounts all that is mounted on a path. What has ended may keep it busy for a moment.
fn unmount_all(path: &Path) -> Result<(), DriverFailure> {
    let until = Instant::now() + BUSY;
    loop {
        match unmount(path, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < until => thread::sleep(PAUSE),
            Err(Errno::BUSY) => return Err(DriverFailure::Taken(format!("{} is still in use", path.display()))),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Refuses to let go of disks that are mounted in other places than ours still, as where another
/// process has a copy of this host's mounts: a machine may be given them next.
pub(super) fn must_be_detached(disks: &[PathBuf], within: Duration) -> Result<(), DriverFailure> {
    let until = Instant::now() + within;
    for disk in disks {
        let disk = match fs::canonicalize(disk) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found?,
        };
        while let Some(device) = attached_to(&disk)? {
            if Instant::now() > until {
                return Err(DriverFailure::Taken(format!("{} is in use by {device} still", disk.display())));
            }
            thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// The device that a file is attached to. The kernel lets it go a moment after the last mount.
fn attached_to(disk: &Path) -> io::Result<Option<String>> {
    for device in files::names(Path::new("/sys/block"))?.into_iter().filter(|name| name.starts_with("loop")) {
        let backing = fs::read(format!("/sys/block/{device}/loop/backing_file"));
        // Of one that has none there is no such file.
        if backing.is_ok_and(|path| path.trim_ascii_end() == disk.as_os_str().as_encoded_bytes()) {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

/// Shows a folder at another place, with its users shifted.
fn shift(from: &Path, at: &Path, attributes: u64, users: &OwnedFd) -> Result<(), DriverFailure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, from, flags)?;
    set_attributes(&tree, attributes | MOUNT_ATTR_IDMAP, users).map_err(|error| {
        DriverFailure::Missing(format!(
            "the users of {} cannot be shifted ({error}): a kernel of 5.19 or later and a file system that allows it \
             are needed",
            from.display()
        ))
    })?;
    move_mount(&tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

#[expect(unsafe_code, reason = "rustix has no call for mount_setattr")]
fn set_attributes(tree: &OwnedFd, set: u64, users: &OwnedFd) -> io::Result<()> {
    let user_namespace = u64::try_from(users.as_raw_fd()).map_err(io::Error::other)?;
    let attributes = MountAttributes { set, clear: 0, propagation: 0, user_namespace };
    // SAFETY: the kernel reads the empty path and so many bytes of the structure, laid out as its own.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use needs::needs;

    use super::*;

    #[test]
    fn a_disk_that_is_mounted_elsewhere_still_is_not_let_go() {
        needs!(root);
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("data.host.ext4");
        File::create(&disk).unwrap().set_len(1 << 20).unwrap();
        let let_go = || must_be_detached(&[disk.clone(), dir.path().join("none")], Duration::from_millis(100));
        let_go().unwrap();
        let attached = Command::new("losetup").args(["--find", "--show"]).arg(&disk).output().unwrap();
        let device = String::from_utf8(attached.stdout).unwrap();
        let held = let_go();
        assert!(Command::new("losetup").args(["--detach", device.trim()]).status().unwrap().success());
        assert!(matches!(&held, Err(DriverFailure::Taken(why)) if why.contains("loop")), "{held:?}");
        must_be_detached(&[disk], BUSY).unwrap();
    }
}
