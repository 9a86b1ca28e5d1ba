//! The namespaces of users and of the network that a container joins, made before it is.
//!
//! Both are its own root's, who is a plain user of the node: what the kernel counts for whoever has
//! made a namespace of users (inotify's instances and watches, further namespaces, waiting signals,
//! message queues, locked memory) is counted for this container alone. runc and crun would make
//! them as root, for whom all containers of the node are counted together, and one tenant could
//! use up the limit of all. gVisor's runsc joins none: its guests ask another kernel for all of it.
//!
//! They have no name on the machine. They last while a process is in them or has them open.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, getppid, kill_process, set_parent_process_death_signal,
    waitid, waitpid,
};
use rustix::thread::{
    CapabilitiesSecureBits, Gid, Uid, UnshareFlags, set_capabilities_secure_bits, set_thread_res_gid,
    set_thread_res_uid, unshare_unsafe,
};

use super::ContainerSettings;

/// A namespace of users, in which those from 0 on are the machine's from the owner on, and one of
/// the network, which belongs to it.
#[derive(Debug)]
pub(super) struct Namespaces {
    users: OwnedFd,
    network: OwnedFd,
}

impl Namespaces {
    /// It takes a process to make them, which ends here.
    pub(super) fn owned_by(first_uid: u32) -> io::Result<Self> {
        let maker = Maker::start(first_uid)?;
        let pid = maker.0.as_raw_nonzero();
        let map = format!("0 {first_uid} {}\n", ContainerSettings::USERS);
        fs::write(format!("/proc/{pid}/uid_map"), &map)?;
        fs::write(format!("/proc/{pid}/gid_map"), &map)?;
        let open = |kind| File::open(format!("/proc/{pid}/ns/{kind}")).map(OwnedFd::from);
        Ok(Self { users: open("user")?, network: open("net")? })
    }

    pub(super) const fn users(&self) -> &OwnedFd {
        &self.users
    }

    /// Where other programs of this machine find the one of users, as long as this is held.
    pub(super) fn users_path(&self) -> String {
        path(&self.users)
    }

    /// The same of the network.
    pub(super) fn network_path(&self) -> String {
        path(&self.network)
    }
}

fn path(file: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", getpid().as_raw_nonzero(), file.as_raw_fd())
}

/// A process in namespaces of its own, stopped. It ends with this, or with the thread that has made
/// it: it holds all that this program has open, its locks too.
struct Maker(Pid);

impl Maker {
    fn start(uid: u32) -> io::Result<Self> {
        let maker = Self(fork(|parent| become_maker(uid, parent))?);
        // One that has ended stays there to be waited for, so that its number is nobody else's.
        let until = WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(maker.0), until)?;
        match status.as_ref().map(|status| (status.stopped(), status.exit_status())) {
            Some((true, _)) => Ok(maker),
            Some((false, Some(why))) => Err(io::Error::from_raw_os_error(why)),
            Some((false, None)) | None => Err(io::Error::other("what makes a container's namespaces was killed")),
        }
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        // Nobody else waits for it: it is there still.
        let _ = kill_process(self.0, Signal::KILL);
        let _ = waitpid(Some(self.0), WaitOptions::empty());
    }
}

/// What is left of a program of many threads is one in which nothing is allocated or locked: the
/// child makes system calls and nothing else. It is told who its parent is.
#[expect(unsafe_code, reason = "only a process of one thread may make a namespace of users")]
fn fork(act: impl FnOnce(Pid) -> i32) -> io::Result<Pid> {
    let parent = getpid();
    // SAFETY: a fork. The child never returns.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0_usize, 0_usize, 0_usize, 0_usize) };
    if pid == 0 {
        let status = act(parent);
        // SAFETY: it ends.
        unsafe { libc::_exit(status) };
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::other("the kernel has given a process a number that is none"))
}

/// Becomes that user, makes the namespaces and stops. Why not is its exit status.
fn become_maker(uid: u32, parent: Pid) -> i32 {
    match make(uid, parent) {
        Ok(()) => Errno::INTR.raw_os_error(),
        Err(error) => error.raw_os_error(),
    }
}

#[expect(unsafe_code, reason = "nothing that this process uses is in the namespaces that it leaves")]
fn make(uid: u32, parent: Pid) -> rustix::io::Result<()> {
    // Rights are kept: some machines let nobody else make such namespaces.
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    // Who becomes another user is told of its parent's end no more, unless it asks then.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // SAFETY: of files and memory nothing is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNET) }?;
    if getppid() == Some(parent) { kill_process(getpid(), Signal::STOP) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::process::{Command, Stdio};
    use std::thread;
    use std::time::Duration;

    use needs::needs;
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::process::{PidfdFlags, pidfd_open};

    use super::*;

    /// A user of nobody's.
    const OWNER: u32 = 0x0a00_0000;

    #[test]
    #[ignore = "a child process of the test below"]
    fn the_process_that_is_killed() {
        let maker = Maker::start(OWNER).unwrap();
        writeln!(io::stdout(), "\nmaker {}", maker.0.as_raw_nonzero()).unwrap();
        thread::sleep(Duration::from_secs(60));
    }

    #[test]
    fn what_makes_a_user_namespace_ends_with_a_daemon_that_is_killed() {
        needs!(root);
        let this = std::env::current_exe().unwrap();
        let name = "drivers::container::namespaces::tests::the_process_that_is_killed";
        let mut daemon = Command::new(this)
            .args(["--exact", "--ignored", "--nocapture", name])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = io::BufRead::lines(io::BufReader::new(daemon.stdout.take().unwrap()));
        let maker = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("maker ")?.parse().ok());
        let maker = maker.and_then(Pid::from_raw).unwrap();
        let handle = pidfd_open(maker, PidfdFlags::empty()).unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        let (mut ends, limit) = ([PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)], Duration::from_secs(10));
        let ended = poll(&mut ends, Some(&limit.try_into().unwrap())).unwrap() == 1;
        if !ended {
            kill_process(maker, Signal::KILL).unwrap();
        }
        assert!(ended, "it lives on, with all that the daemon had open");
    }

    #[test]
    #[expect(unsafe_code, reason = "rustix has no call for NS_GET_OWNER_UID")]
    fn the_namespaces_belong_to_the_containers_root_and_nothing_is_left_of_their_maker() {
        const NS_GET_OWNER_UID: libc::c_ulong = 0xb704;
        needs!(root);
        let children = || {
            let mine = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
            mine.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let before = children();
        let made = Namespaces::owned_by(OWNER).unwrap();
        assert_eq!(children(), before);
        let mut owner: libc::uid_t = 0;
        // SAFETY: the kernel writes one user's number.
        let asked = unsafe { libc::ioctl(made.users.as_raw_fd(), NS_GET_OWNER_UID, &raw mut owner) };
        assert_eq!((asked, owner), (0, OWNER));
        for (kind, path) in [("user", made.users_path()), ("net", made.network_path())] {
            let (ours, theirs) = (fs::metadata(format!("/proc/self/ns/{kind}")).unwrap(), fs::metadata(path).unwrap());
            assert_ne!(ours.ino(), theirs.ino(), "{kind}");
        }
    }
}
