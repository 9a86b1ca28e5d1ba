//! What a new process does between the fork and the VMM.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, setsid, umask};
use rustix::thread::{
    CapabilitiesSecureBits, Gid, LinkNameSpaceType, Uid, UnshareFlags, move_into_link_name_space,
    set_capabilities_secure_bits, set_no_new_privs, set_thread_gid, set_thread_groups, set_thread_uid, unshare_unsafe,
};
use seccompiler::{BpfProgram, apply_filter};

use super::Jail;

const STDERR: RawFd = 2;

/// The way in. Made before the fork: afterwards there is only time for system calls.
pub(in crate::drivers::qemu) struct JailEntry {
    pub(in crate::drivers::qemu) cgroup: Vec<RawFd>,
    pub(in crate::drivers::qemu) files: Vec<RawFd>,
    pub(in crate::drivers::qemu) network: Option<File>,
    pub(in crate::drivers::qemu) uid: u32,
    pub(in crate::drivers::qemu) groups: Vec<Gid>,
    /// Bytes of the largest file that may be written.
    pub(in crate::drivers::qemu) file_bytes: u64,
    pub(in crate::drivers::qemu) jail: JailHandles,
    /// `<uid> <uid> 1`: the user, and the group of the same number, are themselves.
    pub(in crate::drivers::qemu) identity: String,
}

/// What a child needs of the [`Jail`].
pub(in crate::drivers::qemu) struct JailHandles {
    mounts: RawFd,
    proc: RawFd,
    landlock: Option<RawFd>,
    filter: BpfProgram,
}

impl JailHandles {
    pub(in crate::drivers::qemu) fn of(jail: &Jail) -> Self {
        Self {
            mounts: jail.mounts.as_raw_fd(),
            proc: jail.proc.as_raw_fd(),
            landlock: jail.landlock.as_ref().map(AsRawFd::as_raw_fd),
            filter: jail.filter.clone(),
        }
    }
}

impl JailEntry {
    /// Only system calls: no allocation, no locks. Each step needs a right that one of
    /// the next ones gives up.
    fn enter(&self) -> io::Result<()> {
        said("enter its cgroup", self.enter_cgroup())?;
        said("enter its network", self.enter_network())?;
        said("enter its root", self.enter_root())?;
        said("limit itself", self.limit())?;
        said("become its user", self.become_user())?;
        said("renounce new privileges", set_no_new_privs(true).map_err(Into::into))?;
        said("enter Landlock", self.enter_landlock())?;
        said("renounce system calls", self.renounce_calls())
    }

    fn enter_cgroup(&self) -> io::Result<()> {
        for file in &self.cgroup {
            rustix::io::write(borrow(*file), b"0")?;
        }
        Ok(())
    }

    fn enter_network(&self) -> io::Result<()> {
        match &self.network {
            Some(network) => Ok(move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?),
            None => Ok(()),
        }
    }

    /// Into the root that was built, and at once out of it into a copy of one's own.
    fn enter_root(&self) -> io::Result<()> {
        move_into_link_name_space(borrow(self.jail.mounts), Some(LinkNameSpaceType::Mount))?;
        unshare(UnshareFlags::NEWNS | UnshareFlags::NEWIPC)
    }

    fn limit(&self) -> io::Result<()> {
        setsid()?;
        umask(Mode::from_raw_mode(0o077));
        for (resource, most) in [(Resource::Core, 0), (Resource::Fsize, self.file_bytes)] {
            setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
        }
        for file in &self.files {
            fcntl_setfd(borrow(*file), FdFlags::empty())?;
        }
        Ok(())
    }

    /// The capabilities are kept until the new namespace is made, in which they are
    /// worth nothing: where that is forbidden to plain users it is not to us.
    fn become_user(&self) -> io::Result<()> {
        set_thread_groups(&self.groups)?;
        set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
        set_thread_gid(Gid::from_raw(self.uid))?;
        set_thread_uid(Uid::from_raw(self.uid))?;
        // Whose files in /proc are its own again.
        set_dumpable_behavior(DumpableBehavior::Dumpable)?;
        unshare(UnshareFlags::NEWUSER)?;
        self.tell("self/setgroups", b"deny")?;
        self.tell("self/gid_map", self.identity.as_bytes())?;
        self.tell("self/uid_map", self.identity.as_bytes())
    }

    fn tell(&self, file: &'static str, what: &[u8]) -> io::Result<()> {
        let file = openat(borrow(self.jail.proc), file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, what)?;
        Ok(())
    }

    #[expect(unsafe_code, reason = "the crate's own call takes the rules, which every VMM needs again")]
    fn enter_landlock(&self) -> io::Result<()> {
        let Some(rules) = self.jail.landlock else { return Ok(()) };
        // SAFETY: the call reads two integers; the file is open in the parent.
        let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules, 0) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn renounce_calls(&self) -> io::Result<()> {
        apply_filter(&self.jail.filter).map_err(|error| match error {
            seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
            _ => io::ErrorKind::Other.into(),
        })
    }
}

/// Says on the VMM's standard error which step failed: an error number alone tells
/// nobody what the machine lacks.
fn said(step: &'static str, done: io::Result<()>) -> io::Result<()> {
    if done.is_err() {
        let _ = rustix::io::write(borrow(STDERR), b"it could not ");
        let _ = rustix::io::write(borrow(STDERR), step.as_bytes());
    }
    done
}

#[expect(unsafe_code, reason = "unsharing files could surprise other code; these namespaces surprise nobody")]
fn unshare(what: UnshareFlags) -> io::Result<()> {
    // SAFETY: touches no file descriptor, in a process that has one thread.
    Ok(unsafe { unshare_unsafe(what) }?)
}

#[expect(unsafe_code, reason = "the files live in the parent until the child has replaced itself")]
fn borrow(file: RawFd) -> BorrowedFd<'static> {
    // SAFETY: used only in `enter`, on numbers of files that the parent keeps open past `spawn`.
    unsafe { BorrowedFd::borrow_raw(file) }
}

/// Has a program begin with the way in.
#[expect(unsafe_code, reason = "a child cannot be moved into namespaces, a session and a cgroup from outside")]
pub(in crate::drivers::qemu) fn before_exec(command: &mut Command, entry: JailEntry) {
    // SAFETY: `enter` makes system calls only, on memory that was allocated before the fork.
    unsafe { command.pre_exec(move || entry.enter()) };
}
